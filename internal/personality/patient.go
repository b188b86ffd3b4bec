package personality

import (
	"context"
	"time"
)

// patience is how long a write may take after a signal.
const patience = time.Second

// patient reads and writes until a context ends: what blocks must not keep a
// signal from ending the program. What still blocks then is left to the end of
// the process.
type patient struct {
	ctx   context.Context
	read  func([]byte) (int, error)
	write func([]byte) (int, error)
}

func (p patient) Read(b []byte) (int, error) {
	return Within(p.ctx, 0, func() (int, error) { return p.read(b) })
}

func (p patient) Write(b []byte) (int, error) {
	return Within(p.ctx, patience, func() (int, error) { return p.write(b) })
}

// Within returns what f does, or the context's cause if that ends before and f
// takes longer than grace from then on: reads and writes may wait for a pipe or
// a terminal where nothing comes. What f waits for is left to the end of the
// process; until then a goroutine stays with it.
func Within[T any](ctx context.Context, grace time.Duration, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
	}
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case r := <-done:
		return r.value, r.err
	case <-late.C:
		var none T
		return none, context.Cause(ctx)
	}
}
