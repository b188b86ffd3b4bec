package cli

import (
	"fmt"
	"io"
	"sync"
	"time"

	"flowcut/cut"
	"flowcut/internal/show"
)

// progress shows on a terminal what a cut is doing, once it has taken a second.
// A nil progress shows nothing.
type progress struct {
	w     io.Writer
	start time.Time
	done  chan struct{}
	wg    sync.WaitGroup

	mu  sync.Mutex
	now cut.Step
}

// newProgress returns nil when nobody looks. It starts a goroutine, which
// stop ends.
func newProgress(w io.Writer, start time.Time) *progress {
	if !terminal(w) {
		return nil
	}
	p := &progress{w: w, start: start, done: make(chan struct{})}
	p.wg.Go(p.show)
	return p
}

func (p *progress) step(s cut.Step) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = s
}

func (p *progress) show() {
	const patience, period = time.Second, 200 * time.Millisecond
	tick := time.NewTicker(period)
	defer tick.Stop()
	shown := false
	for {
		select {
		case <-p.done:
			if shown {
				fmt.Fprint(p.w, "\r\x1b[K")
			}
			return
		case now := <-tick.C:
			if taken := now.Sub(p.start); taken >= patience {
				shown = true
				p.mu.Lock()
				fmt.Fprintf(p.w, "\r\x1b[K%s: %s (%.0f s)", show.Count(p.now.Flows, "flow"), p.now.Name, taken.Seconds())
				p.mu.Unlock()
			}
		}
	}
}

func (p *progress) stop() {
	if p == nil {
		return
	}
	close(p.done)
	p.wg.Wait()
}
