package cut

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/fence"
)

// request is one of the selectors that are cut together, and what came of its
// flows.
type request struct {
	members  memberList
	knocking []conntrack.Tuple // still sending when the guard was lifted
	crowd    bool              // too many flows for another guard than the coarse one
	guessed  int               // flows that may be mirrors and were left alone
	receipt  Receipt
	reasons  []string
}

// wants are the places of the selectors that mean a flow; none stands for the
// only one there is.
type wants []int32

func (e end) wants() wants {
	if e.m == nil {
		return nil
	}
	return e.m.wants
}

func (q *request) because(format string, args ...any) {
	q.reasons = append(q.reasons, fmt.Sprintf(format, args...))
}

// conclude counts, lifts what stands, and judges.
func (c *cutting) conclude(ctx context.Context) (err error) {
	if !c.raised.IsZero() {
		c.lookForDetours()
		err = errors.Join(c.count(ctx), c.remaining(ctx), c.unqueue()) // the queues last, since they fill again
		c.receipt.Fence.LiftedAfterMS = c.since(time.Now())            // packets pass before Lift returns
		c.receipt.Fence.Limits = c.fence.Facts().Limits
		lift, cancel := context.WithTimeout(ctx, liftFor)
		defer cancel()
		if failed := c.fence.Lift(lift); failed != nil {
			c.receipt.Fence.LiftedAfterMS = 0
			err = errors.Join(err, failed)
		}
	}
	err = errors.Join(err, c.forget(ctx))
	if err != nil && c.ended == "" {
		c.ended = fmt.Sprintf("it could not be counted or lifted: %v", err)
	}
	c.report()
	return err
}

// liftFor is how long other programs that hold the lock of iptables are waited
// for, in the end.
const liftFor = 10 * time.Second

// report makes the receipts.
func (c *cutting) report() {
	c.divide()
	for i, q := range c.requests {
		q.tally(c.o.Flows)
		c.judge(q)
		q.receipt.Selector = c.set.List()[i].Brief()
		q.receipt.Reason = strings.Join(append(slices.Clip(c.reasons), q.reasons...), "; ")
		q.receipt.ElapsedMS = c.since(time.Now())
	}
}

// count reads what the fence has counted and noted, before it is lifted.
func (c *cutting) count(ctx context.Context) error {
	r := &c.receipt
	n, err := c.fence.Counts(ctx)
	if err != nil {
		return err
	}
	r.Fence.Packets, r.Fence.Bytes, r.Fence.LeakedPackets = n.Packets, n.Bytes, n.Leaked
	r.Flows.Refused = int(n.Refused)
	c.untracked, c.disturbed = n.Untracked, n.Disturbed
	born, err := c.born()
	if err != nil {
		return err
	}
	for key := range c.twins {
		delete(born, entryOf(key))
	}
	for _, key := range c.services.own {
		delete(born, entryOf(key))
	}
	r.Flows.Admitted = len(born)
	return errors.Join(c.countTold(), c.countKnocks(), c.countLeaked(), c.readDead(ctx), c.revive(ctx))
}

// countTold takes down which ends were told by the rules.
func (c *cutting) countTold() error {
	for _, x := range []struct {
		mark fence.Mark
		told func(*member) *[2]bool
	}{
		{fence.Reset, func(m *member) *[2]bool { return &m.reset }},
		{fence.Unreachable, func(m *member) *[2]bool { return &m.unreached }},
	} {
		for n, err := range c.fence.Noted(x.mark) {
			if err != nil {
				return err
			}
			if e, ok := c.members.newest(n.Tuple); ok {
				c.told = true
				x.told(e.m)[e.i] = true
			}
		}
	}
	return nil
}

// countKnocks takes down what was still sending.
func (c *cutting) countKnocks() error {
	for n, err := range c.fence.Noted(fence.Knocked) {
		if err != nil {
			return err
		}
		if n.Ago < max(c.o.Settle, 100*time.Millisecond) {
			c.knocking = append(c.knocking, n.Tuple)
		}
	}
	return nil
}

