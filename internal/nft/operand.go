package nft

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Operand is a value that a rule loads from the packet or its flow.
type Operand struct {
	name string // in nft(8)'s words
	typ  Type
	expr string // kernel's name of the expression that loads it
	load func(e *encoder, reg uint32)
}

// String returns the operand in nft(8)'s words.
func (o Operand) String() string { return o.name }

// Type returns the type of the value.
func (o Operand) Type() Type { return o.typ }

// Type is a data type: its number in nft(8), which the kernel only carries,
// and its length in bytes.
type Type struct {
	ID  uint32
	Len int
}

// Types, with the numbers that nft(8) gives them (enum datatypes).
var (
	TypeInteger = Type{4, 4}
	TypeIPv4    = Type{7, 4}  // ipv4_addr
	TypeIPv6    = Type{8, 16} // ipv6_addr
	TypeEther   = Type{10, 2} // ether_type
	TypeProto   = Type{12, 1} // inet_proto
	TypePort    = Type{13, 2} // inet_service
	TypeTCPFlag = Type{15, 1} // tcp_flag
	TypeMark    = Type{19, 4} // mark
	TypeState   = Type{26, 4} // ct_state
	TypeDir     = Type{27, 1} // ct_dir
	TypeStatus  = Type{28, 4} // ct_status
	TypeZone    = Type{4, 2}  // integer
	TypeFib     = Type{40, 4} // fib_addrtype
)

// Dir is a direction of a flow.
type Dir uint8

// Directions, enum ip_conntrack_dir.
const (
	Original Dir = 0
	Reply    Dir = 1
	noDir    Dir = 0xff
)

func (d Dir) String() string { return [...]string{"original", "reply"}[d] }

func ct(name string, key uint32, dir Dir, typ Type) Operand {
	return Operand{name: name, typ: typ, expr: "ct", load: func(e *encoder, reg uint32) {
		e.u32(unix.NFTA_CT_DREG, reg)
		e.u32(unix.NFTA_CT_KEY, key)
		if dir != noDir {
			e.u8(unix.NFTA_CT_DIRECTION, uint8(dir))
		}
	}}
}

// What a flow has, whatever its direction. They break the rule for packets
// without a flow (invalid, untracked), but for CTState.
var (
	CTState  = ct("ct state", unix.NFT_CT_STATE, noDir, TypeState)
	CTStatus = ct("ct status", unix.NFT_CT_STATUS, noDir, TypeStatus)
	// CTID is the entry's ID, bytes as in CTA_ID. nft(8) has no type of its own
	// for it; known before the entry is confirmed from Linux 5.4 on.
	CTID = ct("ct id", unix.NFT_CT_ID, noDir, TypeMark)
	// CTProto is the protocol of the flow. An ICMP error about a UDP flow has
	// UDP here and ICMP in MetaL4Proto.
	CTProto = ct("ct protocol", unix.NFT_CT_PROTOCOL, noDir, TypeProto)
)

// CTSrc is the source address of one tuple of the flow.
func CTSrc(f Family, d Dir) Operand {
	if f == IPv6 {
		return ct("ct "+d.String()+" ip6 saddr", unix.NFT_CT_SRC_IP6, d, TypeIPv6)
	}
	return ct("ct "+d.String()+" ip saddr", unix.NFT_CT_SRC_IP, d, TypeIPv4)
}

// CTDst is the destination address of one tuple of the flow.
func CTDst(f Family, d Dir) Operand {
	if f == IPv6 {
		return ct("ct "+d.String()+" ip6 daddr", unix.NFT_CT_DST_IP6, d, TypeIPv6)
	}
	return ct("ct "+d.String()+" ip daddr", unix.NFT_CT_DST_IP, d, TypeIPv4)
}

// CTProtoSrc is the source port (GRE key, ICMP id) of one tuple of the flow.
func CTProtoSrc(d Dir) Operand {
	return ct("ct "+d.String()+" proto-src", unix.NFT_CT_PROTO_SRC, d, TypePort)
}

// CTProtoDst is the destination port (GRE key, ICMP type and code) of one tuple.
func CTProtoDst(d Dir) Operand {
	return ct("ct "+d.String()+" proto-dst", unix.NFT_CT_PROTO_DST, d, TypePort)
}

// CTDirZone is the zone of one direction of the flow.
func CTDirZone(d Dir) Operand {
	return ct("ct "+d.String()+" zone", unix.NFT_CT_ZONE, d, TypeZone)
}

