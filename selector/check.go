package selector

import (
	"slices"

	"flowcut/conntrack"
)

// check refuses conditions that contradict each other.
func (s *Selector) check() error {
	if err := s.checkFamily(); err != nil {
		return err
	}
	return s.checkProto()
}

// checkFamily refuses addresses outside the family, and conditions that only
// flows of different families could meet.
func (s *Selector) checkFamily() error {
	var first conntrack.Family
	var firstName string
	for _, l := range s.addrLists() {
		for _, r := range l.ranges {
			if s.Family != conntrack.FamilyBoth && r.family() != s.Family {
				return &Error{Flag: l.name, Value: r.String(), Problem: "not an address of the family " + familyString(s.Family),
					Hint: "leave out --family, or the address"}
			}
		}
		fam, one := l.onlyFamily()
		switch {
		case !one:
		case first == conntrack.FamilyBoth:
			first, firstName = fam, l.name
		case fam != first:
			return &Error{Flag: l.name, Value: l.ranges[0].String(),
				Problem: "no flow can match: --" + firstName + " has addresses of the other family alone",
				Hint:    "give both addresses of one family, or run twice"}
		}
	}
	return nil
}

// addrList is the addresses of one condition, whichever kind it is.
type addrList struct {
	name    string
	negated bool
	ranges  []AddrRange
}

// onlyFamily returns the family of the list when it asks for one family alone.
func (l *addrList) onlyFamily() (conntrack.Family, bool) {
	if l.negated || len(l.ranges) == 0 {
		return conntrack.FamilyBoth, false
	}
	fam := l.ranges[0].family()
	other := func(r AddrRange) bool { return r.family() != fam }
	return fam, !slices.ContainsFunc(l.ranges, other)
}

// addrLists returns every condition that has addresses.
func (s *Selector) addrLists() []addrList {
	var out []addrList
	for _, l := range s.addrs() {
		out = append(out, addrList{l.name, l.list.Negated, l.list.Ranges})
	}
	for _, n := range s.nats() {
		l := addrList{name: n.name, negated: n.nat.Negated}
		for _, t := range n.nat.Targets {
			l.ranges = append(l.ranges, t.Addrs)
		}
		out = append(out, l)
	}
	return out
}

// checkProto refuses what the named protocols do not have.
func (s *Selector) checkProto() error {
	for _, l := range s.ports() {
		if l.list.Set {
			if err := s.Proto.needs(l.name, "ports", conntrack.Proto.HasPorts); err != nil {
				return err
			}
		}
	}
	for _, n := range s.nats() {
		if slices.ContainsFunc(n.nat.Targets, func(t NATTarget) bool { return t.Port != 0 }) {
			if err := s.Proto.needs(n.name, "ports", conntrack.Proto.HasPorts); err != nil {
				return err
			}
		}
	}
	isTCP := func(p conntrack.Proto) bool { return p == conntrack.ProtoTCP }
	if s.State.Set {
		if err := s.Proto.needs("state", "TCP state", isTCP); err != nil {
			return err
		}
	}
	if s.PickedUp == Yes {
		return s.Proto.needs("picked-up", "TCP state", isTCP)
	}
	return nil
}

// needs refuses a flag about something that protocols of the list do not have,
// or that no protocol has which the list leaves.
func (l *Protos) needs(flag, thing string, has func(conntrack.Proto) bool) error {
	if !l.Set {
		return nil
	}
	if !l.any(has) && l.Negated {
		return &Error{Flag: flag, Problem: "--proto leaves no protocol with " + thing, Hint: "leave out this flag, or --proto"}
	}
	for _, p := range l.List {
		if !l.Negated && !has(p) {
			return &Error{Flag: flag, Problem: protoString(p) + " has no " + thing,
				Hint: "leave out this flag, or " + protoString(p) + " in --proto"}
		}
	}
	return nil
}
