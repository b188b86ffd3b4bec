package personality

import (
	"net/netip"

	"flowcut/conntrack"
	"flowcut/selector"
)

// selection is what the options of a line that select mean: a selector, and
// what no selector says.
type selection struct {
	selector selector.Selector
	filter   conntrack.Filter // narrows a dump; has what is of single protocols
	line     *line
	asValues bool // states, statuses and the like are to be set, not compared

	src, dst *looseMask
}

// savedStatus are the bits that -o save shows; a flow with none of them is shown
// as UNSET, and so that is what UNSET selects.
const savedStatus = conntrack.StatusSeenReply | conntrack.StatusAssured | conntrack.StatusFixedTimeout | conntrack.StatusExpected

// looseMask is a condition on an address whose mask is no prefix.
type looseMask struct{ value, mask [16]byte }

// selection makes the selection of a line.
func (l *line) selection() *selection {
	s := &selection{line: l, asValues: l.column() == colU}
	sel := &s.selector
	sel.Family = l.family
	if l.proto != nil {
		sel.Proto = selector.Protos{Set: true, List: []conntrack.Proto{l.proto.number}}
	}
	sel.OrigSrc, s.src = l.network(conntrack.FieldSrc, l.orig.Src, l.mask.Src)
	sel.OrigDst, s.dst = l.network(conntrack.FieldDst, l.orig.Dst, l.mask.Dst)
	sel.ReplySrc = exactly(l.replyHas&conntrack.FieldSrc != 0, l.reply.Src)
	sel.ReplyDst = exactly(l.replyHas&conntrack.FieldDst != 0, l.reply.Dst)
	sel.DstNAT = translated(l.has("dst-nat"), l.dstNAT)
	sel.SrcNAT = translated(l.has("src-nat"), l.srcNAT)
	sel.AnyNAT = translated(l.has("any-nat"), l.anyNAT)
	sel.Labels = selector.LabelBits{Set: l.has("label"), Bits: l.labels.bits}
	if l.has("id") {
		sel.ID = selector.IDs{Set: true, List: []uint32{l.id}}
	}
	if !s.asValues {
		if l.has("status") {
			sel.Status = selector.Statuses{Set: true, Bits: l.status.set, Clear: l.status.clear}
			if l.status.set|l.status.clear == 0 {
				sel.Status.Clear = savedStatus
			}
		}
		if l.has("mark") {
			sel.Mark = selector.Marks{Set: true, List: []selector.MaskedMark{{Value: l.mark.value, Mask: l.mark.mask}}}
		}
	}
	s.filter = s.narrow()
	return s
}

// narrow returns the filter for dumps: what the selector says, and ports, keys
// and the fields of ICMP.
func (s *selection) narrow() conntrack.Filter {
	x, l := s.selector.Narrow(), s.line
	const addrs = conntrack.FieldSrc | conntrack.FieldDst
	x.OrigFields |= l.origHas &^ addrs
	x.ReplyFields |= l.replyHas &^ addrs
	copyFields(&x.Orig, &l.orig, l.origHas)
	copyFields(&x.Reply, &l.reply, l.replyHas)
	if l.proto != nil && l.replyHas&^addrs != 0 {
		x.ReplyFields |= conntrack.FieldProto
		x.Reply.Proto = l.proto.number
	}
	return x
}

// copyFields copies what is not an address.
func copyFields(to, from *conntrack.Tuple, has conntrack.TupleFields) {
	for _, c := range []struct {
		field conntrack.TupleFields
		copy  func()
	}{
		{conntrack.FieldProto, func() { to.Proto = from.Proto }},
		{conntrack.FieldSrcPort, func() { to.SrcPort = from.SrcPort }},
		{conntrack.FieldDstPort, func() { to.DstPort = from.DstPort }},
		{conntrack.FieldICMPType, func() { to.ICMPType = from.ICMPType }},
		{conntrack.FieldICMPCode, func() { to.ICMPCode = from.ICMPCode }},
		{conntrack.FieldICMPID, func() { to.ICMPID = from.ICMPID }},
	} {
		if has&c.field != 0 {
			c.copy()
		}
	}
}

