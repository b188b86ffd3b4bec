package personality

import (
	"context"
	"time"
)

// patience is how long a write may take after a signal.
const patience = time.Second

// patientReader reads until a context ends: what blocks must not keep a signal
// from ending the program. What still blocks then is left to the end of the
// process.
type patientReader struct {
	ctx  context.Context
	read func([]byte) (int, error)
}

func (p patientReader) Read(b []byte) (int, error) {
	return Within(p.ctx, 0, func() (int, error) { return p.read(b) })
}

// patientWriter writes likewise, with one goroutine for all writes, so that a
// long list costs no more memory than a short one.
type patientWriter struct {
	ctx  context.Context
	work chan []byte
	done chan written
	lost error // why a write was left to the end of the process
}

// written is what came of a write.
type written struct {
	n   int
	err error
}

// newPatientWriter starts the goroutine, which ends with close.
func newPatientWriter(ctx context.Context, write func([]byte) (int, error)) *patientWriter {
	p := &patientWriter{ctx: ctx, work: make(chan []byte), done: make(chan written, 1)}
	go func() {
		for b := range p.work {
			n, err := write(b)
			p.done <- written{n, err}
		}
	}()
	return p
}

func (p *patientWriter) close() { close(p.work) }

func (p *patientWriter) Write(b []byte) (int, error) {
	if p.lost != nil {
		return 0, p.lost
	}
	p.work <- b
	select {
	case w := <-p.done:
		return w.n, w.err
	case <-p.ctx.Done():
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case w := <-p.done:
		return w.n, w.err
	case <-late.C:
		p.lost = context.Cause(p.ctx)
		return 0, p.lost
	}
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
