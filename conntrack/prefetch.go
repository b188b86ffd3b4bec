package conntrack

import (
	"context"
	"sync/atomic"
)

const (
	// prefetchAfter is how many datagrams of an answer are received in the
	// caller's goroutine. Most answers have no more.
	prefetchAfter = 2

	// prefetchRoom is how many datagrams may wait for the caller. More at once
	// would cost a caller that stops early the time they take.
	prefetchRoom = 6
)

// prefetch receives the answer to a dump. The kernel makes the next piece of it
// while one receives, so that receiving is most of the work: a goroutine does
// it beside what the caller does with the pieces, if there are many.
type prefetch struct {
	s      *conn
	before func() error // unless nil, runs before the first datagram is received

	seen int // datagrams received without the goroutine

	free, full chan *datagrams // nil before the goroutine is started
	cur        *datagrams      // the one that is handed out
	stopped    atomic.Bool
	err        error // why the goroutine ended; read it when full is closed
}

// receive returns the next datagram, as [conn.receive] does.
func (p *prefetch) receive(ctx context.Context) ([]byte, error) {
	if p.seen == 0 && p.before != nil {
		if err := p.before(); err != nil {
			return nil, err
		}
	}
	if p.seen < prefetchAfter {
		p.seen++
		return p.s.receive(ctx)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if p.s.closed.Load() {
		return nil, ErrClosed
	}
	if p.full == nil {
		p.start()
	}
	for {
		if p.cur != nil {
			if b, err := p.cur.next(); b != nil || err != nil {
				return b, err
			}
			p.free <- p.cur
		}
		var ok bool
		if p.cur, ok = <-p.full; !ok {
			return nil, p.err
		}
	}
}

// start starts the goroutine.
func (p *prefetch) start() {
	p.free = make(chan *datagrams, prefetchRoom)
	p.full = make(chan *datagrams, prefetchRoom)
	for range prefetchRoom {
		p.free <- newDatagrams(1, recvSize)
	}
	go p.run()
}

// run receives until there is nothing more, which the kernel says for itself,
// or the caller has stopped.
func (p *prefetch) run() {
	defer close(p.full)
	for d := range p.free {
		if p.stopped.Load() {
			return
		}
		if p.err = p.s.receiveMany(d); p.err != nil {
			return
		}
		p.full <- d // there is room for all
	}
}

// stop ends the goroutine and waits for that: as long as the kernel takes for
// one datagram at most.
func (p *prefetch) stop() {
	if p.full == nil {
		return
	}
	p.stopped.Store(true)
	close(p.free)
	for range p.full { // until it is closed
	}
}
