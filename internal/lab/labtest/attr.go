package labtest

import "encoding/binary"

// Attr is one netlink attribute; its value is what follows, padded.
func Attr(typ uint16, values ...[]byte) []byte {
	b := []byte{0, 0, 0, 0}
	for _, v := range values {
		b = append(b, v...)
	}
	binary.NativeEndian.PutUint16(b, uint16(len(b)))
	binary.NativeEndian.PutUint16(b[2:], typ)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// Text is a string as attributes have it.
func Text(s string) []byte { return append([]byte(s), 0) }
