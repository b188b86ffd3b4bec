package top

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/tally"
)

// View is what a row stands for: a flow, or a group of flows.
type View uint8

// Flows is the view of single flows. Behind it come the groups of [tally.All], in
// their order.
const Flows View = 0

// Views has each View, in order.
var Views = func() []View {
	out := []View{Flows}
	for _, by := range tally.All {
		out = append(out, ViewBy(by))
	}
	return out
}()

// ViewBy returns the view of groups of one kind.
func ViewBy(by tally.By) View { return View(by) + 1 }

// By returns what the groups of a view that is not [Flows] have in common.
func (v View) By() tally.By { return tally.By(v - 1) }

// String returns a name such as "flows" or "nat-target".
func (v View) String() string {
	if v == Flows {
		return "flows"
	}
	return v.By().String()
}

// ParseView reads what String returns.
func ParseView(s string) (View, error) {
	i := slices.IndexFunc(Views, func(v View) bool { return v.String() == s })
	if i < 0 {
		return 0, fmt.Errorf("unknown view, write one of %s", Names(Views))
	}
	return Views[i], nil
}

// Sort is what rows are in the order of: the greatest first.
type Sort uint8

// The orders. Count is of the flows of a group, or of the packets of a flow.
const (
	Rate Sort = iota
	Bytes
	Age
	Count
)

// Sorts has each Sort, in order.
var Sorts = []Sort{Rate, Bytes, Age, Count}

// String returns a name such as "rate".
func (s Sort) String() string { return [...]string{"rate", "bytes", "age", "count"}[s] }

// ParseSort reads what String returns.
func ParseSort(s string) (Sort, error) {
	i := slices.IndexFunc(Sorts, func(o Sort) bool { return o.String() == s })
	if i < 0 {
		return 0, fmt.Errorf("unknown order, write one of %s", Names(Sorts))
	}
	return Sorts[i], nil
}

// Names joins the words for all of them.
func Names[T fmt.Stringer](all []T) string {
	var out []string
	for _, v := range all {
		out = append(out, v.String())
	}
	return strings.Join(out, ", ")
}

// Row is a flow and how fast it is. Nothing changes it.
type Row struct {
	*conntrack.Flow
	Rate  float64 // bytes a second, of both directions
	Rated bool    // the flow has been seen twice

	hash uint64
	at   uint32 // when it was seen
}

func (r *Row) bytes() uint64   { return r.OrigCounters.Bytes + r.ReplyCounters.Bytes }
func (r *Row) packets() uint64 { return r.OrigCounters.Packets + r.ReplyCounters.Packets }

// order compares flows.
func (s Sort) order(a, b **Row) int {
	x, y := *a, *b
	c := 0
	switch s {
	case Rate:
		c = cmp.Compare(y.Rate, x.Rate)
	case Age:
		c = older(x.Start, y.Start)
	case Count:
		c = cmp.Compare(y.packets(), x.packets())
	}
	if c == 0 {
		c = cmp.Compare(y.bytes(), x.bytes())
	}
	return c
}

// orderGroups compares groups.
func (s Sort) orderGroups(a, b *tally.Row) int {
	c := 0
	switch s {
	case Rate:
		c = cmp.Compare(b.Rate, a.Rate)
	case Bytes:
		c = cmp.Compare(b.Bytes, a.Bytes)
	case Age:
		c = older(a.Oldest, b.Oldest)
	}
	if c == 0 {
		c = cmp.Compare(b.Flows, a.Flows)
	}
	return c
}

// older puts the earlier time first, and none last.
func older(a, b time.Time) int {
	switch {
	case a.IsZero() || b.IsZero():
		return cmp.Compare(b2i(a.IsZero()), b2i(b.IsZero()))
	}
	return a.Compare(b)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
