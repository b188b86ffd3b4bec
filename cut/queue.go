package cut

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"flowcut/internal/fence"
)

// How long packets that wait in an NFQUEUE are waited for.
const (
	drainFor   = 2 * time.Second
	drainHurry = 200 * time.Millisecond // when the cut has been interrupted
)

// queues returns the queues. Where the program may not look into them, it
// returns none, and notes whether there are any when the fence has risen: what
// one holds that comes later has met the fence.
func (c *cutting) queues() ([]fence.Queue, error) {
	queues, err := c.fence.Queues()
	if !errors.Is(err, os.ErrPermission) {
		return queues, err
	}
	if !c.unseen {
		c.unseen = true
		c.blind, err = c.fence.Queued()
		return nil, err
	}
	return nil, nil
}

// drain waits until no packet is left in a queue of those that waited when the
// fence rose.
func (c *cutting) drain(ctx context.Context) error {
	until := time.Now().Add(drainFor)
	if c.requeued == nil {
		c.requeued = map[int]bool{}
	}
	for {
		now, err := c.queues()
		if err != nil {
			return err
		}
		if c.drained = drained(&c.waiting, now, c.requeued); c.drained || time.Now().After(until) {
			return nil
		}
		if err := wait(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}

// drained tells whether what waited then is gone, and forgets queues that have
// been empty. A queue that is never empty is taken to be worked off in turn,
// twice: by its place among the hooks the kernel knows where a packet goes on, and
// where ours have come before that, its verdict brings it into the queue again.
func drained(then *[]fence.Queue, now []fence.Queue, again map[int]bool) bool {
	left := (*then)[:0]
	for _, was := range *then {
		i := slices.IndexFunc(now, func(is fence.Queue) bool { return is.Num == was.Num })
		if was.Waiting == 0 || i < 0 || now[i].Waiting == 0 {
			continue
		}
		if is := now[i]; int32(is.Taken-is.Waiting-was.Taken) >= 0 {
			if again[was.Num] {
				continue
			}
			again[was.Num] = true
			was = is
		}
		left = append(left, was)
	}
	*then = left
	return len(left) == 0
}

// unqueue waits until nothing waits in any queue, since lifting the guard drops
// that, and notes how much it is if that does not come.
func (c *cutting) unqueue() error {
	if !c.facts.Unqueues {
		return nil
	}
	until := time.Now().Add(drainFor)
	if c.ended != "" {
		until = time.Now().Add(drainHurry)
	}
	for {
		queues, err := c.queues()
		if err != nil {
			return err
		}
		c.lost = 0
		for _, q := range queues {
			c.lost += int(q.Waiting)
		}
		if c.lost == 0 || time.Now().After(until) {
			return nil
		}
		_ = wait(context.Background(), time.Millisecond/2) // bounded above
	}
}
