package nft

import (
	"encoding/binary"
	"fmt"
)

// encoder appends netlink attributes to a buffer. Lengths are filled in when
// an attribute is closed, so that nesting needs no second pass.
type encoder struct{ b []byte }

const attrNested = 1 << 15 // NLA_F_NESTED

// bytes appends one attribute with a value as it is.
func (e *encoder) bytes(typ uint16, v []byte) {
	e.header(typ, len(v))
	e.b = append(e.b, v...)
	e.pad()
}

func (e *encoder) header(typ uint16, n int) {
	e.b = binary.NativeEndian.AppendUint16(e.b, uint16(4+n))
	e.b = binary.NativeEndian.AppendUint16(e.b, typ)
}

func (e *encoder) pad() {
	for len(e.b)%4 != 0 {
		e.b = append(e.b, 0)
	}
}

// str appends a NUL-terminated string.
func (e *encoder) str(typ uint16, s string) {
	e.header(typ, len(s)+1)
	e.b = append(append(e.b, s...), 0)
	e.pad()
}

func (e *encoder) u8(typ uint16, v uint8) { e.bytes(typ, []byte{v}) }

// u32 appends a big-endian number, as nf_tables has them.
func (e *encoder) u32(typ uint16, v uint32) {
	e.header(typ, 4)
	e.b = binary.BigEndian.AppendUint32(e.b, v)
}

func (e *encoder) u64(typ uint16, v uint64) {
	e.header(typ, 8)
	e.b = binary.BigEndian.AppendUint64(e.b, v)
}

// nest appends a nested attribute with what f appends.
func (e *encoder) nest(typ uint16, f func()) {
	start := len(e.b)
	e.header(typ|attrNested, 0)
	f()
	binary.NativeEndian.PutUint16(e.b[start:], uint16(len(e.b)-start))
}

// attrs calls f for each attribute of b, nested bit cleared.
func attrs(b []byte, f func(typ uint16, v []byte) error) error {
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		typ := binary.NativeEndian.Uint16(b[2:]) & 0x3fff
		if n < 4 || n > len(b) {
			return fmt.Errorf("nft: attribute %d: length %d of %d bytes left", typ, n, len(b))
		}
		if err := f(typ, b[4:n]); err != nil {
			return err
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

func str(v []byte) string {
	for i, c := range v {
		if c == 0 {
			return string(v[:i])
		}
	}
	return string(v)
}

func u64(v []byte) uint64 {
	if len(v) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}
