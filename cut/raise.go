package cut

import (
	"context"
	"slices"
	"time"

	"flowcut/conntrack"
)

// raise puts the fence up for each family that has entries. A family without
// has no flow that could be meant, and its tracking may be off.
func (c *cutting) raise(ctx context.Context) error {
	if n, err := c.ct.Count(ctx); err != nil || n == 0 {
		return err
	}
	if err := c.fits(ctx); err != nil {
		return err
	}
	// To find an entry in a large table with few takes longer than all else: so
	// IPv4, which is hardly ever not tracked, is looked up when its fence is up.
	families := c.set.Families()
	first := slices.Contains(families, conntrack.FamilyIPv4)
	for _, family := range families {
		has, err := first && family == conntrack.FamilyIPv4, error(nil)
		if !has {
			has, err = c.ct.Has(ctx, family)
		}
		if err == nil && has {
			err = c.raiseFence(ctx, family)
		}
		if err != nil {
			return err
		}
		if has {
			c.raisedNow()
		}
	}
	if first {
		if err := c.raisedRightly(ctx); err != nil {
			return err
		}
	}
	if c.raised.IsZero() {
		return nil
	}
	if c.coarse = c.mayForget(); c.coarse {
		if err := c.fence.GuardCoarse(ctx); err != nil {
			return err
		}
	}
	if err := c.fence.Settle(); err != nil {
		return err
	}
	var err error
	c.waiting, err = c.queues()
	if err == nil && c.facts.Exact && !c.facts.Births {
		// A first packet among what waits would begin a flow behind the listing.
		err = c.drain(ctx)
		c.overdue = slices.Clone(c.waiting)
	}
	return err
}

// mayForget tells whether the coarse guard will do: nothing is asked of any end,
// and nothing is waited for. Where conntrack adopts nothing in mid-stream, what
// goes on without an entry would pass that guard as invalid.
func (c *cutting) mayForget() bool {
	return !c.kicks() && c.o.Settle == 0 && c.facts.Coarse && c.o.without == 0 && adopts(c.o.NetNS)
}

// raisedRightly takes the fence for IPv4 back if there is no entry that it could
// be for.
func (c *cutting) raisedRightly(ctx context.Context) error {
	has, err := c.ct.Has(ctx, conntrack.FamilyIPv4)
	if err != nil || has {
		return err
	}
	if err := c.fence.Withdraw(ctx, conntrack.FamilyIPv4); err != nil {
		return err
	}
	if !c.fence.Stands(conntrack.FamilyIPv6) {
		c.raised, c.receipt.Fence.Backend, c.receipt.Fence.RaisedAfterMS = time.Time{}, "", 0
	}
	return nil
}

func (c *cutting) raisedNow() {
	c.raised = time.Now()
	c.receipt.Fence.Backend = string(c.facts.Backend)
	c.receipt.Fence.RaisedAfterMS = c.since(c.raised)
}

func (c *cutting) since(t time.Time) Millis { return Millis(t.Sub(c.o.Start)) }
