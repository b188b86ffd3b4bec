// Package top shows the flows of a gateway as they are now: sorted, grouped,
// filtered, and to be cut, on a terminal.
//
// A [Table] is what is known of the flows, in memory that hardly grows with their
// number. A walk through the kernel's table fills it; between walks events keep the
// counts right, and the rows that are looked at are asked for one by one.
package top

import (
	"context"
	"errors"
	"sync"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/tally"
	"flowcut/selector"
)

// most is how many flows of each order are kept, and how many groups are shown.
const most = 512

// mostGroups is how many groups of a kind are kept.
const mostGroups = 1 << 15

// flood is how many events in a second are too many to hear: each takes some
// microseconds.
const flood = 15_000

// Table is what is known of the flows that a filter means. All methods may be called
// at once.
type Table struct {
	clock func() time.Time
	began time.Time
	flood int // for tests: another one

	mu       sync.Mutex
	filter   selector.Selector
	seen     seen
	fresh    map[uint64]*Row // rows that were asked for since the last walk
	shown    *picture        // what is looked at
	building *picture        // by the walk under way; nil: there is none
	walk     uint32          // its number, or that of the last
	started  time.Time       // when it began
	every    time.Duration   // from the beginning of the last whole walk to its successor's
	lost     bool            // events were lost since the last whole walk began
	limits   conntrack.Limits
	heard    [2]changes // what events told of in this second, and in the last one
}

// changes counts flows that came and went.
type changes struct {
	second      int64
	born, ended int
}

// NewTable returns a table without flows. clock tells the time.
func NewTable(filter selector.Selector, clock func() time.Time) *Table {
	return &Table{clock: clock, flood: flood, began: clock(), filter: filter, shown: newPicture(), fresh: map[uint64]*Row{}}
}

// picture is what one walk finds.
type picture struct {
	groups  []*tally.Tally
	first   []*tally.Firsts[*Row] // for each Sort
	matched int
	whole   bool // the walk came to its end
	rated   bool // there are rates: it was not the first
	counted bool // a flow has counters
	timed   bool // a flow has a timestamp
}

func newPicture() *picture {
	p := &picture{}
	for _, by := range tally.All {
		p.groups = append(p.groups, tally.New(by, mostGroups))
	}
	for _, s := range Sorts {
		p.first = append(p.first, tally.NewFirsts(most, s.order))
	}
	return p
}

// add counts a flow.
func (p *picture) add(r *Row) {
	p.matched++
	for _, g := range p.groups {
		if s := g.Add(r.Flow); s != nil {
			s.Rate += r.Rate
		}
	}
}

// remove takes a flow out of the counts, and the bytes that were counted of it.
func (p *picture) remove(f *conntrack.Flow, bytes uint64) {
	p.matched = max(0, p.matched-1)
	for _, g := range p.groups {
		g.Remove(f, bytes)
	}
}

// list keeps a flow if it is one of the first.
func (p *picture) list(r *Row) {
	var kept *Row
	for _, first := range p.first {
		if !first.Wants(&r) {
			continue
		}
		if kept == nil {
			c := *r
			c.Flow = r.Flow.Clone()
			kept = &c
		}
		first.Add(kept)
	}
}

// Filter returns the filter.
func (t *Table) Filter() selector.Selector {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.filter
}

// SetFilter makes the table one of other flows. It is empty until they are read.
func (t *Table) SetFilter(s selector.Selector) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.filter = s
	t.walk++ // the walk under way is none any more
	t.shown, t.building = newPicture(), nil
	clear(t.fresh)
}

// SetLimits says how many flows there are, and may be.
func (t *Table) SetLimits(l conntrack.Limits) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.limits = l
}

// now is the table's clock in milliseconds; it wraps round after 49 days.
func (t *Table) now() uint32 { return uint32(t.clock().Sub(t.began).Milliseconds()) }

// begin begins a walk, with the number and the filter it has. expected is how many
// flows there are.
func (t *Table) begin(expected int) (walk uint32, filter selector.Selector) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.walk++
	t.building = newPicture()
	if !t.shown.whole {
		t.shown = t.building // better some of them than none
	}
	if now := t.clock(); t.started.IsZero() {
		t.started = now
	} else {
		t.every, t.started = now.Sub(t.started), now
	}
	if !t.filter.Narrows() {
		t.seen.grow(expected)
	}
	t.lost = false
	return t.walk, t.filter
}