// network returns the condition of an address of the original direction and
// its mask, which is a loose one if no prefix says it.
func (l *line) network(field conntrack.TupleFields, a, mask netip.Addr) (selector.Addrs, *looseMask) {
	switch {
	case l.origHas&field == 0:
		return selector.Addrs{}, nil
	case l.maskHas&field == 0:
		return exactly(true, a), nil
	}
	bits := 0
	for m := mask.AsSlice(); bits < mask.BitLen() && m[bits/8]&(0x80>>(bits%8)) != 0; {
		bits++
	}
	network, err := a.Prefix(bits)
	prefix, err2 := mask.Prefix(bits)
	if err == nil && err2 == nil && prefix.Addr() == mask {
		return selector.Addrs{Set: true, Ranges: []selector.AddrRange{{From: network.Addr(), To: lastOf(network)}}}, nil
	}
	loose := &looseMask{mask: mask.As16()}
	for i, b := range a.As16() {
		loose.value[i] = b & loose.mask[i]
	}
	return selector.Addrs{}, loose
}

// lastOf returns the last address of a network.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func (m *looseMask) match(a netip.Addr) bool {
	for i, b := range a.As16() {
		if b&m.mask[i] != m.value[i] {
			return false
		}
	}
	return true
}

func exactly(given bool, a netip.Addr) selector.Addrs {
	if !given {
		return selector.Addrs{}
	}
	return selector.Addrs{Set: true, Ranges: []selector.AddrRange{{From: a, To: a}}}
}

func translated(given bool, t *target) selector.NAT {
	n := selector.NAT{Set: given}
	if t != nil {
		n.Targets = []selector.NATTarget{{Addrs: selector.AddrRange{From: t.addr, To: t.addr}, Port: t.port}}
	}
	return n
}

// match tells whether a flow is meant.
func (s *selection) match(f *conntrack.Flow) bool {
	return s.filter.Match(f) && s.selector.Match(f) &&
		(s.src == nil || s.src.match(f.Orig.Src)) &&
		(s.dst == nil || s.dst.match(f.Orig.Dst)) &&
		s.matchMoved(f) && s.matchZones(f) && (s.asValues || s.matchValues(f))
}

// matchMoved: an address alone, without a port, is one that the flow was
// translated to from another.
func (s *selection) matchMoved(f *conntrack.Flow) bool {
	l := s.line
	if l.dstNAT != nil && l.dstNAT.port == 0 && f.Reply.Src == f.Orig.Dst ||
		l.srcNAT != nil && l.srcNAT.port == 0 && f.Reply.Dst == f.Orig.Src {
		return false
	}
	if l.anyNAT == nil || l.anyNAT.port != 0 {
		return true
	}
	return f.Reply.Src == l.anyNAT.addr && f.Reply.Src != f.Orig.Dst ||
		f.Reply.Dst == l.anyNAT.addr && f.Reply.Dst != f.Orig.Src
}

// matchZones: -w means the zone of both directions, where selectors mean that
// of either. A zone that is not there is 0.
func (s *selection) matchZones(f *conntrack.Flow) bool {
	l := s.line
	if l.column() == colG {
		return true // it was looked up there
	}
	return (!l.has("zone") || f.Zone == l.zone) &&
		(!l.has("orig-zone") || f.OrigZone == l.zones[0]) &&
		(!l.has("reply-zone") || f.ReplyZone == l.zones[1])
}

// matchValues compares what -U would set.
func (s *selection) matchValues(f *conntrack.Flow) bool {
	l := s.line
	if l.has("mark") && f.Has&conntrack.AttrMark == 0 {
		return false // an event without one
	}
	if l.has("timeout") && (f.Has&conntrack.AttrTimeout == 0 || f.Timeout != l.timeout) {
		return false
	}
	if l.has("orig-vtag") && f.SCTP.OrigVTag != l.vtags[0] || l.has("reply-vtag") && f.SCTP.ReplyVTag != l.vtags[1] {
		return false
	}
	if !l.has("state") {
		return true
	}
	switch {
	case f.Has&conntrack.AttrTCP != 0:
		return uint8(f.TCP.State) == l.state
	case f.Has&conntrack.AttrSCTP != 0:
		return uint8(f.SCTP.State) == l.state
	case f.Has&conntrack.AttrDCCP != 0:
		return uint8(f.DCCP.State) == l.state
	}
	return false
}
