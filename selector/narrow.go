package selector

import (
	"math/bits"

	"flowcut/conntrack"
)

// Narrow returns a filter for a dump that passes every flow that matches, and
// as few others as it can: what the dump yields must still be matched.
//
// Filters hold exact values, so that only conditions on one value go in.
func (s Selector) Narrow() conntrack.Filter {
	x := conntrack.Filter{Family: s.Family}
	if fams := s.Families(); len(fams) == 1 {
		x.Family = fams[0]
	}
	orig := tupleFilter{&x.Orig, &x.OrigFields}
	reply := tupleFilter{&x.Reply, &x.ReplyFields}
	s.narrowProto(orig, reply)
	orig.src(&s.OrigSrc)
	orig.dst(&s.OrigDst)
	reply.src(&s.ReplySrc)
	reply.dst(&s.ReplyDst)
	orig.srcPort(&s.OrigSrcPort)
	orig.dstPort(&s.OrigDstPort)
	reply.srcPort(&s.ReplySrcPort)
	reply.dstPort(&s.ReplyDstPort)
	s.narrowStatus(&x)
	s.narrowNAT(&x, orig, reply)
	if l := s.Mark; l.Set && !l.Negated && len(l.List) == 1 {
		x.Mark, x.MarkMask = l.List[0].Value, l.List[0].Mask
	}
	if l := s.Zone; l.Set && !l.Negated && len(l.List) == 1 {
		x.Zone, x.ByZone = l.List[0], true
	}
	return x
}

// tupleFilter is one direction of a filter.
type tupleFilter struct {
	tuple  *conntrack.Tuple
	fields *conntrack.TupleFields
}

func (t tupleFilter) src(l *Addrs) {
	if a := l.one(); a != nil {
		t.tuple.Src = a.From
		*t.fields |= conntrack.FieldSrc
	}
}

func (t tupleFilter) dst(l *Addrs) {
	if a := l.one(); a != nil {
		t.tuple.Dst = a.From
		*t.fields |= conntrack.FieldDst
	}
}

func (t tupleFilter) srcPort(l *Ports) {
	if p := l.one(); p != nil {
		t.tuple.SrcPort = p.From
		*t.fields |= conntrack.FieldSrcPort
	}
}

func (t tupleFilter) dstPort(l *Ports) {
	if p := l.one(); p != nil {
		t.tuple.DstPort = p.From
		*t.fields |= conntrack.FieldDstPort
	}
}

// one returns the list's only address, if it asks for one.
func (l *Addrs) one() *AddrRange {
	if !l.Set || l.Negated || len(l.Ranges) != 1 || l.Ranges[0].From != l.Ranges[0].To {
		return nil
	}
	return &l.Ranges[0]
}

// one returns the list's only port, if it asks for one.
func (l *Ports) one() *PortRange {
	if !l.Set || l.Negated || len(l.Ranges) != 1 || l.Ranges[0].From != l.Ranges[0].To {
		return nil
	}
	return &l.Ranges[0]
}

// narrowProto narrows to the one protocol that can match, which a condition
// on TCP's state implies.
func (s *Selector) narrowProto(sides ...tupleFilter) {
	p := conntrack.ProtoTCP
	switch {
	case s.State.Set || s.PickedUp == Yes:
	case s.Proto.Set && !s.Proto.Negated && len(s.Proto.List) == 1:
		p = s.Proto.List[0]
	default:
		return
	}
	for _, t := range sides {
		t.tuple.Proto = p
		*t.fields |= conntrack.FieldProto
	}
}

// narrowStatus takes over bits that must be set or clear. Of a negated
// condition on several bits none is known.
func (s *Selector) narrowStatus(x *conntrack.Filter) {
	c := s.Status
	mask := c.Bits | c.Clear
	switch {
	case !c.Set || c.Negated && bits.OnesCount32(uint32(mask)) != 1:
	case c.Negated:
		x.Status, x.StatusMask = c.Clear, mask
	default:
		x.Status, x.StatusMask = c.Bits, mask
	}
}

// narrowNAT takes over the bits of translations, and their only target.
// With one of --dst-nat and --src-nat given, --any-nat adds nothing sure.
func (s *Selector) narrowNAT(x *conntrack.Filter, orig, reply tupleFilter) {
	if n := &s.DstNAT; n.Set && !n.Negated {
		x.Status |= conntrack.StatusDstNAT
		x.StatusMask |= conntrack.StatusDstNAT
		if n.Reversed {
			orig.dst(n.oneAddr())
		} else {
			reply.src(n.oneAddr())
		}
	}
	if n := &s.SrcNAT; n.Set && !n.Negated {
		x.Status |= conntrack.StatusSrcNAT
		x.StatusMask |= conntrack.StatusSrcNAT
		if n.Reversed {
			orig.src(n.oneAddr())
		} else {
			reply.dst(n.oneAddr())
		}
	}
}

// oneAddr returns the target as a list of addresses, an unset one when there
// are several.
func (n *NAT) oneAddr() *Addrs {
	if len(n.Targets) != 1 {
		return &Addrs{}
	}
	return &Addrs{Set: true, Ranges: []AddrRange{n.Targets[0].Addrs}}
}
