package selector

import (
	"fmt"
	"slices"
	"strings"

	"flowcut/conntrack"
)

// Set is a list of selectors of which any may match: the flows of all of them.
// It is made by [NewSet]; one with none matches nothing.
//
// Nothing changes it, and any number of goroutines may use it at once.
type Set struct {
	list   []Selector
	merged []Selector
	index  *index // of list; nil where a loop is as fast
}

// few is the number of selectors up to which no index is needed.
const few = 4

// NewSet returns the set of the selectors in a list, which it keeps: nothing
// may change the list afterwards.
func NewSet(list []Selector) *Set {
	s := &Set{list: list, merged: merge(list)}
	if len(list) > few {
		s.index = newIndex(list)
	}
	return s
}

// Len returns how many selectors the set was made of.
func (s *Set) Len() int { return len(s.list) }

// List returns the selectors that the set was made of. They must not be changed.
func (s *Set) List() []Selector { return s.list }

// Merged returns few selectors that together mean the same flows; the caller
// must not change them. Those that differ in one condition alone have become
// one with all of their items. What matches nothing is left out, unless all is
// so: then there is one.
func (s *Set) Merged() []Selector { return s.merged }

// Match reports whether any selector means a flow. It does not allocate.
func (s *Set) Match(f *conntrack.Flow) bool {
	if s.index == nil || len(s.merged) <= few {
		for i := range s.merged {
			if s.merged[i].Match(f) {
				return true
			}
		}
		return false
	}
	found := false
	s.index.each(f, func(int) bool {
		found = true
		return false
	})
	return found
}

// Each calls yield with the place in the list of each selector that means a
// flow, in any order. It does not allocate, and finds those that ask for an
// address, a port or an id without a look at the others.
func (s *Set) Each(f *conntrack.Flow, yield func(i int)) {
	if s.index == nil {
		for i := range s.list {
			if s.list[i].Match(f) {
				yield(i)
			}
		}
		return
	}
	s.index.each(f, func(i int) bool {
		yield(i)
		return true
	})
}

// Families returns the families that a matching flow can be of, IPv4 first;
// none when the set can match nothing.
func (s *Set) Families() []conntrack.Family {
	var out []conntrack.Family
	for _, fam := range []conntrack.Family{conntrack.FamilyIPv4, conntrack.FamilyIPv6} {
		if slices.ContainsFunc(s.merged, func(m Selector) bool { return m.admits(fam) }) {
			out = append(out, fam)
		}
	}
	return out
}

// Empty reports whether the set is certain to match no flow at all.
func (s *Set) Empty() bool { return len(s.Families()) == 0 }

// Mirror returns the set of the mirrors, in the order of the list, see
// [Selector.Mirror].
func (s *Set) Mirror() *Set {
	list := make([]Selector, len(s.list))
	for i := range s.list {
		list[i] = s.list[i].Mirror()
	}
	return NewSet(list)
}

// Narrow returns filters for dumps. Each flow that matches passes at least one
// of them, and may pass several; what the dumps yield must still be matched.
// There are no more than four, and one at least.
func (s *Set) Narrow() []conntrack.Filter {
	var out []conntrack.Filter
	for i := range s.merged {
		x := s.merged[i].Narrow()
		if slices.ContainsFunc(out, func(y conntrack.Filter) bool { return inCommon(x, y) == y }) {
			continue // passes no flow that y does not
		}
		out = append(slices.DeleteFunc(out, func(y conntrack.Filter) bool { return inCommon(x, y) == x }), x)
		if len(out) > few {
			break
		}
	}
	switch {
	case len(out) == 0:
		return []conntrack.Filter{{}}
	case len(out) <= few:
		return out
	}
	x := s.merged[0].Narrow()
	for i := range s.merged {
		x = inCommon(x, s.merged[i].Narrow())
	}
	return []conntrack.Filter{x}
}

// inCommon returns the narrowest filter that passes what either one does.
func inCommon(x, y conntrack.Filter) conntrack.Filter {
	var out conntrack.Filter
	if x.Family == y.Family {
		out.Family = x.Family
	}
	out.Orig, out.OrigFields = fieldsInCommon(&x.Orig, &y.Orig, x.OrigFields&y.OrigFields)
	out.Reply, out.ReplyFields = fieldsInCommon(&x.Reply, &y.Reply, x.ReplyFields&y.ReplyFields)
	out.MarkMask = x.MarkMask & y.MarkMask &^ (x.Mark ^ y.Mark)
	out.Mark = x.Mark & out.MarkMask
	out.StatusMask = x.StatusMask & y.StatusMask &^ (x.Status ^ y.Status)
	out.Status = x.Status & out.StatusMask
	if x.ByZone && y.ByZone && x.Zone == y.Zone {
		out.Zone, out.ByZone = x.Zone, true
	}
	return out
}

// fieldsInCommon returns those of the fields that are equal in two tuples.
// They are the ones that Narrow sets.
func fieldsInCommon(a, b *conntrack.Tuple, fields conntrack.TupleFields) (t conntrack.Tuple, equal conntrack.TupleFields) {
	if fields&conntrack.FieldSrc != 0 && a.Src == b.Src {
		t.Src, equal = a.Src, equal|conntrack.FieldSrc
	}
	if fields&conntrack.FieldDst != 0 && a.Dst == b.Dst {
		t.Dst, equal = a.Dst, equal|conntrack.FieldDst
	}
	if fields&conntrack.FieldProto != 0 && a.Proto == b.Proto {
		t.Proto, equal = a.Proto, equal|conntrack.FieldProto
	}
	if fields&conntrack.FieldSrcPort != 0 && a.SrcPort == b.SrcPort {
		t.SrcPort, equal = a.SrcPort, equal|conntrack.FieldSrcPort
	}
	if fields&conntrack.FieldDstPort != 0 && a.DstPort == b.DstPort {
		t.DstPort, equal = a.DstPort, equal|conntrack.FieldDstPort
	}
	return t, equal
}

// String returns what the merged selectors are, with " or " between them.
func (s *Set) String() string { return s.join(0, Selector.String) }

// Brief returns String cut short, for people to read.
func (s *Set) Brief() string { return s.join(few, Selector.Brief) }

// join writes at most limit of the merged selectors, all if 0.
func (s *Set) join(limit int, format func(Selector) string) string {
	all := s.merged
	if limit == 0 || len(all) <= limit {
		return strings.Join(stringsOf(all, format), " or ")
	}
	return fmt.Sprintf("%s or ...(%d)", strings.Join(stringsOf(all[:limit], format), " or "), len(all))
}
