package selector

import (
	"encoding/binary"
	"net/netip"
)

// wanted is what one condition asks a value of a flow to be: in one of the
// ranges of one of the three lists, which do not overlap.
type wanted struct {
	value int // byOrigSrc and so on
	addrs []AddrRange
	ports []PortRange
	ids   []uint32
}

// ask stands for what is wanted, when the selectors that ask for it are counted.
type ask struct {
	value int
	first number
}

func (w *wanted) ask() ask {
	a := ask{value: w.value}
	if w.len() > 0 {
		a.first = w.span(0).from
	}
	return a
}

func (w *wanted) len() int { return len(w.addrs) + len(w.ports) + len(w.ids) }

// span returns one of the ranges.
func (w *wanted) span(k int) span {
	switch {
	case w.addrs != nil:
		return span{from: addrNumber(w.addrs[k].From), to: addrNumber(w.addrs[k].To)}
	case w.ports != nil:
		return span{from: number{lo: uint64(w.ports[k].From)}, to: number{lo: uint64(w.ports[k].To)}}
	}
	return span{from: number{lo: uint64(w.ids[k])}, to: number{lo: uint64(w.ids[k])}}
}

// wanted appends all that a flow must have to match and that an index can find
// it by. An empty list finds nothing, as it matches nothing.
func (s *Selector) wanted(out []wanted) []wanted {
	for v, l := range [...]*Addrs{byOrigSrc: &s.OrigSrc, byOrigDst: &s.OrigDst, byReplySrc: &s.ReplySrc, byReplyDst: &s.ReplyDst, byEnd: &s.Host} {
		if l != nil && l.Set && !l.Negated {
			out = append(out, wanted{value: v, addrs: l.Ranges})
		}
	}
	for k, l := range [...]*Ports{&s.OrigSrcPort, &s.OrigDstPort, &s.ReplySrcPort, &s.ReplyDstPort} {
		if l.Set && !l.Negated {
			out = append(out, wanted{value: byOrigSrcPort + k, ports: l.Ranges})
		}
	}
	if s.ID.Set && !s.ID.Negated {
		out = append(out, wanted{value: byID, ids: s.ID.List})
	}
	for _, n := range [...]struct {
		nat             *NAT
		value, reversed int
	}{{&s.DstNAT, byReplySrc, byOrigDst}, {&s.SrcNAT, byReplyDst, byOrigSrc}, {&s.AnyNAT, byEnd, byEnd}} {
		if !n.nat.Set || n.nat.Negated || len(n.nat.Targets) == 0 {
			continue
		}
		w := wanted{value: n.value, addrs: n.nat.ranges()}
		if n.nat.Reversed {
			w.value = n.reversed
		}
		out = append(out, w)
	}
	return out
}

// ranges returns the addresses of the targets, whatever their ports.
func (n *NAT) ranges() []AddrRange {
	rs := make([]AddrRange, len(n.Targets))
	for i, t := range n.Targets {
		rs[i] = t.Addrs
	}
	return mergeRanges(rs)
}

// addrNumber returns an address as a number; IPv4 has a place in IPv6.
func addrNumber(a netip.Addr) number {
	if !a.IsValid() {
		return number{}
	}
	b := a.As16()
	return number{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}