func meta(name string, key uint32, typ Type) Operand {
	return Operand{name: name, typ: typ, expr: "meta", load: func(e *encoder, reg uint32) {
		e.u32(unix.NFTA_META_DREG, reg)
		e.u32(unix.NFTA_META_KEY, key)
	}}
}

const metaIIFKind = 26 // NFT_META_IIFKIND

// What the packet has besides its bytes.
var (
	MetaL4Proto  = meta("meta l4proto", unix.NFT_META_L4PROTO, TypeProto)
	MetaProtocol = meta("meta protocol", unix.NFT_META_PROTOCOL, TypeEther) // all packets of a table ip or ip6 have the same, see [Family.EtherType]
	MetaMark     = meta("meta mark", unix.NFT_META_MARK, TypeMark)
	MetaPriority = meta("meta priority", unix.NFT_META_PRIORITY, Type{23, 4})
	MetaIIFKind  = meta("meta iifkind", metaIIFKind, Type{41, 16}) // such as "bridge"; Linux 5.0
	MetaIIFName  = meta("iifname", unix.NFT_META_IIFNAME, Type{41, 16})
	MetaOIFName  = meta("oifname", unix.NFT_META_OIFNAME, Type{41, 16})
)

// Base is where the offset of a payload operand counts from.
type Base uint32

// Bases, enum nft_payload_bases.
const (
	NetworkHeader   Base = unix.NFT_PAYLOAD_NETWORK_HEADER
	TransportHeader Base = unix.NFT_PAYLOAD_TRANSPORT_HEADER
)

// Payload is a run of bytes of the packet, network byte order. Without a
// name it is written as nft(8)'s raw payload.
func Payload(name string, base Base, offset uint32, typ Type) Operand {
	if name == "" {
		name = fmt.Sprintf("@%s,%d,%d", map[Base]string{NetworkHeader: "nh", TransportHeader: "th"}[base], offset*8, typ.Len*8)
	}
	return Operand{name: name, typ: typ, expr: "payload", load: func(e *encoder, reg uint32) {
		e.u32(unix.NFTA_PAYLOAD_DREG, reg)
		e.u32(unix.NFTA_PAYLOAD_BASE, uint32(base))
		e.u32(unix.NFTA_PAYLOAD_OFFSET, offset)
		e.u32(unix.NFTA_PAYLOAD_LEN, uint32(typ.Len))
	}}
}

// The packet's own addresses and ports. Ports need a protocol that has them
// and break the rule in later fragments.
var (
	ipSrc    = Payload("ip saddr", NetworkHeader, 12, TypeIPv4)
	ipDst    = Payload("ip daddr", NetworkHeader, 16, TypeIPv4)
	ip6Src   = Payload("ip6 saddr", NetworkHeader, 8, TypeIPv6)
	ip6Dst   = Payload("ip6 daddr", NetworkHeader, 24, TypeIPv6)
	SrcPort  = Payload("th sport", TransportHeader, 0, TypePort)
	DstPort  = Payload("th dport", TransportHeader, 2, TypePort)
	TCPFlags = Payload("tcp flags", TransportHeader, 13, TypeTCPFlag)
	TCPSeq   = Payload("tcp sequence", TransportHeader, 4, TypeInteger)
	TCPAck   = Payload("tcp ackseq", TransportHeader, 8, TypeMark) // in sets nft(8) needs a type with a length
)

// Src is the packet's source address.
func Src(f Family) Operand {
	if f == IPv6 {
		return ip6Src
	}
	return ipSrc
}

// Dst is the packet's destination address.
func Dst(f Family) Operand {
	if f == IPv6 {
		return ip6Dst
	}
	return ipDst
}

// loadAll loads operands into successive registers, each at a multiple of
// four bytes, as concatenated keys want it, and returns the first register.
func loadAll(e *encoder, ops []Operand) uint32 {
	reg := uint32(unix.NFT_REG32_00)
	for _, o := range ops {
		expr(e, o.expr, func() { o.load(e, reg) })
		reg += uint32(o.typ.Len+3) / 4
	}
	return unix.NFT_REG32_00
}

// expr appends one expression to the list of a rule.
func expr(e *encoder, name string, data func()) {
	e.nest(unix.NFTA_LIST_ELEM, func() {
		e.str(unix.NFTA_EXPR_NAME, name)
		e.nest(unix.NFTA_EXPR_DATA, data)
	})
}
