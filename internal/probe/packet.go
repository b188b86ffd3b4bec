// Package probe sends segments that make an end of a connection speak, or
// tell it that the connection is over.
package probe

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"flowcut/conntrack"
)

// tag marks our packets: a fence of nf_tables knows them by their priority, one of
// iptables by the ID of an IPv4 header or the flow label of an IPv6 header.
type tag uint32

func (t tag) id() uint16 { return uint16(t >> 16) }

func (t tag) label() [3]byte { return [3]byte{byte(t >> 16 & 0xf), byte(t >> 8), byte(t)} }

func appendIP(b []byte, t tag, src, dst netip.Addr, proto byte, payload int) []byte {
	const ttl, dontFragment = 64, 0x4000
	if src.Is6() {
		label := t.label()
		b = append(append(b, 6<<4), label[:]...)
		b = binary.BigEndian.AppendUint16(b, uint16(payload))
		b = append(b, proto, ttl)
		return append(append(b, src.AsSlice()...), dst.AsSlice()...)
	}
	start := len(b)
	b = append(b, 4<<4|5, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(20+payload))
	b = binary.BigEndian.AppendUint16(b, t.id())
	b = binary.BigEndian.AppendUint16(b, dontFragment)
	b = append(b, ttl, proto, 0, 0)
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(b[start+10:], fold(sum(0, b[start:])))
	return b
}

// quote is the start of a packet that the end sends: IP header and eight bytes.
func quote(end conntrack.Tuple) []byte {
	const size = 8
	b := appendIP(nil, tag(rand.Uint32()), end.Src, end.Dst, byte(end.Proto), size)
	switch end.Proto {
	case conntrack.ProtoICMP, conntrack.ProtoICMPv6:
		b = append(b, end.ICMPType, end.ICMPCode, 0, 0)
		b = binary.BigEndian.AppendUint16(b, end.ICMPID)
		return append(b, 0, 0)
	default:
		b = binary.BigEndian.AppendUint16(b, end.SrcPort)
		b = binary.BigEndian.AppendUint16(b, end.DstPort)
		return append(b, 0, size, 0, 0)
	}
}

// checksum is that of TCP, UDP and ICMPv6, with the pseudo header.
func checksum(src, dst netip.Addr, proto byte, payload []byte) uint16 {
	s := sum(sum(0, src.AsSlice()), dst.AsSlice())
	return fold(sum(s+uint32(proto)+uint32(len(payload)), payload))
}

func sum(s uint32, b []byte) uint32 {
	for len(b) >= 2 {
		s += uint32(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}
