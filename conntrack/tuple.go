package conntrack

import (
	"errors"
	"fmt"
	"net/netip"
)

// Tuple identifies one direction of a flow.
//
// Ports are host byte order. Which of the fields after Proto apply follows
// from Proto: ports for TCP, UDP, UDP-Lite, SCTP and DCCP; the same two
// fields hold the keys of GRE; ICMP and ICMPv6 use the ICMP fields alone;
// any other protocol uses none. Tuples are comparable with ==.
//
// Wire: CTA_TUPLE_IP and CTA_TUPLE_PROTO, nested.
// Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h, enum ctattr_tuple.
type Tuple struct {
	Src, Dst netip.Addr
	Proto    Proto
	SrcPort  uint16 // port, or GRE key
	DstPort  uint16 // port, or GRE key
	ICMPID   uint16
	ICMPType uint8
	ICMPCode uint8
}

// Members of CTA_TUPLE_ORIG, CTA_TUPLE_REPLY and CTA_TUPLE_MASTER, enum ctattr_tuple.
const (
	attrTupleIP    attrType = 1 // CTA_TUPLE_IP
	attrTupleProto attrType = 2 // CTA_TUPLE_PROTO
	attrTupleZone  attrType = 3 // CTA_TUPLE_ZONE
)

// Members of CTA_TUPLE_IP, enum ctattr_ip.
const (
	attrIPv4Src attrType = 1 // CTA_IP_V4_SRC
	attrIPv4Dst attrType = 2 // CTA_IP_V4_DST
	attrIPv6Src attrType = 3 // CTA_IP_V6_SRC
	attrIPv6Dst attrType = 4 // CTA_IP_V6_DST
)

// Members of CTA_TUPLE_PROTO, enum ctattr_l4proto.
const (
	attrProtoNum        attrType = 1 // CTA_PROTO_NUM
	attrProtoSrcPort    attrType = 2 // CTA_PROTO_SRC_PORT
	attrProtoDstPort    attrType = 3 // CTA_PROTO_DST_PORT
	attrProtoICMPID     attrType = 4 // CTA_PROTO_ICMP_ID
	attrProtoICMPType   attrType = 5 // CTA_PROTO_ICMP_TYPE
	attrProtoICMPCode   attrType = 6 // CTA_PROTO_ICMP_CODE
	attrProtoICMPv6ID   attrType = 7 // CTA_PROTO_ICMPV6_ID
	attrProtoICMPv6Type attrType = 8 // CTA_PROTO_ICMPV6_TYPE
	attrProtoICMPv6Code attrType = 9 // CTA_PROTO_ICMPV6_CODE
)

// Family returns the family of the tuple's addresses, FamilyBoth if it has none.
func (t Tuple) Family() Family {
	switch {
	case t.Src.Is4():
		return FamilyIPv4
	case t.Src.Is6():
		return FamilyIPv6
	}
	return FamilyBoth
}

// HasPorts tells whether SrcPort and DstPort are ports of the tuple.
// GRE keys are not ports.
func (t Tuple) HasPorts() bool { return t.Proto.HasPorts() }

// IsICMP tells whether the ICMP fields belong to the tuple.
func (t Tuple) IsICMP() bool { return t.Proto == ProtoICMP || t.Proto == ProtoICMPv6 }

// Invert returns the tuple of the answers to t, as it is without NAT.
//
// Source: net/netfilter/nf_conntrack_proto_icmp.c and _icmpv6.c for the types.
func (t Tuple) Invert() Tuple {
	t.Src, t.Dst = t.Dst, t.Src
	t.SrcPort, t.DstPort = t.DstPort, t.SrcPort
	switch t.Proto {
	case ProtoICMP:
		t.ICMPType = invertICMPType(t.ICMPType)
	case ProtoICMPv6:
		t.ICMPType = invertICMPv6Type(t.ICMPType)
	}
	return t
}

// invertICMPType maps a query to its reply and back, other types to themselves.
func invertICMPType(t uint8) uint8 {
	switch t {
	case 0: // ICMP_ECHOREPLY
		return 8
	case 8: // ICMP_ECHO
		return 0
	case 13, 15, 17: // ICMP_TIMESTAMP, ICMP_INFO_REQUEST, ICMP_ADDRESS
		return t + 1
	case 14, 16, 18: // their replies
		return t - 1
	}
	return t
}

