package top

import (
	"slices"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/tally"
)

// Snapshot is what is known at a moment, for one view and order.
type Snapshot struct {
	View View
	Sort Sort

	Rows   []*Row      // with Flows; the first of them all
	Groups []tally.Row // else
	All    int         // how many flows or groups there are

	Matched int              // flows that the filter means
	Limits  conntrack.Limits // of all flows
	Zones   int              // zones that the flows are in

	Whole   bool          // else the first walk is under way
	Every   time.Duration // how often the whole table is walked through; 0: not yet known
	Rated   bool          // there are rates
	Counted bool          // a flow has counters
	Timed   bool          // a flow has a timestamp
	AtLeast bool          // groups were given up: their sums are "at least"
	Lost    bool          // events were lost: counts are of the last walk

	Born, Ended int // flows, in the last second
	Now         time.Time
}

// Look returns what is known now.
func (t *Table) Look(v View, s Sort) *Snapshot {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hear() // the last second may have ended in silence
	p := t.shown
	out := &Snapshot{
		View: v, Sort: s, Matched: p.matched, All: p.matched, Limits: t.limits, Zones: p.groups[tally.Zone].Len(),
		Whole: p.whole, Every: t.every, Rated: p.rated, Counted: p.counted, Timed: p.timed, Lost: t.lost,
		Born: t.heard[1].born, Ended: t.heard[1].ended, Now: t.clock(),
	}
	if v != Flows {
		g := p.groups[v.By()]
		out.All, out.AtLeast = g.Len(), g.Dropped() > 0
		out.Groups = g.Top(most, s.orderGroups)
		return out
	}
	for _, r := range p.first[s].Values() {
		if t.seen.get(r.hash) == nil {
			continue // it has ended
		}
		if f := t.fresh[r.hash]; f != nil {
			r = f
		}
		out.Rated = out.Rated || r.Rated
		out.Rows = append(out.Rows, r)
	}
	slices.SortStableFunc(out.Rows, func(a, b *Row) int { return s.order(&a, &b) })
	return out
}
