package cut

import (
	"context"
	"slices"

	"flowcut/conntrack"
	"flowcut/internal/fence"
)

// find looks for the flows to cut. Where the rules do not know the selector,
// nothing finds later what one listing of a table that changes has missed, so
// it goes on until one adds nothing, or, where new flows match all the time,
// some more have been made.
func (c *cutting) find(ctx context.Context) (found []*member, err error) {
	const listings = 4
	for range listings {
		before := len(c.members.list)
		found, err = c.sweep(ctx, true)
		if err != nil || c.receipt.Fence.Exact || len(c.members.list) == before {
			break
		}
	}
	return found, err
}

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
	born, err := c.born()
	if err != nil {
		return nil, err
	}
	seen := make(map[conntrack.Key]bool, len(candidates))
	found := candidates[:0]
	for _, m := range candidates {
		if !seen[m.key] && !born[entry{m.key.Orig, m.key.ID}] {
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
	var out []*member
	for f, err := range c.ct.Dump(ctx, filter) {
		if err != nil {
			return nil, err
		}
		// A family without a fence had no entry when the cut began.
		if !c.fence.Stands(f.Orig.Family()) {
			continue
		}
		selected := bySelector && c.o.Selector.Match(f)
		if selected && slices.Contains(c.o.Spare, f.Orig) {
			c.spare(f)
			continue
		}
		if selected || c.onTuple(f) {
			out = append(out, newMember(f, c.o.Flows))
		}
	}
	return out, nil
}

// spare takes down a selected flow that is left alone.
func (c *cutting) spare(f *conntrack.Flow) {
	if c.spared == nil {
		c.spared = map[conntrack.Key]*conntrack.Flow{}
	}
	c.spared[f.Key()] = f.Clone()
}

// onTuple tells whether an entry is a member's, or is on the tuple of one that
// the guard keeps from coming back.
func (c *cutting) onTuple(f *conntrack.Flow) bool {
	e, ok := c.members.ends[f.Orig]
	return ok && (!e.m.free || c.members.keys[f.Key()] != nil)
}

// known returns the member that an entry belongs to, or makes it one. Another
// entry on the tuple of a member that was deleted is what conntrack adopted of
// it; before the deletion it is a flow of its own, as in another zone.
func (c *cutting) known(m *member) *member {
	if old, ok := c.members.keys[m.key]; ok {
		return old
	}
	if e, ok := c.members.ends[m.key.Orig]; ok && e.m.deleted {
		c.receipt.Flows.Returned++
	} else {
		c.members.add(m)
	}
	return m
}

// entry names an entry for good.
type entry struct {
	tuple conntrack.Tuple
	id    uint32
}

// born returns the entries that the fence has admitted.
func (c *cutting) born() (map[entry]bool, error) {
	out := map[entry]bool{}
	for n, err := range c.fence.Noted(fence.Born) {
		if err != nil {
			return nil, err
		}
		out[entry{n.Tuple, n.ID}] = true
	}
	return out, nil
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
