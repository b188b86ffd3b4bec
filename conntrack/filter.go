package conntrack

import (
	"encoding/binary"
	"net/netip"
)

// Filter narrows a dump. A flow must match every field that is set; the zero
// value matches every flow.
//
// Filters hold exact addresses and ports, as the kernel's do. [Client.Dump]
// lets the kernel do what it was proven to do right and the rest itself, so
// that what a dump yields is what Match says, whatever the kernel.
type Filter struct {
	Family Family

	Orig        Tuple // values for OrigFields
	OrigFields  TupleFields
	Reply       Tuple // values for ReplyFields
	ReplyFields TupleFields

	Mark     Mark // a flow matches if flow mark & MarkMask == Mark & MarkMask
	MarkMask Mark

	Status     Status // likewise
	StatusMask Status

	// Zone counts only if ByZone is set: the flow is in this zone in at
	// least one direction, or in the default zone alone if Zone is 0.
	Zone   Zone
	ByZone bool
}

// TupleFields tells which fields of a tuple a [Filter] compares.
//
// Fields that do not belong to a flow's protocol never match: a filter with
// FieldSrcPort matches no ICMP flow.
type TupleFields uint16

// Fields of a tuple.
const (
	FieldSrc TupleFields = 1 << iota
	FieldDst
	FieldProto
	FieldSrcPort // port or GRE key
	FieldDstPort
	FieldICMPType
	FieldICMPCode
	FieldICMPID

	fieldPorts = FieldSrcPort | FieldDstPort
	fieldICMP  = FieldICMPType | FieldICMPCode | FieldICMPID
)

// Kernel returns the part of x that a dump asks the kernel to compare, which
// passes all that x does: the cost of the dump follows from it, unless the
// kernel turns out to be one that compares wrongly.
func (x Filter) Kernel() Filter {
	sup, _ := x.hope()
	f := x.family()
	k := Filter{Family: f}
	k.OrigFields = x.OrigFields.trusted(&x.Orig, f, sup)
	k.Orig = k.OrigFields.of(&x.Orig)
	k.ReplyFields = x.ReplyFields.trusted(&x.Reply, f, sup)
	k.Reply = k.ReplyFields.of(&x.Reply)
	if sup.Mark {
		k.Mark, k.MarkMask = x.Mark&x.MarkMask, x.MarkMask
	}
	if sup.Status {
		k.Status, k.StatusMask = x.Status&x.StatusMask, x.StatusMask
	}
	if x.ByZone && x.Zone != 0 && sup.Zone {
		k.Zone, k.ByZone = x.Zone, true
	}
	return k
}

// of returns the fields fs of t, and zero for the others.
func (fs TupleFields) of(t *Tuple) Tuple {
	out := *t
	if fs&FieldSrc == 0 {
		out.Src = netip.Addr{}
	}
	if fs&FieldDst == 0 {
		out.Dst = netip.Addr{}
	}
	if fs&FieldProto == 0 {
		out.Proto = 0
	}
	if fs&FieldSrcPort == 0 {
		out.SrcPort = 0
	}
	if fs&FieldDstPort == 0 {
		out.DstPort = 0
	}
	if fs&fieldICMP == 0 {
		out.ICMPType, out.ICMPCode, out.ICMPID = 0, 0, 0
	}
	return out
}

// Covers tells whether every flow that matches y matches x, as far as the
// fields tell: what y asks for, x does not, or asks for the same.
func (x Filter) Covers(y Filter) bool {
	return (x.Family == FamilyBoth || x.Family == y.Family) &&
		x.OrigFields&^y.OrigFields == 0 && x.OrigFields.of(&x.Orig) == x.OrigFields.of(&y.Orig) &&
		x.ReplyFields&^y.ReplyFields == 0 && x.ReplyFields.of(&x.Reply) == x.ReplyFields.of(&y.Reply) &&
		x.MarkMask&^y.MarkMask == 0 && (x.Mark^y.Mark)&x.MarkMask == 0 &&
		x.StatusMask&^y.StatusMask == 0 && (x.Status^y.Status)&x.StatusMask == 0 &&
		(!x.ByZone || y.ByZone && x.Zone == y.Zone)
}

// Match tells whether f is in the filter.
func (x *Filter) Match(f *Flow) bool {
	if x.Family != FamilyBoth && f.Orig.Family() != x.Family {
		return false
	}
	if !x.OrigFields.match(&x.Orig, &f.Orig) || !x.ReplyFields.match(&x.Reply, &f.Reply) {
		return false
	}
	if (f.Mark^x.Mark)&x.MarkMask != 0 || (f.Status^x.Status)&x.StatusMask != 0 {
		return false
	}
	return !x.ByZone || x.matchZone(f)
}

// matchZone compares with the zone of either direction. The kernel sends no
// zone for the default one.
func (x *Filter) matchZone(f *Flow) bool {
	if x.Zone == 0 {
		return f.Zone == 0 && f.OrigZone == 0 && f.ReplyZone == 0
	}
	return f.Zone == x.Zone || f.OrigZone == x.Zone || f.ReplyZone == x.Zone
}

// match tells whether t has the values of want in the fields fs.
func (fs TupleFields) match(want, t *Tuple) bool {
	switch {
	case fs == 0:
		return true
	case fs&FieldSrc != 0 && t.Src != want.Src,
		fs&FieldDst != 0 && t.Dst != want.Dst,
		fs&FieldProto != 0 && t.Proto != want.Proto:
		return false
	case fs&fieldPorts != 0 && !t.HasPorts() && t.Proto != ProtoGRE,
		fs&FieldSrcPort != 0 && t.SrcPort != want.SrcPort,
		fs&FieldDstPort != 0 && t.DstPort != want.DstPort:
		return false
	case fs&fieldICMP != 0 && !t.IsICMP(),
		fs&FieldICMPType != 0 && t.ICMPType != want.ICMPType,
		fs&FieldICMPCode != 0 && t.ICMPCode != want.ICMPCode,
		fs&FieldICMPID != 0 && t.ICMPID != want.ICMPID:
		return false
	}
	return true
}

