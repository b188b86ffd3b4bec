package nft

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// SetCTMark gives the packet's flow a mark.
func SetCTMark(v uint32) Statement {
	return setCT(fmt.Sprintf("ct mark set %#x", v), unix.NFT_CT_MARK, noDir, U32(v))
}

// SetZone puts the packet into a zone, in both directions. It must come
// before connection tracking, in prerouting or output.
func SetZone(zone uint16) Statement {
	return setCT(fmt.Sprintf("ct zone set %d", zone), unix.NFT_CT_ZONE, noDir, U16(zone))
}

// SetDirZone is SetZone for one direction of the flow that the packet may
// begin.
func SetDirZone(d Dir, zone uint16) Statement {
	return setCT(fmt.Sprintf("ct %s zone set %d", d, zone), unix.NFT_CT_ZONE, d, U16(zone))
}

func setCT(text string, key uint32, dir Dir, v []byte) Statement {
	return assign{text: text, value: func(e *encoder, reg uint32) { immediate(e, reg, v) }, expr: "ct", store: func(e *encoder, reg uint32) {
		e.u32(unix.NFTA_CT_SREG, reg)
		e.u32(unix.NFTA_CT_KEY, key)
		if dir != noDir {
			e.u8(unix.NFTA_CT_DIRECTION, uint8(dir))
		}
	}}
}

// MarkFromFlow gives the packet its flow's mark. Without a flow the packet
// keeps its own.
var MarkFromFlow Statement = assign{
	text: "meta mark set ct mark",
	value: func(e *encoder, reg uint32) {
		expr(e, "ct", func() {
			e.u32(unix.NFTA_CT_DREG, reg)
			e.u32(unix.NFTA_CT_KEY, unix.NFT_CT_MARK)
		})
	},
	expr: "meta",
	store: func(e *encoder, reg uint32) {
		e.u32(unix.NFTA_META_SREG, reg)
		e.u32(unix.NFTA_META_KEY, unix.NFT_META_MARK)
	},
}

// assign stores a value somewhere.
type assign struct {
	text  string
	value func(e *encoder, reg uint32)
	expr  string // kernel's name of the expression that stores it
	store func(e *encoder, reg uint32)
}

func (a assign) append(e *encoder) {
	const reg = unix.NFT_REG_1
	a.value(e, reg)
	expr(e, a.expr, func() { a.store(e, reg) })
}

func (a assign) String() string { return a.text }

// Redirect translates the destination to this host's own address and a port.
func Redirect(port uint16) Statement { return redirect(port) }

type redirect uint16

func (r redirect) append(e *encoder) {
	const reg = unix.NFT_REG_1
	immediate(e, reg, Port(uint16(r)))
	expr(e, "redir", func() { e.u32(unix.NFTA_REDIR_REG_PROTO_MIN, reg) })
}

func (r redirect) String() string { return fmt.Sprintf("redirect to :%d", uint16(r)) }
