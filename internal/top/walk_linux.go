package top

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
)

// Walk walks through the kernel's table again and again until the context ends, no
// more often than every says, and so slowly that the process takes less than a
// quarter of a processor. Needs CAP_NET_ADMIN.
func (t *Table) Walk(ctx context.Context, c *conntrack.Client, every time.Duration) error {
	b := newBudget(time.Now, spent)
	for {
		began := time.Now()
		walk, err := t.walkOnce(ctx, c, b)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		restless := func() bool { return !t.isCurrent(walk) }
		for !restless() && time.Since(began) < every {
			select { // time itself is meant
			case <-ctx.Done():
				return nil
			case <-time.After(min(b.patience, every-time.Since(began))): // time itself is meant: the table is looked at from time to time
			}
		}
		if b.rest(ctx, false, restless) != nil {
			return nil
		}
	}
}

// chunk is how many flows a walk reads between two looks at the budget.
const chunk = 1024

// walkOnce does one walk, or the beginning of one that is none any more.
func (t *Table) walkOnce(ctx context.Context, c *conntrack.Client, b *budget) (walk uint32, err error) {
	limits, err := c.Limits(ctx)
	if err != nil {
		return 0, fmt.Errorf("count the flows: %w", err)
	}
	t.SetLimits(limits)
	walk, filter := t.begin(int(limits.Count))
	if filter.Empty() {
		t.end(walk)
		return walk, nil
	}
	waited := t.isWaitedFor()
	over := func() bool { return !t.isCurrent(walk) }
	b.begin()
	n := 0
	for f, err := range c.Dump(ctx, filter.Narrow()) {
		if err != nil {
			return walk, fmt.Errorf("walk through the table: %w", err)
		}
		if n++; n%chunk == 0 {
			if err := b.rest(ctx, waited, over); err != nil {
				return walk, err
			}
		}
		if filter.Match(f) && !t.visit(walk, f) {
			return walk, nil
		}
	}
	t.end(walk)
	return walk, nil
}

// isCurrent tells whether a walk is the last one, which is what the filter asks for.
func (t *Table) isCurrent(walk uint32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return walk == t.walk
}

// isWaitedFor tells whether nothing whole can be shown yet.
func (t *Table) isWaitedFor() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.shown.whole
}

// spent is what the process has taken of the processors.
func spent() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // fails for a wrong argument alone
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// eventRoom is the listener's RecvBuffer: what a flood brings in half a second.
const eventRoom = 5 << 20

// deaf is how long nothing is heard after a flood.
const deaf = 10 * time.Second

// Hear brings what events tell into the table until the context ends. In a flood of
// them it rests, and the walks alone tell what is there. Needs CAP_NET_ADMIN.
func (t *Table) Hear(ctx context.Context, c *conntrack.Client) error {
	for {
		err := t.hearSome(ctx, c)
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, errFlood) {
			return fmt.Errorf("listen to events: %w", err)
		}
		t.overrun()
		select { // time itself is meant
		case <-ctx.Done():
			return nil
		case <-time.After(deaf): // time itself is meant: a rest from too many events
		}
	}
}

var errFlood = errors.New("too many events")

// hearSome hears until the context ends or there are too many.
func (t *Table) hearSome(ctx context.Context, c *conntrack.Client) (err error) {
	l, err := c.Listen(conntrack.EventConfig{Flows: conntrack.EventNew | conntrack.EventDestroy, RecvBuffer: eventRoom})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	since, n := time.Now(), 0
	for e, err := range l.Events(ctx) {
		if err != nil {
			return err
		}
		switch e.Kind {
		case conntrack.EventNew:
			t.born(e.Flow)
		case conntrack.EventDestroy:
			t.ended(e.Flow)
		case conntrack.EventOverrun:
			t.overrun()
		}
		if n++; n%t.flood == 0 {
			if time.Since(since) < time.Second {
				return errFlood
			}
			since = time.Now()
		}
	}
	return nil
}
