package selector

import (
	"slices"

	"flowcut/conntrack"
)

// scope tells what a condition does to the flows it is asked about.
type scope uint8

const (
	scopeAll  scope = iota // all of them pass
	scopeSome              // some may pass
	scopeNone              // none can pass
)

// negate returns the scope of the negated condition.
func (sc scope) negate(negated bool) scope {
	if negated && sc != scopeSome {
		return scopeNone - sc
	}
	return sc
}

// Families returns the families that a matching flow can be of, IPv4 first;
// none when the selector can match nothing.
func (s Selector) Families() []conntrack.Family {
	var out []conntrack.Family
	for _, fam := range []conntrack.Family{conntrack.FamilyIPv4, conntrack.FamilyIPv6} {
		if s.admits(fam) {
			out = append(out, fam)
		}
	}
	return out
}

// Empty reports whether the selector is certain to match no flow at all, as
// one is whose addresses come from an empty file.
func (s Selector) Empty() bool { return len(s.Families()) == 0 }

// admits reports whether a flow of a family can match.
func (s *Selector) admits(fam conntrack.Family) bool {
	if s.Family != conntrack.FamilyBoth && s.Family != fam {
		return false
	}
	for _, l := range s.addrs() {
		if l.list.scopeOf(fam) == scopeNone {
			return false
		}
	}
	for _, n := range s.nats() {
		if n.nat.scopeOf(fam) == scopeNone {
			return false
		}
	}
	return s.Proto.any(s.admitsProto) && s.Mark.scope() != scopeNone && s.admitsEntry()
}

// admitsProto reports whether a flow of a protocol can match the conditions
// that are for some protocols alone.
func (s *Selector) admitsProto(p conntrack.Proto) bool {
	for _, l := range s.ports() {
		if l.list.Set && (!p.HasPorts() || l.list.scope() == scopeNone) {
			return false
		}
	}
	return p == conntrack.ProtoTCP || !s.State.Set && s.PickedUp != Yes
}

// admitsEntry reports whether no list of what entries carry is empty.
func (s *Selector) admitsEntry() bool {
	empty := func(set, negated bool, n int) bool { return set && !negated && n == 0 }
	return !empty(s.State.Set, s.State.Negated, len(s.State.List)) &&
		!empty(s.Mark.Set, s.Mark.Negated, len(s.Mark.List)) &&
		!empty(s.Zone.Set, s.Zone.Negated, len(s.Zone.List)) &&
		!empty(s.OrigZone.Set, s.OrigZone.Negated, len(s.OrigZone.List)) &&
		!empty(s.ReplyZone.Set, s.ReplyZone.Negated, len(s.ReplyZone.List)) &&
		!empty(s.ID.Set, s.ID.Negated, len(s.ID.List))
}

// Narrows reports whether the selector leaves out more than whole families and
// protocols. It is false with no condition, and with nothing but --family,
// --proto, a /0, every port, the mark 0/0 or a negated empty list: what then
// changes flows must have the user's word that all are meant.
//
// A selector that can match nothing narrows.
func (s Selector) Narrows() bool {
	fams := s.Families()
	if len(fams) == 0 {
		return true
	}
	for _, l := range s.addrs() {
		if l.list.narrows(fams) {
			return true
		}
	}
	for _, n := range s.nats() {
		if n.nat.Set {
			return true
		}
	}
	for _, l := range s.ports() {
		if l.list.scope() == scopeSome {
			return true
		}
	}
	return s.Mark.scope() == scopeSome || s.narrowsEntry()
}

// narrowsEntry reports whether a condition on what entries carry is set; a
// negated empty list is none.
func (s *Selector) narrowsEntry() bool {
	return s.Status.Set && s.Status.Bits|s.Status.Clear != 0 ||
		s.State.Set && len(s.State.List) > 0 ||
		s.Labels.Set && s.Labels.Bits != conntrack.Labels{} ||
		s.Zone.Set && len(s.Zone.List) > 0 ||
		s.OrigZone.Set && len(s.OrigZone.List) > 0 ||
		s.ReplyZone.Set && len(s.ReplyZone.List) > 0 ||
		s.ID.Set && len(s.ID.List) > 0 ||
		s.PickedUp != Any
}

// narrows reports whether the list leaves out some flows of one of the
// families. A list that admits a whole family by a /0 does not narrow.
func (l *Addrs) narrows(fams []conntrack.Family) bool {
	isSome := func(fam conntrack.Family) bool { return l.scopeOf(fam) == scopeSome }
	isAll := func(fam conntrack.Family) bool { return l.scopeOf(fam) == scopeAll }
	return l.Set && slices.ContainsFunc(fams, isSome) && (l.Negated || !slices.ContainsFunc(fams, isAll))
}
