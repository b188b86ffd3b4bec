package cut

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"flowcut/internal/fence"
	"flowcut/internal/netns"
	"flowcut/selector"
)

// Cutter serves a queue of cuts, for programs that cut often. Selectors that
// gather while a cut is under way are cut together, see [RunAll]: a thousand of
// them read the table twice or so, and not a thousand times.
//
// The next cut begins when the one before has deleted its flows and waits under
// its guard, so that a selector mostly waits for a look through the table and not
// for the guards of others. But no more than eight stand at a time, since every
// packet meets each: where flows are held for long, and more come all the time,
// the ninth waits for the first.
//
// Selectors that rules can say are not cut together with those that they cannot,
// whose flows are listed before they are stopped. An error of a cut is that of all
// that are cut together.
//
// All methods may be called by any number of goroutines at once.
type Cutter struct {
	o       Options
	ns      *netns.NS // of the caller of NewCutter, nil where goroutines are there anyway
	nsError error
	ctx     context.Context
	cancel  context.CancelCauseFunc
	guards  chan struct{} // one for each cut that is under way
	running sync.WaitGroup

	mu     sync.Mutex
	queue  []waiter
	busy   bool // a cut lists or deletes
	closed bool
}

// waiter is a selector that waits.
type waiter struct {
	ctx      context.Context
	selector selector.Selector
	began    time.Time
	result   chan Result
}

// mostGuards is how many cuts may be under way at once: each has a table that
// every packet meets.
const mostGuards = 8

// ErrClosed is returned for what waited when the Cutter was closed.
var ErrClosed = errors.New("cut: the Cutter is closed")

// NewCutter returns a Cutter whose cuts have these options. Of each cut, Start
// is the moment that its selector was queued; Selector, All's absence and Max
// hold for each selector as in RunAll. Progress, unless nil, may be called by
// several goroutines at once. NetNS 0 is the namespace of the calling thread.
func NewCutter(o Options) *Cutter {
	c := &Cutter{o: o, guards: make(chan struct{}, mostGuards)}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	if o.NetNS == 0 && strays() {
		if c.ns, c.nsError = netns.Open(threadNS); c.nsError == nil {
			c.o.NetNS = c.ns.Fd()
		}
	}
	return c
}

const threadNS = "/proc/thread-self/ns/net"

// strays tells whether the calling thread is in another network namespace than
// goroutines are.
func strays() bool {
	here, err := os.Readlink(threadNS)
	if err != nil {
		return false
	}
	there := make(chan string)
	go func() {
		name, _ := os.Readlink(threadNS)
		there <- name
	}()
	return <-there != here
}

// Cut queues a selector and returns when its flows are cut, as [Run] does. When
// the context ends before its cut has begun, it is taken out of the queue; a cut
// that has begun goes on, since it may be others', too.
func (c *Cutter) Cut(ctx context.Context, s selector.Selector) (*Receipt, error) {
	select {
	case r := <-c.Queue(ctx, s):
		return r.Receipt, r.Err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Queue queues a selector and returns at once. The channel yields one result.
// The context counts as in Cut.
func (c *Cutter) Queue(ctx context.Context, s selector.Selector) <-chan Result {
	q := waiter{ctx: ctx, selector: s, began: time.Now(), result: make(chan Result, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		q.result <- Result{Err: ErrClosed}
		return q.result
	case c.nsError != nil:
		q.result <- Result{Err: c.nsError}
		return q.result
	}
	c.queue = append(c.queue, q)
	c.next()
	return q.result
}

// Close waits until all that is queued has been cut. Nothing can be queued any
// more.
func (c *Cutter) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.running.Wait()
	_ = c.ns.Close() // nothing is written to it; nil is well
}

// Abort ends all cuts that are under way, as the end of Run's context does, and
// leaves out those that are queued: their error is the cause. It waits until all
// fences are lifted.
func (c *Cutter) Abort(cause error) {
	c.cancel(cause)
	c.Close()
}

// next starts a cut of all that is queued, unless one is at its work; c.mu is held.
func (c *Cutter) next() {
	if c.busy || len(c.queue) == 0 {
		return
	}
	c.busy = true
	c.running.Go(c.work)
}

// work cuts what is queued.
func (c *Cutter) work() {
	c.guards <- struct{}{}
	defer func() { <-c.guards }()
	idle := sync.OnceFunc(c.idle)
	defer idle()
	said, unsaid := sayable(c.take())
	var listing sync.WaitGroup // cuts that list or delete
	var cuts sync.WaitGroup
	for _, list := range [][]waiter{said, unsaid} {
		if len(list) > 0 {
			listing.Add(1)
			cuts.Go(func() { c.cut(list, sync.OnceFunc(listing.Done)) })
		}
	}
	listing.Wait()
	idle()
	cuts.Wait()
}

// cut cuts what the selectors of a list mean, and says when its flows are deleted.
func (c *Cutter) cut(list []waiter, deleted func()) {
	defer deleted()
	o := c.o
	o.Start = time.Now()
	o.Progress = func(s Step) {
		if c.o.Progress != nil {
			c.o.Progress(s)
		}
		if s.Name == stepSettle {
			deleted()
		}
	}
	selectors := make([]selector.Selector, len(list))
	for i := range list {
		selectors[i] = list[i].selector
	}
	for i, r := range RunAll(c.ctx, o, selectors) {
		if r.Receipt != nil {
			r.Receipt.later(Millis(o.Start.Sub(list[i].began)))
		}
		list[i].result <- r
	}
}

// sayable parts a list into selectors that rules can say, and others.
func sayable(list []waiter) (said, unsaid []waiter) {
	for _, q := range list {
		if fence.Sayable(q.selector) {
			said = append(said, q)
		} else {
			unsaid = append(unsaid, q)
		}
	}
	return said, unsaid
}

// take empties the queue and returns those whose callers still wait.
func (c *Cutter) take() (list []waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, q := range c.queue {
		if q.ctx.Err() != nil {
			q.result <- Result{Err: context.Cause(q.ctx)}
			continue
		}
		list = append(list, q)
	}
	c.queue = nil
	return list
}

// idle lets the next cut begin.
func (c *Cutter) idle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = false
	c.next()
}
