//go:build linux

package lab

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// slow is the time to connect from which on a SYN was sent twice: the kernel
// repeats it after a second (TCP_TIMEOUT_INIT).
const slow = 900 * time.Millisecond

// Attempt is one short connection: connect, ask, hear the answer, close.
type Attempt struct {
	Start   time.Time
	Connect time.Duration // until connect returned
	Total   time.Duration // until the answer came
	Err     error         // ECONNREFUSED, ECONNRESET, context.DeadlineExceeded and so on
}

// Tally counts attempts by how they went.
type Tally struct {
	OK       int // answered
	Slow     int // of these, connected with more than one SYN
	Refused  int
	Reset    int
	TimedOut int
	Other    int
}

// Reconnects says which connections to make; To and Rate are needed.
type Reconnects struct {
	To      netip.AddrPort
	Rate    int           // new connections a second
	Timeout time.Duration // of one attempt, 0: 10 s
}

// Reconnecting is a host that makes a new connection again and again.
type Reconnecting struct {
	stop     context.CancelFunc
	started  sync.WaitGroup
	mu       sync.Mutex
	attempts []Attempt
}

// Reconnect begins to make short connections to a [Server] of the same lab,
// until Stop is called or the lab is closed.
func (h *Host) Reconnect(r Reconnects) *Reconnecting {
	if r.Timeout == 0 {
		r.Timeout = 10 * time.Second
	}
	c := &Reconnecting{}
	ctx, stop := context.WithCancel(h.lab.ctx)
	c.stop = stop
	c.started.Add(1)
	h.lab.tasks.Go(func() {
		defer c.started.Done()
		c.run(ctx, h, r)
	})
	return c
}

func (c *Reconnecting) run(ctx context.Context, h *Host, r Reconnects) {
	every := interval(r.Rate)
	tick := time.NewTicker(max(every, time.Millisecond))
	defer tick.Stop()
	begin, number := time.Now(), 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for due := int(time.Since(begin) / every); number < due; number++ {
			c.started.Add(1)
			h.lab.tasks.Go(func() {
				defer c.started.Done()
				if a := h.attempt(r); h.lab.ctx.Err() == nil {
					c.note(a)
				}
			})
		}
	}
}

// attempt makes one connection. It is not ended by Stop.
func (h *Host) attempt(r Reconnects) Attempt {
	a := Attempt{Start: time.Now()}
	ctx, cancel := context.WithTimeout(h.lab.ctx, r.Timeout)
	defer cancel()
	conn, err := h.connect(ctx, unix.SOCK_STREAM, 0, netip.AddrPort{}, r.To)
	a.Connect = time.Since(a.Start)
	if err != nil {
		a.Err = err
		return a
	}
	defer conn.Close() //nolint:errcheck // nothing was buffered
	if _, a.Err = conn.WriteContext(ctx, greeting{kind: Request}.bytes()); a.Err == nil {
		_, a.Err = conn.ReadContext(ctx, make([]byte, 1))
	}
	a.Total = time.Since(a.Start)
	return a
}

func (c *Reconnecting) note(a Attempt) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attempts = append(c.attempts, a)
}

// Stop makes no more connections and waits for those under way.
func (c *Reconnecting) Stop() {
	c.stop()
	c.started.Wait()
}

// Attempts returns the attempts that have ended so far, in that order.
func (c *Reconnecting) Attempts() []Attempt {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Attempt(nil), c.attempts...)
}

// Count sorts attempts by how they went.
func Count(attempts []Attempt) Tally {
	var t Tally
	for _, a := range attempts {
		switch {
		case a.Err == nil && a.Connect > slow:
			t.OK, t.Slow = t.OK+1, t.Slow+1
		case a.Err == nil:
			t.OK++
		case errors.Is(a.Err, unix.ECONNREFUSED):
			t.Refused++
		case errors.Is(a.Err, unix.ECONNRESET):
			t.Reset++
		case errors.Is(a.Err, context.DeadlineExceeded), errors.Is(a.Err, unix.ETIMEDOUT):
			t.TimedOut++
		default:
			t.Other++
		}
	}
	return t
}