// invertICMPv6Type maps a query to its reply and back, other types to themselves.
func invertICMPv6Type(t uint8) uint8 {
	switch t {
	case 128: // ICMPV6_ECHO_REQUEST
		return 129
	case 129: // ICMPV6_ECHO_REPLY
		return 128
	case 139: // ICMPV6_NI_QUERY
		return 140
	case 140: // ICMPV6_NI_REPLY
		return 139
	}
	return t
}

// String returns a form such as "tcp 203.0.113.2:47274 -> 203.0.113.1:5201".
func (t Tuple) String() string {
	switch {
	case t.HasPorts():
		return t.Proto.String() + " " + netip.AddrPortFrom(t.Src, t.SrcPort).String() +
			" -> " + netip.AddrPortFrom(t.Dst, t.DstPort).String()
	case t.IsICMP():
		return fmt.Sprintf("%v %v -> %v type %d code %d id %d",
			t.Proto, t.Src, t.Dst, t.ICMPType, t.ICMPCode, t.ICMPID)
	case t.Proto == ProtoGRE:
		return fmt.Sprintf("%v %v -> %v keys 0x%x 0x%x", t.Proto, t.Src, t.Dst, t.SrcPort, t.DstPort)
	}
	return fmt.Sprintf("%v %v -> %v", t.Proto, t.Src, t.Dst)
}

// validate refuses what the kernel cannot look up: it wants two addresses of
// one family.
func (t Tuple) validate() error {
	switch {
	case !t.Src.IsValid():
		return errors.New("no source address")
	case !t.Dst.IsValid():
		return errors.New("no destination address")
	case t.Src.Is4() != t.Dst.Is4():
		return fmt.Errorf("addresses of two families: %v and %v", t.Src, t.Dst)
	case t.Src.Zone() != "" || t.Dst.Zone() != "":
		return fmt.Errorf("address with an interface: %v or %v", t.Src, t.Dst)
	}
	return nil
}

// validateWhole also refuses a tuple whose protocol is 0: no helper expects one,
// so it was most likely left out.
func (t Tuple) validateWhole() error {
	if err := t.validate(); err != nil {
		return err
	}
	if t.Proto == 0 {
		return errors.New("no protocol")
	}
	return nil
}

