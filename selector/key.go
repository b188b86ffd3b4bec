package selector

import (
	"encoding/binary"
	"net/netip"

	"flowcut/conntrack"
)

// appendKey appends bytes that two selectors share exactly when all of their
// conditions are equal. A condition that is not set is one zero byte.
func (s *Selector) appendKey(b []byte) []byte {
	b = append(b, byte(s.Family), byte(s.PickedUp))
	for _, l := range s.addrs() {
		b = appendList(b, l.list.Set, l.list.Negated, l.list.Ranges, appendRange)
	}
	b = appendList(b, s.Proto.Set, s.Proto.Negated, s.Proto.List, appendNumber)
	for _, l := range s.ports() {
		b = appendList(b, l.list.Set, l.list.Negated, l.list.Ranges, appendPorts)
	}
	for _, n := range s.nats() {
		b = appendList(b, n.nat.Set, n.nat.Negated, n.nat.Targets, appendTarget)
		if n.nat.Set && n.nat.Reversed {
			b = append(b, 1)
		} else if n.nat.Set {
			b = append(b, 0)
		}
	}
	status := []conntrack.Status{s.Status.Bits, s.Status.Clear}
	b = appendList(b, s.Status.Set, s.Status.Negated, status, appendNumber)
	b = appendList(b, s.State.Set, s.State.Negated, s.State.List, appendNumber)
	b = appendList(b, s.Mark.Set, s.Mark.Negated, s.Mark.List, appendMark)
	b = appendList(b, s.Labels.Set, s.Labels.Negated, s.Labels.Bits[:], appendNumber)
	for _, l := range [...]*Zones{&s.Zone, &s.OrigZone, &s.ReplyZone} {
		b = appendList(b, l.Set, l.Negated, l.List, appendNumber)
	}
	return appendList(b, s.ID.Set, s.ID.Negated, s.ID.List, appendNumber)
}

// appendList appends one condition: whether it is there, its length, its items.
func appendList[T any](b []byte, set, negated bool, list []T, item func([]byte, T) []byte) []byte {
	switch {
	case !set:
		return append(b, 0)
	case negated:
		b = append(b, 2)
	default:
		b = append(b, 1)
	}
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, v := range list {
		b = item(b, v)
	}
	return b
}

func appendNumber[T ~uint8 | ~uint16 | ~uint32](b []byte, n T) []byte {
	return binary.AppendUvarint(b, uint64(n))
}

func appendMark(b []byte, m MaskedMark) []byte {
	return appendNumber(appendNumber(b, m.Value), m.Mask)
}

func appendPorts(b []byte, r PortRange) []byte {
	return appendNumber(appendNumber(b, r.From), r.To)
}

func appendTarget(b []byte, t NATTarget) []byte {
	return appendNumber(appendRange(b, t.Addrs), t.Port)
}

func appendRange(b []byte, r AddrRange) []byte {
	return appendAddr(appendAddr(b, r.From), r.To)
}

func appendAddr(b []byte, a netip.Addr) []byte {
	b = append(b, byte(a.BitLen()))
	switch {
	case a.Is4():
		v := a.As4()
		return append(b, v[:]...)
	case a.Is6():
		v := a.As16()
		return append(b, v[:]...)
	}
	return b
}
