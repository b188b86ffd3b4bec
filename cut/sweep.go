package cut

import (
	"context"
	"slices"

	"flowcut/conntrack"
	"flowcut/internal/fence"
	"flowcut/selector"
)

// find looks for the flows to cut. Where the rules do not know the selector,
// nothing finds later what one listing of a table that changes has missed, so
// it goes on until one adds nothing, or, where new flows match all the time,
// some more have been made.
func (c *cutting) find(ctx context.Context) (found []*member, err error) {
	const listings = 4
	for range listings {
		before := len(c.members.list)
		_, err = c.sweep(ctx, true)
		if err != nil || c.facts.Births || len(c.members.list) == before {
			break
		}
	}
	// All of them, also those that the last listing has not found any more:
	// others may have deleted them, and their ends live.
	found = pending(c.members.list)
	if err == nil && c.zoned && len(found) > 0 {
		_, err = c.list(ctx, false) // for twins, which the first listing passed before it knew the members
	}
	return found, err
}

// twin takes down a flow that is not meant, but has a tuple of one that is, in
// another zone. Their ends' answers cannot be told apart.
func (c *cutting) twin(f *conntrack.Flow, of conntrack.Tuple) {
	if c.twins == nil {
		c.twins = map[conntrack.Key]fence.Entry{}
	}
	c.twins[f.Key()] = fence.Entry{Orig: f.Orig, Reply: f.Reply, ID: f.ID}
	for e := range c.members.on(of) {
		e.m.shared = true
	}
}

// sweep looks through the table for flows that began before the fence and
// returns those that have an entry: members, new or known, and what conntrack
// adopted on a member's tuple from either end. With bySelector it takes in
// what the selector means, its mirrors, and what was not born behind the fence.
func (c *cutting) sweep(ctx context.Context, bySelector bool) ([]*member, error) {
	l, err := c.list(ctx, bySelector)
	if err != nil {
		return nil, err
	}
	// Read behind the dump: a flow is noted before it has an entry.
	born, err := c.born()
	if err != nil {
		return nil, err
	}
	return c.sift(ctx, l, born)
}

// sift decides which flows of a listing are cut. Of mirrors that is known when
// all is known that is selected, of expected flows when all others are.
func (c *cutting) sift(ctx context.Context, l *listing, born map[entry]bool) ([]*member, error) {
	found := c.siftMeant(l, born)
	add := func(m *member, w why) bool {
		m.why = w
		m = c.known(m)
		if m == nil {
			return false
		}
		found = append(found, m)
		return true
	}
	l.mirrors = slices.DeleteFunc(l.mirrors, func(m *member) bool { return born[m.entry()] })
	if err := c.askAbout(ctx, l.mirrors); err != nil {
		return nil, err
	}
	for _, m := range l.mirrors {
		switch {
		case c.isMirror(m):
			c.mirrors = true
			add(m, mirrored)
		default:
			c.suspect(m)
		}
	}
	// One that was expected may have begun behind the fence: its master's
	// word is older. And it may be a master itself.
	for again := true; again; {
		again = false
		for _, m := range l.expected {
			if master := c.master(m); master != nil {
				m.wants = master.wants
				again = add(m, related) || again
			}
		}
	}
	return found, nil
}

// siftMeant takes what is selected, or on the tuple of a member, out of a
// listing.
func (c *cutting) siftMeant(l *listing, born map[entry]bool) (found []*member) {
	for _, m := range l.meant {
		if born[m.entry()] {
			continue
		}
		if m = c.known(m); m != nil {
			found = append(found, m)
		}
	}
	l.meant = l.meant[:0]
	return found
}

// entry returns what names the member's entry for good.
func (m *member) entry() entry { return entryOf(m.key) }

// master returns the flow that is cut and that has expected another, nil if
// there is none.
func (c *cutting) master(m *member) *member {
	e, ok := c.members.in(*m.master, m.zone)
	if !ok || e.i != 0 {
		return nil
	}
	return e.m
}