// visit takes a flow that a walk meets. It returns false if that walk is none any more.
func (t *Table) visit(walk uint32, f *conntrack.Flow) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if walk != t.walk || t.building == nil {
		return false
	}
	const least = 500 // milliseconds, or a rate is mostly chance
	now := t.now()
	r := Row{Flow: f, hash: hashOf(f), at: now}
	p := t.seen.put(r.hash)
	if p.walk == walk|listed {
		return true // it comes twice, since the table changes
	}
	if passed := now - p.at; p.walk != 0 && passed >= least && r.bytes() >= p.bytes {
		r.Rate, r.Rated = float64(r.bytes()-p.bytes)*1000/float64(passed), true
		t.building.rated = true
	}
	if p.walk != walk { // else an event was faster, and its bytes count the next time
		t.building.add(&r)
		p.bytes, p.at = r.bytes(), now
	}
	p.walk = walk | listed
	t.building.counted = t.building.counted || f.Has&conntrack.AttrOrigCounters != 0
	t.building.timed = t.building.timed || f.Has&conntrack.AttrStart != 0
	t.building.list(&r)
	return true
}

// end ends a walk that has met all flows.
func (t *Table) end(walk uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if walk != t.walk || t.building == nil {
		return
	}
	t.building.whole = true
	t.shown, t.building = t.building, nil
	t.seen.sweep(walk)
	clear(t.fresh)
}

// born takes a flow that an event says is new.
func (t *Table) born(f *conntrack.Flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hear().born++
	if !t.filter.Match(f) {
		return
	}
	r := Row{Flow: f, hash: hashOf(f)}
	if t.seen.get(r.hash) != nil {
		return // the walk was faster
	}
	*t.seen.put(r.hash) = place{hash: r.hash, bytes: r.bytes(), at: t.now(), walk: t.walk}
	t.shown.add(&r)
	if t.building != nil && t.building != t.shown {
		t.building.add(&r)
	}
}

// ended takes a flow that an event, or a lookup, says is gone.
func (t *Table) ended(f *conntrack.Flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hear().ended++
	t.forget(f)
}

func (t *Table) forget(f *conntrack.Flow) {
	p := t.seen.get(hashOf(f))
	if p == nil {
		return
	}
	counted := p.walk&^listed == t.walk
	if t.building != nil && counted {
		t.building.remove(f, p.bytes)
	}
	if t.shown != t.building {
		t.shown.remove(f, p.bytes)
	}
	t.seen.remove(p)
}

// hear returns the counts of this second.
func (t *Table) hear() *changes {
	if now := t.clock().Unix(); now != t.heard[0].second {
		t.heard[1] = changes{}
		if now == t.heard[0].second+1 {
			t.heard[1] = t.heard[0]
		}
		t.heard[0] = changes{second: now}
	}
	return &t.heard[0]
}

// overrun notes that events were lost: counts are not right until the next walk.
func (t *Table) overrun() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost = true
}

// Refresh asks the kernel for rows that are shown: what they have carried by now, and
// whether they are still there. Needs CAP_NET_ADMIN.
func (t *Table) Refresh(ctx context.Context, c *conntrack.Client, rows []*Row) error {
	lookups := make([]conntrack.Lookup, len(rows))
	for i, r := range rows {
		lookups[i] = conntrack.Lookup{Tuple: r.Orig, Zone: r.Key().Zone}
	}
	found := make([]*conntrack.Flow, len(rows))
	err := c.GetAll(ctx, lookups, func(i int, f *conntrack.Flow) {
		if f.ID == rows[i].ID {
			found[i] = f.Clone()
		}
	})
	if errors.Is(err, conntrack.ErrMany) {
		return nil // they are read by the next walk
	}
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for i, old := range rows {
		if found[i] == nil {
			t.forget(old.Flow)
			continue
		}
		const least = 200 // milliseconds
		r := &Row{Flow: found[i], hash: old.hash, at: now}
		passed := now - old.at
		if passed < least || r.bytes() < old.bytes() {
			continue
		}
		r.Rate, r.Rated = float64(r.bytes()-old.bytes())*1000/float64(passed), true
		t.fresh[r.hash] = r
	}
	return nil
}
