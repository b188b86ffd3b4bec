package cut

import (
	"context"
	"errors"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/fence"
)

// settled tells whether the cut came as far as to wait under the guard.
func (c *cutting) settled() bool { return !c.lowered.IsZero() }

// settle waits until nothing has knocked for the settle time, and what has no
// handshake has been held for long enough. That the time is up before is no
// fault: ends that still knock are counted.
func (c *cutting) settle(ctx context.Context) error {
	const poll = 25 * time.Millisecond
	if c.o.Settle == 0 && c.o.Hold == 0 {
		return nil
	}
	for {
		began := time.Now()
		left, err := c.unsettled()
		if err != nil || left <= 0 {
			return err
		}
		err = wait(ctx, min(left, max(poll, 4*time.Since(began))))
		if errors.Is(err, errTimeout) {
			c.because("--timeout ended the guard %v early", left.Round(time.Millisecond))
			c.heldShort = c.members.list.held() && c.o.Hold > 0 && time.Since(c.closed()) < c.o.Hold
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// closed is since when what has no handshake is closed.
func (c *cutting) closed() time.Time {
	if c.released.After(c.deleted) {
		return c.released
	}
	return c.deleted
}

// unsettled returns how long it takes at least until the guard may go.
func (c *cutting) unsettled() (time.Duration, error) {
	left := c.o.Settle - time.Since(c.lowered)
	held := c.members.list.held()
	if held && c.o.Hold > 0 {
		left = max(left, c.o.Hold-time.Since(c.closed()))
	}
	if left > 0 {
		return left, nil
	}
	for n, err := range c.fence.Noted(fence.Knocked) {
		if err != nil {
			return 0, err
		}
		if n.Proto == conntrack.ProtoTCP || c.o.Hold == UntilQuiet {
			left = max(left, c.o.Settle-n.Ago)
		}
	}
	return left, nil
}