// parseTuple reads the nest called name. A tuple that lacks an address or the
// protocol is refused; a protocol of 0 is one. zone is false if the nest has no CTA_TUPLE_ZONE.
func parseTuple(b []byte, name string) (t Tuple, z Zone, zone bool, err error) {
	proto := false
	for len(b) > 0 {
		typ, v, rest, err := nextAttr(b, name)
		if err != nil {
			return Tuple{}, 0, false, err
		}
		b = rest
		switch typ {
		case attrTupleIP:
			err = t.parseIP(v)
		case attrTupleProto:
			err, proto = t.parseProto(v), true
		case attrTupleZone:
			var n uint16
			n, err = parseUint16(v, "CTA_TUPLE_ZONE")
			z, zone = Zone(n), true
		}
		if err != nil {
			return Tuple{}, 0, false, fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := t.validate(); err != nil {
		return Tuple{}, 0, false, fmt.Errorf("%s: %w", name, err)
	}
	if !proto {
		return Tuple{}, 0, false, fmt.Errorf("%s: no protocol", name)
	}
	return t, z, zone, nil
}

// parseIP reads CTA_TUPLE_IP.
func (t *Tuple) parseIP(b []byte) error {
	for len(b) > 0 {
		typ, v, rest, err := nextAttr(b, "CTA_TUPLE_IP")
		if err != nil {
			return err
		}
		b = rest
		switch typ {
		case attrIPv4Src:
			t.Src, err = parseIPv4(v, "CTA_IP_V4_SRC")
		case attrIPv4Dst:
			t.Dst, err = parseIPv4(v, "CTA_IP_V4_DST")
		case attrIPv6Src:
			t.Src, err = parseIPv6(v, "CTA_IP_V6_SRC")
		case attrIPv6Dst:
			t.Dst, err = parseIPv6(v, "CTA_IP_V6_DST")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func parseIPv4(v []byte, name string) (netip.Addr, error) {
	if len(v) != 4 {
		return netip.Addr{}, lengthError(name, len(v), 4)
	}
	return netip.AddrFrom4([4]byte(v)), nil
}

func parseIPv6(v []byte, name string) (netip.Addr, error) {
	if len(v) != 16 {
		return netip.Addr{}, lengthError(name, len(v), 16)
	}
	return netip.AddrFrom16([16]byte(v)), nil
}

// parseProto reads CTA_TUPLE_PROTO. Attributes that do not belong to the
// protocol are left out of t.
func (t *Tuple) parseProto(b []byte) error {
	var p struct {
		num, typ, code, typ6, code6 uint8
		src, dst, id, id6           uint16
	}
	numbered := false
	for len(b) > 0 {
		at, v, rest, err := nextAttr(b, "CTA_TUPLE_PROTO")
		if err != nil {
			return err
		}
		b = rest
		switch at {
		case attrProtoNum:
			p.num, err = parseUint8(v, "CTA_PROTO_NUM")
			numbered = true
		case attrProtoSrcPort:
			p.src, err = parseUint16(v, "CTA_PROTO_SRC_PORT")
		case attrProtoDstPort:
			p.dst, err = parseUint16(v, "CTA_PROTO_DST_PORT")
		case attrProtoICMPID:
			p.id, err = parseUint16(v, "CTA_PROTO_ICMP_ID")
		case attrProtoICMPType:
			p.typ, err = parseUint8(v, "CTA_PROTO_ICMP_TYPE")
		case attrProtoICMPCode:
			p.code, err = parseUint8(v, "CTA_PROTO_ICMP_CODE")
		case attrProtoICMPv6ID:
			p.id6, err = parseUint16(v, "CTA_PROTO_ICMPV6_ID")
		case attrProtoICMPv6Type:
			p.typ6, err = parseUint8(v, "CTA_PROTO_ICMPV6_TYPE")
		case attrProtoICMPv6Code:
			p.code6, err = parseUint8(v, "CTA_PROTO_ICMPV6_CODE")
		}
		if err != nil {
			return err
		}
	}
	if !numbered {
		return errors.New("CTA_TUPLE_PROTO: no CTA_PROTO_NUM")
	}
	t.Proto = Proto(p.num)
	switch {
	case t.HasPorts(), t.Proto == ProtoGRE:
		t.SrcPort, t.DstPort = p.src, p.dst
	case t.Proto == ProtoICMP:
		t.ICMPID, t.ICMPType, t.ICMPCode = p.id, p.typ, p.code
	case t.Proto == ProtoICMPv6:
		t.ICMPID, t.ICMPType, t.ICMPCode = p.id6, p.typ6, p.code6
	}
	return nil
}

// appendTuple appends t as the nest typ, with CTA_TUPLE_ZONE if zone is true.
// The caller has validated t.
func appendTuple(b []byte, typ attrType, t *Tuple, z Zone, zone bool) []byte {
	b, nest := beginNest(b, typ)
	b = appendTupleIP(b, t.Src, t.Dst)
	b = t.appendProto(b)
	if zone {
		b = appendUint16(b, attrTupleZone, uint16(z))
	}
	return endNest(b, nest)
}

// appendTupleIP appends CTA_TUPLE_IP with those of the two addresses that are valid.
func appendTupleIP(b []byte, src, dst netip.Addr) []byte {
	b, nest := beginNest(b, attrTupleIP)
	b = appendIP(b, src, attrIPv4Src, attrIPv6Src)
	b = appendIP(b, dst, attrIPv4Dst, attrIPv6Dst)
	return endNest(b, nest)
}

func appendIP(b []byte, a netip.Addr, v4, v6 attrType) []byte {
	switch {
	case a.Is4():
		ip := a.As4()
		return appendAttr(b, v4, ip[:])
	case a.Is6():
		ip := a.As16()
		return appendAttr(b, v6, ip[:])
	}
	return b
}

// appendProto appends CTA_TUPLE_PROTO.
func (t *Tuple) appendProto(b []byte) []byte {
	b, nest := beginNest(b, attrTupleProto)
	b = appendUint8(b, attrProtoNum, uint8(t.Proto))
	switch {
	case t.HasPorts(), t.Proto == ProtoGRE:
		b = appendUint16(b, attrProtoSrcPort, t.SrcPort)
		b = appendUint16(b, attrProtoDstPort, t.DstPort)
	case t.Proto == ProtoICMP:
		b = appendUint16(b, attrProtoICMPID, t.ICMPID)
		b = appendUint8(b, attrProtoICMPType, t.ICMPType)
		b = appendUint8(b, attrProtoICMPCode, t.ICMPCode)
	case t.Proto == ProtoICMPv6:
		b = appendUint16(b, attrProtoICMPv6ID, t.ICMPID)
		b = appendUint8(b, attrProtoICMPv6Type, t.ICMPType)
		b = appendUint8(b, attrProtoICMPv6Code, t.ICMPCode)
	}
	return endNest(b, nest)
}