// spares tells whether a flow is to be left alone.
func (c *cutting) spares(f *conntrack.Flow) bool {
	for _, t := range c.o.Spare {
		// Conntrack may have adopted it from either end.
		if t == f.Orig || t == f.Reply.Invert() || t == f.Reply || t == f.Orig.Invert() {
			return true
		}
	}
	return matches(c.o.Except, f)
}

// matches tells whether any of the selectors means a flow.
func matches(list []selector.Selector, f *conntrack.Flow) bool {
	for i := range list {
		if list[i].Match(f) {
			return true
		}
	}
	return false
}

// sparedFlow is a flow that is left alone.
type sparedFlow struct {
	flow  *conntrack.Flow
	wants wants
}

// spare takes down a flow that a set means and that is left alone.
func (c *cutting) spare(f *conntrack.Flow, of *selector.Set) {
	if c.spared == nil {
		c.spared = map[conntrack.Key]sparedFlow{}
	}
	c.spared[f.Key()] = sparedFlow{f.Clone(), c.wants(f, of)}
}

// onTuple tells whether an entry is a member's, or is on the tuple of one that
// the guard keeps from coming back. In another zone it is another flow.
func (c *cutting) onTuple(f *conntrack.Flow) bool {
	zone := f.Zone | f.OrigZone | f.ReplyZone
	if e, ok := c.members.in(f.Orig, zone); ok {
		if !e.m.free || e.m.crowd && f.PickedUp() {
			return true
		}
		old := c.members.of(f.Key())
		return old != nil && !old.deleted
	}
	for _, t := range [...]conntrack.Tuple{f.Orig, f.Reply} {
		if _, same := c.members.in(t, zone); !same && c.members.ends[wireOf(t)] != 0 {
			c.twin(f, t)
		}
	}
	return false
}

// known returns the member that an entry belongs to, or makes it one; nil if
// this listing has turned it up before, as it may. Another entry on the tuple of
// a member that was deleted is what conntrack adopted of it; before the deletion
// it is a flow of its own.
func (c *cutting) known(m *member) *member {
	if old := c.members.of(m.key); old != nil {
		if old.listed == c.listings {
			return nil
		}
		old.listed = c.listings
		if old.deleted { // an entry that is put back may get the old one's ID
			old.returned++
		}
		return old
	}
	if e, ok := c.members.in(m.key.Orig, m.zone); ok && e.m.deleted {
		if c.came[m.key] == c.listings {
			return nil
		}
		if c.came == nil {
			c.came = map[conntrack.Key]uint32{}
		}
		c.came[m.key] = c.listings
		e.m.returned++
		return m
	}
	m.listed = c.listings
	c.members.add(m)
	c.serves(m)
	return m
}

// entry names an entry for good.
type entry struct {
	tuple conntrack.Tuple // without its protocol
	id    uint32
}

func entryOf(k conntrack.Key) entry { return entry{fence.AnyProto(k.Orig), k.ID} }

// born returns the entries that the fence has admitted, and those of our asking.
func (c *cutting) born() (map[entry]bool, error) {
	out := map[entry]bool{}
	for _, key := range c.services.own {
		out[entryOf(key)] = true
	}
	if c.raised.IsZero() {
		return out, nil
	}
	for n, err := range c.fence.Noted(fence.Born) {
		if err != nil {
			return nil, err
		}
		out[entry{n.Tuple, n.ID}] = true
	}
	return out, nil
}

// few counts what each selector means, and has an error for those that mean
// more than may be cut. It changes nothing and asks nobody: what may be a mirror
// counts as one.
func (c *cutting) few(ctx context.Context, list []selector.Selector, results []Result) error {
	count := newCutting(c.o, list...)
	count.ct, count.dry = c.ct, true
	count.prepare(ctx)
	if _, err := count.sweep(ctx, true); err != nil {
		return err
	}
	count.report()
	for i, q := range count.requests {
		if n := len(q.members) + q.guessed; n > c.o.Max && results[i].Err == nil {
			results[i].Err = &TooManyError{Found: n, Max: c.o.Max}
		}
	}
	return nil
}
