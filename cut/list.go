package cut

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"flowcut/conntrack"
	"flowcut/selector"
)

// listing is what a look through the table turned up.
type listing struct {
	meant    []*member // selected, or on the tuple of a member
	mirrors  []*member // look like mirrors of what is selected
	expected []*member // begun because another flow expected them
}

// list looks where flows can be that are to be cut.
//
// All of the table is read only where nothing less will do. Otherwise the
// kernel looks for what the selector can mean, what its mirror can, and what
// was expected, and whether there is an entry on a member's tuple is asked for
// each: that takes time by what is cut, and not by what there is.
func (c *cutting) list(ctx context.Context, bySelector bool) (*listing, error) {
	l := new(listing)
	c.listings++
	all := []conntrack.Filter{{}}
	if c.listings == 1 && c.coarse {
		return l, c.listEarly(ctx, l)
	}
	if len(c.members.list) == 0 {
		return l, c.listFirst(ctx, l)
	}
	if !c.narrows() {
		return l, c.walk(ctx, l, all, bySelector)
	}
	switch few, err := c.fewTuples(ctx); {
	case err != nil:
		return nil, err
	case !few:
		return l, c.walk(ctx, l, all, bySelector)
	}
	if bySelector {
		if err := c.walk(ctx, l, c.filters(), true); err != nil {
			return nil, err
		}
	}
	err := c.lookUp(ctx, l, bySelector)
	if errors.Is(err, conntrack.ErrMany) {
		return l, c.walk(ctx, l, all, bySelector)
	}
	return l, err
}

// listEarly looks for what is selected and deletes it meanwhile. Mirrors and what
// was expected are left to the next look, which shows that nothing is left: so
// each walk through the table has a processor to itself.
func (c *cutting) listEarly(ctx context.Context, l *listing) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	early := c.startEarly(ctx, cancel)
	err := c.walk(ctx, l, c.set.Narrow(), true)
	return cmp.Or(early.stop(), err)
}

// listFirst looks for the first time.
func (c *cutting) listFirst(ctx context.Context, l *listing) error {
	err := c.walk(ctx, l, c.filters(), true)
	if err == nil && c.helped && !c.expects && !c.o.NoRelated {
		err = c.walk(ctx, l, []conntrack.Filter{wereExpected}, true)
	}
	return err
}

// narrows tells whether flows on members' tuples can be found by what the
// selector means, and by these tuples in the members' zones. Where there are
// zones, others can have the same tuples in others; and where the selector asks
// for what changes, or for one zone, the kernel would not show them.
func (c *cutting) narrows() bool {
	zoned := func(s selector.Selector) bool { return s.Zoned() }
	return len(c.crowds) == 0 && c.receipt.Fence.Exact && !c.zoned && !slices.ContainsFunc(c.set.Merged(), zoned) && !slices.ContainsFunc(c.o.Except, zoned)
}

// fewTuples tells whether looking up all tuples of members costs less than a
// listing of the table.
func (c *cutting) fewTuples(ctx context.Context) (bool, error) {
	const lookUp = 2 // times what an entry costs in a listing
	entries, err := c.ct.Count(ctx)
	n := 0
	for _, m := range c.members.list {
		if m.watched() {
			n += 2
		}
	}
	return lookUp*n < int(entries), err
}

