package cut

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/fence"
)

// barrier is what stops packets while a cut is made: the fence and, after it, the
// guard. What each call promises is said at [fence.Fence]; where the backends
// differ, facts tell.
type barrier interface {
	Facts() fence.Facts
	Numbers() fence.Numbers
	Stands(conntrack.Family) bool

	Raise(context.Context, conntrack.Family) error
	Withdraw(context.Context, conntrack.Family) error
	Settle() error
	Guard(ctx context.Context, tuples []conntrack.Tuple, pass ...fence.Entry) error
	SettleTuples() error
	GuardCoarse(context.Context) error
	Lower(context.Context) error
	Lift(context.Context) error
	Close() error

	Noted(fence.Mark) iter.Seq2[fence.Noted, error]
	Counts(context.Context) (fence.Counts, error)
	Queues() ([]fence.Queue, error)
	Queued() (bool, error)
}

// Backend is what the fence is made of.
type Backend = fence.Backend

// The backends. NFTables keeps all promises. IPTables is for kernels that have no
// nf_tables, or do not let us have it; what it cannot promise is in
// FenceReport.Limits.
const (
	AnyBackend Backend = "" // IPTables where nf_tables is missing, NFTables otherwise
	NFTables           = fence.NFTables
	IPTables           = fence.IPTables
)

// fenceConfig is what the fence is for.
func (c *cutting) fenceConfig() fence.Config {
	return fence.Config{
		NetNS: c.o.NetNS, Silent: c.o.Silent, Without: c.o.without,
		Selectors: c.set.Merged(), Spare: c.o.Spare, Except: c.o.Except,
		Remember: c.o.Timeout + c.o.Settle + time.Minute,
	}
}

// openFence opens what the fence is made with. It changes nothing.
func (c *cutting) openFence(backend Backend) (err error) {
	switch backend {
	case AnyBackend, NFTables:
		var f *fence.Fence
		if f, err = fence.New(c.fenceConfig()); err == nil {
			c.fence = f
		}
	case IPTables:
		var f *fence.XTables
		if f, err = fence.NewXTables(c.fenceConfig()); err == nil {
			c.fence = f
		}
	default:
		err = fmt.Errorf("cut: no fence is called %q", backend)
	}
	if err != nil {
		return err
	}
	c.facts = c.fence.Facts()
	c.receipt.Fence.Exact = c.facts.Exact
	return nil
}

// raiseFence puts the fence up for a family: by iptables, if that is left to us
// and the kernel refuses nf_tables.
func (c *cutting) raiseFence(ctx context.Context, family conntrack.Family) error {
	err := c.o.lacks
	if err == nil || c.facts.Backend != NFTables {
		err = c.fence.Raise(ctx, family)
	}
	if err == nil || c.o.Fence != AnyBackend || c.facts.Backend != NFTables || !c.raised.IsZero() || !refused(err) {
		return err
	}
	closed := c.fence.Close()
	c.fence = nil
	if err2 := errors.Join(closed, c.openFence(IPTables)); err2 != nil {
		return errors.Join(err, err2)
	}
	if err2 := c.fits(ctx); err2 != nil {
		return err2
	}
	if err2 := c.fence.Raise(ctx, family); err2 != nil {
		return errors.Join(err, err2)
	}
	return nil
}

// planBackend returns what the fence would be made of. It changes nothing.
func (c *cutting) planBackend() Backend {
	err := c.o.lacks
	if err == nil {
		err = fence.HasNFTables(c.o.NetNS)
	}
	switch {
	case c.o.Fence != AnyBackend:
		return c.o.Fence
	case err != nil:
		return IPTables
	}
	return NFTables
}

// refused tells whether an error is that the kernel has no nf_tables, or none
// for us. That we may change what the table of flows holds is known by then.
func refused(err error) bool {
	return errors.Is(err, conntrack.ErrNotSupported) || errors.Is(err, os.ErrPermission)
}

// fits counts what is meant, where the fence takes no more than so much and there
// may be more.
func (c *cutting) fits(ctx context.Context) error {
	most := c.facts.Most
	if most == 0 {
		return nil
	}
	if entries, err := c.ct.Count(ctx); err != nil || int(entries) <= most {
		return err
	}
	count := newCutting(c.o)
	count.set, count.ct, count.dry = c.set, c.ct, true
	count.prepare(ctx)
	if _, err := count.sweep(ctx, true); err != nil {
		return err
	}
	if n := len(count.members.list); n > most {
		return &TooManyError{Found: n, Max: most, Backend: c.facts.Backend}
	}
	return nil
}