// countLeaked finds out when the last packet passed.
func (c *cutting) countLeaked() error {
	silent := c.raised
	if c.released.After(silent) {
		silent = c.released
		c.receipt.Fence.ReleasedAfterMS = c.since(c.released)
	}
	for n, err := range c.fence.Noted(fence.Leaked) {
		if err != nil {
			return err
		}
		if at := time.Now().Add(-n.Ago); at.After(silent) {
			silent = at
		}
	}
	c.receipt.Fence.SilentAfterMS = c.since(silent)
	return nil
}

// remaining finds out which members still have an entry, unless the last pass
// over the table has just shown that none has.
func (c *cutting) remaining(ctx context.Context) error {
	if c.checked || len(c.members.list) == 0 {
		return nil
	}
	for f, err := range c.ct.Dump(ctx, conntrack.Filter{}) {
		if err != nil {
			return err
		}
		if m := c.members.of(f.Key()); m != nil {
			m.remains = true
		}
	}
	return nil
}

// divide gives each request what is its own, and what is known of all together.
func (c *cutting) divide() {
	c.requests = make([]*request, c.set.Len())
	c.receipt.Together = len(c.requests)
	for i := range c.requests {
		c.requests[i] = &request{receipt: c.receipt, crowd: c.crowds[i]}
	}
	for _, m := range c.members.list {
		for q := range c.each(m.wants) {
			q.members = append(q.members, m)
		}
	}
	for _, t := range c.knocking {
		e, _ := c.members.newest(t)
		for q := range c.each(e.wants()) {
			q.knocking = append(q.knocking, t)
		}
	}
	for _, s := range c.suspects {
		for q := range c.each(s.wants) {
			q.receipt.Flows.Suspects++
			if s.guessed {
				q.guessed++
			}
		}
	}
	for _, f := range c.spared {
		for q := range c.each(f.wants) {
			q.receipt.Flows.Spared++
			if c.o.Flows {
				q.receipt.Flow = append(q.receipt.Flow, FlowReport{Flow: f.flow, Outcome: Spared})
			}
		}
	}
	for _, q := range c.requests {
		if c.told {
			c.countEnds(q)
		}
	}
}

// countEnds counts the ends of a request's flows that were told.
func (c *cutting) countEnds(q *request) {
	for _, m := range q.members {
		for i := range 2 {
			if e, _ := c.members.newest(m.end(i)); e != (end{m, i}) {
				continue // an earlier flow on the tuple
			}
			if m.reset[i] {
				q.receipt.Endpoints.Reset++
			}
			if m.unreached[i] {
				q.receipt.Endpoints.Unreachable++
			}
		}
	}
}

// each yields the requests of a flow.
func (c *cutting) each(w wants) iter.Seq[*request] {
	return func(yield func(*request) bool) {
		for i := range c.places(w) {
			if !yield(c.requests[i]) {
				return
			}
		}
	}
}

// places yields the places of the selectors that mean a flow.
func (c *cutting) places(w wants) iter.Seq[int] {
	return func(yield func(int) bool) {
		if c.set.Len() == 1 {
			yield(0)
			return
		}
		for _, i := range w {
			if !yield(int(i)) {
				return
			}
		}
	}
}

// tally counts the members of a request.
func (q *request) tally(flows bool) {
	r := &q.receipt
	r.Flows.Knocking = len(q.knocking)
	r.Flows.Matched = len(q.members) + r.Flows.Spared
	for _, m := range q.members {
		switch m.why {
		case mirrored:
			r.Flows.Mirrored++
		case related:
			r.Flows.Related++
		}
		switch m.outcome() {
		case Deleted:
			r.Flows.Deleted++
		case Vanished:
			r.Flows.Vanished++
		case Remaining:
			r.Flows.Remaining++
		}
		if m.offload != onHooks {
			r.Flows.Offloaded++
		}
		r.Flows.Returned += int(m.returned)
		for _, dead := range m.dead {
			if dead {
				r.Endpoints.Dead++
			} else if m.open {
				r.Endpoints.Silent++
			}
		}
		if flows {
			r.Flow = append(r.Flow, m.report())
		}
	}
}