// Members of CTA_FILTER, enum ctattr_filter: native-endian uint32.
const (
	attrFilterOrigFlags  attrType = 1 // CTA_FILTER_ORIG_FLAGS
	attrFilterReplyFlags attrType = 2 // CTA_FILTER_REPLY_FLAGS
)

// Bits of CTA_FILTER_ORIG_FLAGS and CTA_FILTER_REPLY_FLAGS.
// Source: net/netfilter/nf_internals.h.
const (
	filterSrc     = 1 << 0 // CTA_FILTER_F_CTA_IP_SRC
	filterDst     = 1 << 1 // CTA_FILTER_F_CTA_IP_DST
	filterProto   = 1 << 3 // CTA_FILTER_F_CTA_PROTO_NUM
	filterSrcPort = 1 << 4 // CTA_FILTER_F_CTA_PROTO_SRC_PORT
	filterDstPort = 1 << 5 // CTA_FILTER_F_CTA_PROTO_DST_PORT
)

// family returns the family that all of x's matches have, if there is one: the
// kernel compares tuples only together with a family.
func (x *Filter) family() Family {
	f := x.Family
	for _, a := range [...]struct {
		fields, field TupleFields
		addr          netip.Addr
	}{
		{x.OrigFields, FieldSrc, x.Orig.Src}, {x.OrigFields, FieldDst, x.Orig.Dst},
		{x.ReplyFields, FieldSrc, x.Reply.Src}, {x.ReplyFields, FieldDst, x.Reply.Dst},
	} {
		if f == FamilyBoth && a.fields&a.field != 0 {
			f = Tuple{Src: a.addr}.Family()
		}
	}
	return f
}

// append appends the attributes that make the kernel narrow a dump to
// something no smaller than x, given what it was proven to do right.
func (x *Filter) append(b []byte, f Family, sup Support) []byte {
	if x.MarkMask != 0 && sup.Mark {
		b = appendUint32(b, attrMark, uint32(x.Mark&x.MarkMask))
		b = appendUint32(b, attrMarkMask, uint32(x.MarkMask))
	}
	if x.StatusMask != 0 && sup.Status {
		b = appendUint32(b, attrStatus, uint32(x.Status&x.StatusMask))
		b = appendUint32(b, attrStatusMask, uint32(x.StatusMask))
	}
	if x.ByZone && x.Zone != 0 && sup.Zone {
		b = appendUint16(b, attrZone, uint16(x.Zone))
	}
	orig, reply := x.OrigFields.trusted(&x.Orig, f, sup), x.ReplyFields.trusted(&x.Reply, f, sup)
	if orig|reply == 0 {
		return b
	}
	if orig != 0 {
		b = appendTupleFilter(b, attrTupleOrig, &x.Orig, orig)
	}
	if reply != 0 {
		b = appendTupleFilter(b, attrTupleReply, &x.Reply, reply)
	}
	b, nest := beginNest(b, attrFilter)
	b = appendFilterFlags(b, attrFilterOrigFlags, orig)
	b = appendFilterFlags(b, attrFilterReplyFlags, reply)
	return endNest(b, nest)
}

// trusted returns those of fs that the kernel compares rightly in flows of
// family f. It compares ports of TCP and UDP alone.
func (fs TupleFields) trusted(t *Tuple, f Family, sup Support) TupleFields {
	if fs&FieldProto == 0 || t.Proto != ProtoTCP && t.Proto != ProtoUDP {
		fs &^= fieldPorts
	}
	addr, rest := false, false
	switch f {
	case FamilyIPv4:
		addr, rest = sup.TupleIPv4, sup.TupleIPv4
	case FamilyIPv6:
		addr, rest = sup.AddrIPv6, sup.PortsIPv6
	}
	if !addr || (Tuple{Src: t.Src}).Family() != f {
		fs &^= FieldSrc
	}
	if !addr || (Tuple{Src: t.Dst}).Family() != f {
		fs &^= FieldDst
	}
	if !rest {
		fs &^= FieldProto | fieldPorts
	}
	return fs &^ fieldICMP
}

// appendTupleFilter appends the fields fs of t as the nest typ.
func appendTupleFilter(b []byte, typ attrType, t *Tuple, fs TupleFields) []byte {
	b, nest := beginNest(b, typ)
	var src, dst netip.Addr
	if fs&FieldSrc != 0 {
		src = t.Src
	}
	if fs&FieldDst != 0 {
		dst = t.Dst
	}
	b = appendTupleIP(b, src, dst)
	if fs&FieldProto != 0 {
		b = t.appendProto(b)
	}
	return endNest(b, nest)
}

// appendFilterFlags appends the flags that stand for fs.
func appendFilterFlags(b []byte, typ attrType, fs TupleFields) []byte {
	if fs == 0 {
		return b
	}
	var flags uint32
	for _, f := range [...]struct {
		field TupleFields
		flag  uint32
	}{
		{FieldSrc, filterSrc}, {FieldDst, filterDst}, {FieldProto, filterProto},
		{FieldSrcPort, filterSrcPort}, {FieldDstPort, filterDstPort},
	} {
		if fs&f.field != 0 {
			flags |= f.flag
		}
	}
	return binary.NativeEndian.AppendUint32(appendAttrHeader(b, typ, 4), flags)
}
