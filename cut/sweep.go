package cut

import (
	"context"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/fence"
)

// sweep looks through the table for flows that began before the fence and
// returns those that have an entry: members, new or known, and what conntrack
// adopted on a member's tuple from either end. With bySelector it takes in
// what the selector means and was not born behind the fence.
func (c *cutting) sweep(ctx context.Context, bySelector bool) ([]*member, error) {
	candidates, err := c.candidates(ctx, bySelector)
	if err != nil {
		return nil, err
	}
	// Read behind the dump: a flow is noted before it has an entry.
	born, err := c.tuplesOf(fence.Born)
	if err != nil {
		return nil, err
	}
	seen := make(map[conntrack.Key]bool, len(candidates))
	found := candidates[:0]
	for _, m := range candidates {
		if !seen[m.key] && !born[m.key.Orig] {
			seen[m.key] = true
			found = append(found, c.known(m))
		}
	}
	return found, nil
}

// candidates returns the entries that are selected or on a member's tuple.
func (c *cutting) candidates(ctx context.Context, bySelector bool) ([]*member, error) {
	var filter conntrack.Filter
	if len(c.members.list) == 0 {
		filter = c.o.Selector.Narrow()
	}
	// Timeouts are whole seconds, rounded down.
	closing := c.closeTimeout - time.Since(c.raised).Truncate(time.Second) - 2*time.Second
	var out []*member
	for f, err := range c.ct.Dump(ctx, filter) {
		if err != nil {
			return nil, err
		}
		if c.onTuple(f) || (bySelector && c.o.Selector.Match(f)) {
			out = append(out, newMember(f, closing, c.o.Flows))
		}
	}
	return out, nil
}

// onTuple tells whether an entry is a member's, or is on the tuple of one that
// the guard keeps from coming back.
func (c *cutting) onTuple(f *conntrack.Flow) bool {
	e, ok := c.members.ends[f.Orig]
	return ok && (!e.m.free || e.m.key == f.Key())
}

// known returns the member that an entry belongs to, or makes it one. An entry
// on a member's tuple with another ID is what conntrack adopted of it.
func (c *cutting) known(m *member) *member {
	e, ok := c.members.ends[m.key.Orig]
	switch {
	case !ok:
		c.members.add(m)
		return m
	case e.m.key == m.key:
		return e.m
	}
	c.receipt.Flows.Returned++
	return m
}

// tuplesOf returns the tuples of a mark.
func (c *cutting) tuplesOf(m fence.Mark) (map[conntrack.Tuple]bool, error) {
	out := map[conntrack.Tuple]bool{}
	for n, err := range c.fence.Noted(m) {
		if err != nil {
			return nil, err
		}
		out[n.Tuple] = true
	}
	return out, nil
}
