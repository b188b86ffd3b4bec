package nft

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Statement is one part of a rule: a condition, an effect or a verdict.
type Statement interface {
	append(e *encoder)
	String() string // nft(8)'s words
}

// Compare holds for packets whose operand, masked, equals a value.
type Compare struct {
	Op    Operand
	Mask  []byte // nil: all bits
	Not   bool
	Value []byte
}

// Equal holds when the operand has the value, given in the operand's own
// byte order: network order from the packet, host order for marks and bits.
func Equal(o Operand, v []byte) Compare { return Compare{Op: o, Value: v} }

// Bits holds when the operand, a host-order bit set of 32 bits, masked is v.
func Bits(o Operand, mask, v uint32) Compare { return Compare{Op: o, Mask: U32(mask), Value: U32(v)} }

// AnyBit holds when the operand has one of the bits.
func AnyBit(o Operand, mask uint32) Compare {
	return Compare{Op: o, Mask: U32(mask), Not: true, Value: U32(0)}
}

// U32 is a number in host byte order.
func U32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// U16 is a number in host byte order.
func U16(v uint16) []byte { return binary.NativeEndian.AppendUint16(nil, v) }

// Port is a number in network byte order.
func Port(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

// Name is an interface name, padded as the kernel compares it.
func Name(s string) []byte { return append([]byte(s), make([]byte, 16-len(s))...) }

func (c Compare) append(e *encoder) {
	reg := loadAll(e, []Operand{c.Op})
	if c.Mask != nil {
		mask(e, reg, c.Mask)
	}
	op := uint32(unix.NFT_CMP_EQ)
	if c.Not {
		op = unix.NFT_CMP_NEQ
	}
	expr(e, "cmp", func() {
		e.u32(unix.NFTA_CMP_SREG, reg)
		e.u32(unix.NFTA_CMP_OP, op)
		e.nest(unix.NFTA_CMP_DATA, func() { e.bytes(unix.NFTA_DATA_VALUE, c.Value) })
	})
}

func mask(e *encoder, reg uint32, m []byte) {
	expr(e, "bitwise", func() {
		e.u32(unix.NFTA_BITWISE_SREG, reg)
		e.u32(unix.NFTA_BITWISE_DREG, reg)
		e.u32(unix.NFTA_BITWISE_LEN, uint32(len(m)))
		e.nest(unix.NFTA_BITWISE_MASK, func() { e.bytes(unix.NFTA_DATA_VALUE, m) })
		e.nest(unix.NFTA_BITWISE_XOR, func() { e.bytes(unix.NFTA_DATA_VALUE, make([]byte, len(m))) })
	})
}

func (c Compare) String() string {
	op := " "
	if c.Not {
		op = " != "
	}
	v := format(c.Op.typ, c.Value)
	if c.Mask == nil {
		return c.Op.name + op + v
	}
	if !c.Not {
		op = " == "
	}
	return c.Op.name + " & " + format(c.Op.typ, c.Mask) + op + v
}

// format writes a value of a type so that nft(8) reads it back.
func format(t Type, v []byte) string {
	switch {
	case t == TypeIPv4 || t == TypeIPv6:
		a, _ := netip.AddrFromSlice(v)
		return a.String()
	case t == TypePort:
		return fmt.Sprint(binary.BigEndian.Uint16(v))
	case t == TypeEther:
		return fmt.Sprintf("%#x", binary.BigEndian.Uint16(v))
	case t.Len == 1:
		return fmt.Sprint(v[0])
	case t == TypeZone:
		return fmt.Sprint(binary.NativeEndian.Uint16(v))
	case t == TypeInteger:
		return fmt.Sprint(binary.BigEndian.Uint32(v))
	case t.Len == 4:
		return fmt.Sprintf("%#x", binary.NativeEndian.Uint32(v))
	case t.ID == 41:
		return `"` + str(v) + `"`
	}
	return "0x" + hex.EncodeToString(v)
}

// Range holds when the operand lies between two values, both included.
type Range struct {
	Op       Operand
	Not      bool
	From, To []byte
}

func (r Range) append(e *encoder) {
	reg := loadAll(e, []Operand{r.Op})
	op := uint32(unix.NFT_RANGE_EQ)
	if r.Not {
		op = unix.NFT_RANGE_NEQ
	}
	expr(e, "range", func() {
		e.u32(unix.NFTA_RANGE_SREG, reg)
		e.u32(unix.NFTA_RANGE_OP, op)
		e.nest(unix.NFTA_RANGE_FROM_DATA, func() { e.bytes(unix.NFTA_DATA_VALUE, r.From) })
		e.nest(unix.NFTA_RANGE_TO_DATA, func() { e.bytes(unix.NFTA_DATA_VALUE, r.To) })
	})
}

func (r Range) String() string {
	op := " "
	if r.Not {
		op = " != "
	}
	return r.Op.name + op + format(r.Op.typ, r.From) + "-" + format(r.Op.typ, r.To)
}

// Key is a list of operands that together are the key of a set.
type Key []Operand

func (k Key) String() string {
	names := make([]string, len(k))
	for i, o := range k {
		names[i] = o.name
	}
	return strings.Join(names, " . ")
}

// Lookup holds when the key is in the set.
type Lookup struct {
	Key Key
	Not bool
	Set string
}

func (l Lookup) append(e *encoder) {
	reg := loadAll(e, l.Key)
	expr(e, "lookup", func() {
		e.str(unix.NFTA_LOOKUP_SET, l.Set)
		e.u32(unix.NFTA_LOOKUP_SREG, reg)
		if l.Not {
			e.u32(unix.NFTA_LOOKUP_FLAGS, unix.NFT_LOOKUP_F_INV)
		}
	})
}

func (l Lookup) String() string {
	op := " @"
	if l.Not {
		op = " != @"
	}
	return l.Key.String() + op + l.Set
}

// AddTo adds the key to a dynamic set. A set that is full breaks the rule:
// what follows in it does not happen.
type AddTo struct {
	Key     Key
	Set     string
	Timeout time.Duration // 0: as the set has it; else the element's time is renewed
}

// Operations of a dynset expression, enum nft_dynset_ops.
const (
	dynsetAdd    = 0 // NFT_DYNSET_OP_ADD
	dynsetUpdate = 1 // NFT_DYNSET_OP_UPDATE
)

func (a AddTo) append(e *encoder) {
	reg := loadAll(e, a.Key)
	expr(e, "dynset", func() {
		e.str(unix.NFTA_DYNSET_SET_NAME, a.Set)
		e.u32(unix.NFTA_DYNSET_SREG_KEY, reg)
		if a.Timeout == 0 {
			e.u32(unix.NFTA_DYNSET_OP, dynsetAdd)
			return
		}
		e.u32(unix.NFTA_DYNSET_OP, dynsetUpdate)
		e.u64(unix.NFTA_DYNSET_TIMEOUT, uint64(a.Timeout.Milliseconds()))
	})
}

func (a AddTo) String() string {
	if a.Timeout == 0 {
		return "add @" + a.Set + " { " + a.Key.String() + " }"
	}
	return fmt.Sprintf("update @%s { %s timeout %dms }", a.Set, a.Key, a.Timeout.Milliseconds())
}

// plain is an expression with at most fixed attributes.
type plain struct {
	text, expr string
	data       func(e *encoder)
}

func (p plain) append(e *encoder) {
	expr(e, p.expr, func() {
		if p.data != nil {
			p.data(e)
		}
	})
}

func (p plain) String() string { return p.text }

// Effects without parameters.
var (
	Counter    Statement = plain{text: "counter", expr: "counter"}
	Notrack    Statement = plain{text: "notrack", expr: "notrack"}
	Masquerade Statement = plain{text: "masquerade", expr: "masq"}
	Reset      Statement = reject("reject with tcp reset", unix.NFT_REJECT_TCP_RST, 0)
)

func reject(text string, typ uint32, code uint8) Statement {
	return plain{text: text, expr: "reject", data: func(e *encoder) {
		e.u32(unix.NFTA_REJECT_TYPE, typ)
		e.u8(unix.NFTA_REJECT_ICMP_CODE, code)
	}}
}

// Unreachable drops the packet and answers with an ICMP port unreachable;
// the kernel limits how many it sends.
func Unreachable(f Family) Statement {
	if f == IPv6 {
		return reject("reject with icmpv6 port-unreachable", unix.NFT_REJECT_ICMP_UNREACH, 4)
	}
	return reject("reject with icmp port-unreachable", unix.NFT_REJECT_ICMP_UNREACH, 3)
}

func verdict(text string, code int32, chain string) Statement {
	return plain{text: text, expr: "immediate", data: func(e *encoder) {
		e.u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		e.nest(unix.NFTA_IMMEDIATE_DATA, func() {
			e.nest(unix.NFTA_DATA_VERDICT, func() {
				e.u32(unix.NFTA_VERDICT_CODE, uint32(code))
				if chain != "" {
					e.str(unix.NFTA_VERDICT_CHAIN, chain)
				}
			})
		})
	}}
}

// Verdicts.
var (
	Accept = verdict("accept", 1, "") // NF_ACCEPT
	Drop   = verdict("drop", 0, "")   // NF_DROP
)

// Goto goes on in another chain and does not come back.
func Goto(chain string) Statement { return verdict("goto "+chain, unix.NFT_GOTO, chain) }

// Jump goes on in another chain and comes back.
func Jump(chain string) Statement { return verdict("jump "+chain, unix.NFT_JUMP, chain) }

// DNAT translates the destination. Port 0 keeps the port.
func DNAT(a netip.Addr, port uint16) Statement { return nat("dnat", unix.NFT_NAT_DNAT, a, port) }

// SNAT translates the source. Port 0 keeps the port where it can.
func SNAT(a netip.Addr, port uint16) Statement { return nat("snat", unix.NFT_NAT_SNAT, a, port) }

type natStatement struct {
	name string
	typ  uint32
	to   netip.Addr
	port uint16
}

func nat(name string, typ uint32, a netip.Addr, port uint16) Statement {
	return natStatement{name, typ, a, port}
}

func (n natStatement) append(e *encoder) {
	const addrReg, portReg = unix.NFT_REG_1, unix.NFT_REG_2
	immediate(e, addrReg, n.to.AsSlice())
	if n.port != 0 {
		immediate(e, portReg, Port(n.port))
	}
	expr(e, "nat", func() {
		e.u32(unix.NFTA_NAT_TYPE, n.typ)
		family := uint32(IPv4)
		if n.to.Is6() {
			family = uint32(IPv6)
		}
		e.u32(unix.NFTA_NAT_FAMILY, family)
		e.u32(unix.NFTA_NAT_REG_ADDR_MIN, addrReg)
		if n.port != 0 {
			e.u32(unix.NFTA_NAT_REG_PROTO_MIN, portReg)
		}
	})
}

func immediate(e *encoder, reg uint32, v []byte) {
	expr(e, "immediate", func() {
		e.u32(unix.NFTA_IMMEDIATE_DREG, reg)
		e.nest(unix.NFTA_IMMEDIATE_DATA, func() { e.bytes(unix.NFTA_DATA_VALUE, v) })
	})
}

func (n natStatement) String() string {
	if n.port == 0 {
		return n.name + " to " + n.to.String()
	}
	return n.name + " to " + netip.AddrPortFrom(n.to, n.port).String()
}