// lookUp looks for entries on the tuples of members that are under the guard.
func (c *cutting) lookUp(ctx context.Context, l *listing, bySelector bool) error {
	const piece = 1 << 14 // lists of tuples take room
	var ask []conntrack.Lookup
	flush := func() error {
		err := c.ct.GetAll(ctx, ask, func(_ int, f *conntrack.Flow) { c.look(l, f, bySelector) })
		ask = ask[:0]
		return err
	}
	for _, m := range c.members.list {
		if !m.watched() {
			continue
		}
		ask = append(ask, conntrack.Lookup{Tuple: m.key.Orig}, conntrack.Lookup{Tuple: m.reply}) // no zones, see narrows
		if len(ask) >= piece {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// filters returns what has to be dumped: what the selector can mean, what its
// mirror can, and what was expected. Nothing was where the kernel has counted no
// expectation, unless what expects has come from another gateway, together with
// what it has expected.
func (c *cutting) filters() []conntrack.Filter {
	out := c.set.Narrow()
	if c.mirror != nil {
		out = append(out, c.mirror.Narrow()...)
	}
	if !c.o.NoRelated && (c.expects || c.helped) {
		out = append(out, wereExpected)
	}
	return out
}

var wereExpected = conntrack.Filter{Status: conntrack.StatusExpected, StatusMask: conntrack.StatusExpected}

// walk dumps what matches one of the filters, as far as the kernel compares
// that, and looks at each flow. Walks through the table take place beside each
// other, unless one covers the other.
func (c *cutting) walk(ctx context.Context, l *listing, filters []conntrack.Filter, bySelector bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	walks := apart(filters)
	errs := make([]error, len(walks))
	var wg sync.WaitGroup
	for i := range walks {
		one := func() {
			if errs[i] = c.walkOne(ctx, l, walks[i], bySelector); errs[i] != nil {
				cancel()
			}
		}
		if i == len(walks)-1 {
			one() // no goroutine where there is but one
		} else {
			wg.Go(one)
		}
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return errors.Join(errs...)
}

func (c *cutting) walkOne(ctx context.Context, l *listing, filter conntrack.Filter, bySelector bool) error {
	for f, err := range c.ct.Dump(ctx, filter) {
		if err != nil {
			return err
		}
		c.looking.Lock()
		// A family without a fence had no entry when the cut began.
		if c.raised.IsZero() || c.fence.Stands(f.Orig.Family()) {
			c.look(l, f, bySelector)
		}
		if c.early != nil {
			c.early.offer(l)
		}
		c.looking.Unlock()
	}
	return nil
}

// apart returns what the kernel has to be asked for so that the filters are
// served: nothing that another covers.
func apart(filters []conntrack.Filter) (out []conntrack.Filter) {
	for i, x := range filters {
		filters[i] = x.Kernel()
	}
next:
	for i, x := range filters {
		for j, y := range filters {
			if i != j && y.Covers(x) && (j < i || !x.Covers(y)) {
				continue next
			}
		}
		out = append(out, x)
	}
	return out
}

// look notes a flow that may have to be cut.
func (c *cutting) look(l *listing, f *conntrack.Flow, bySelector bool) {
	c.zoned = c.zoned || f.Zone|f.OrigZone|f.ReplyZone != 0
	means := bySelector && c.set.Match(f)
	// What is on a cut tuple is no other flow, though it may look like one that
	// is spared. In another zone it is, and the rules on that tuple must know.
	if c.spares(f) && !c.onTuple(f) {
		if means {
			c.spare(f, c.set)
		}
		return
	}
	switch {
	case means:
		c.helped = c.helped || f.Has&conntrack.AttrHelper != 0
		l.meant = append(l.meant, c.newMember(f, c.set))
	case c.onTuple(f):
		m := c.newMember(f, nil)
		if e, ok := c.members.newest(f.Orig); ok {
			m.wants = e.m.wants
		}
		l.meant = append(l.meant, m)
	case !c.o.NoRelated && f.Has&conntrack.AttrMaster != 0:
		l.expected = append(l.expected, c.newMember(f, nil))
	case bySelector && c.mirror != nil && c.mirror.Match(f):
		if matches(c.exceptMirrors, f) {
			c.spare(f, c.mirror)
			return
		}
		l.mirrors = append(l.mirrors, c.newMember(f, c.mirror))
	}
}

// newMember makes a member of an entry that a set means.
func (c *cutting) newMember(f *conntrack.Flow, of *selector.Set) *member {
	m := newMember(f, c.o.Flows)
	m.wants = c.wants(f, of)
	return m
}

// wants finds out which selectors of a set mean a flow, if there are several.
func (c *cutting) wants(f *conntrack.Flow, of *selector.Set) (w wants) {
	if of != nil && of.Len() > 1 {
		of.Each(f, func(i int) { w = append(w, int32(i)) })
	}
	return w
}
