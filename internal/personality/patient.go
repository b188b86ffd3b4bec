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
	return within(p.ctx, 0, func() (int, error) { return p.read(b) })
}

func (p patient) Write(b []byte) (int, error) {
	return within(p.ctx, patience, func() (int, error) { return p.write(b) })
}

// within returns what f does, or the context's error if that ends before and
// f takes longer than grace from then on.
func within[T any](ctx context.Context, grace time.Duration, f func() (T, error)) (T, error) {
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
