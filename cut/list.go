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
		if err := c.walk(ctx, l, c.filtersAgain(), true); err != nil {
			return nil, err
		}
	}
	err := c.lookUp(ctx, l, bySelector)
	if errors.Is(err, conntrack.ErrMany) {
		return l, c.walk(ctx, l, all, bySelector)
	}
	return l, err
}

// listEarly looks for the first time, and deletes meanwhile what is selected.
func (c *cutting) listEarly(ctx context.Context, l *listing) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	early := c.startEarly(ctx, cancel)
	err := c.listFirst(ctx, l)
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
	return len(c.crowds) == 0 && c.facts.Exact && !c.zoned && !slices.ContainsFunc(c.set.Merged(), zoned) && !slices.ContainsFunc(c.o.Except, zoned)
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

// filtersAgain returns what has to be dumped to show that nothing is left. Under
// the coarse guard that is what the selector can mean: an entry that may wait in
// a queue for its confirmation is of such a flow. A mirror that was there before
// the fence the first walk has seen, since it stayed where it was, and no other
// has come.
func (c *cutting) filtersAgain() []conntrack.Filter {
	if c.coarse && !c.expects && !c.helped && !c.mirrors {
		return c.set.Narrow()
	}
	return c.filters()
}

var wereExpected = conntrack.Filter{Status: conntrack.StatusExpected, StatusMask: conntrack.StatusExpected}

// walk dumps what matches one of the filters, as far as the kernel compares
// that, and looks at each flow.
//
// The kernel holds a lock on all that is asked of the table until it has found
// the first flows to send, which may take it through all of the table. So the
// others begin when the first walk has got some, and go beside it, one by one.
func (c *cutting) walk(ctx context.Context, l *listing, filters []conntrack.Filter, bySelector bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	walks := apart(filters)
	got := make(chan struct{})
	done := make(chan error, 1)
	begun := sync.OnceFunc(func() { close(got) })
	first := func() {
		err := c.walkOne(ctx, l, walks[0], bySelector, begun)
		if err != nil {
			cancel(err)
		}
		begun()
		done <- err
	}
	if len(walks) == 1 {
		first()
		return <-done
	}
	go first()
	<-got
	for _, x := range walks[1:] {
		if err := c.walkOne(ctx, l, x, bySelector, func() {}); err != nil {
			cancel(err)
			return cmp.Or(context.Cause(ctx), <-done) // when both have ended
		}
	}
	return <-done
}

// walkOne is one walk; begun is called when it has got a flow.
func (c *cutting) walkOne(ctx context.Context, l *listing, filter conntrack.Filter, bySelector bool, begun func()) error {
	for f, err := range c.ct.Dump(ctx, filter) {
		if err != nil {
			return err
		}
		begun()
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
