package conntrack

import (
	"encoding/binary"
	"fmt"
)

// attrHeaderLen is the size of struct nlattr.
const attrHeaderLen = 4

// The flag bits of an attribute's type.
const (
	attrNested   = 0x8000 // NLA_F_NESTED
	attrTypeMask = 0x3fff // NLA_TYPE_MASK
)

// attrType is the type of a netlink attribute within one nest.
type attrType uint16

// nextAttr takes the first attribute from b. name is the nest that b is the
// payload of, for the error.
func nextAttr(b []byte, name string) (t attrType, v, rest []byte, err error) {
	if len(b) < attrHeaderLen {
		return 0, nil, nil, attrError(b, name)
	}
	n := int(binary.NativeEndian.Uint16(b))
	if n < attrHeaderLen || n > len(b) {
		return 0, nil, nil, attrError(b, name)
	}
	// The last attribute of a nest may come without its padding.
	return attrType(binary.NativeEndian.Uint16(b[2:])) & attrTypeMask, b[attrHeaderLen:n], b[min(align4(n), len(b)):], nil
}

// attrError tells why b does not begin with an attribute.
func attrError(b []byte, name string) error {
	if len(b) < attrHeaderLen {
		return lengthError(name+" attribute header", len(b), attrHeaderLen)
	}
	n := int(binary.NativeEndian.Uint16(b))
	t := attrType(binary.NativeEndian.Uint16(b[2:])) & attrTypeMask
	if n < attrHeaderLen {
		return lengthError(fmt.Sprintf("%s attribute %d", name, t), n, attrHeaderLen)
	}
	return fmt.Errorf("%s attribute %d: %d bytes, %d left", name, t, n, len(b))
}

// align4 rounds n up to the alignment of netlink attributes and messages.
func align4(n int) int { return (n + 3) &^ 3 }

// lengthError says that an attribute is not as long as its type asks.
func lengthError(name string, have, want int) error {
	return fmt.Errorf("%s: %d bytes, want %d", name, have, want)
}

// parseUint8 reads the one byte of the attribute called name.
func parseUint8(v []byte, name string) (uint8, error) {
	if len(v) != 1 {
		return 0, lengthError(name, len(v), 1)
	}
	return v[0], nil
}

// parseUint16 reads a big-endian 16-bit attribute.
func parseUint16(v []byte, name string) (uint16, error) {
	if len(v) != 2 {
		return 0, lengthError(name, len(v), 2)
	}
	return binary.BigEndian.Uint16(v), nil
}

// parseUint32 reads a big-endian 32-bit attribute.
func parseUint32(v []byte, name string) (uint32, error) {
	if len(v) != 4 {
		return 0, lengthError(name, len(v), 4)
	}
	return binary.BigEndian.Uint32(v), nil
}

// parseUint64 reads a big-endian 64-bit attribute.
func parseUint64(v []byte, name string) (uint64, error) {
	if len(v) != 8 {
		return 0, lengthError(name, len(v), 8)
	}
	return binary.BigEndian.Uint64(v), nil
}

// parseString reads a string attribute, with or without its closing NUL.
func parseString(v []byte) string {
	if n := len(v); n > 0 && v[n-1] == 0 {
		v = v[:n-1]
	}
	return string(v)
}

// appendAttr appends an attribute with payload v and its padding.
func appendAttr(b []byte, t attrType, v []byte) []byte {
	b = appendAttrHeader(b, t, len(v))
	b = append(b, v...)
	return appendPadding(b, len(v))
}

// appendAttrHeader appends struct nlattr for a payload of n bytes.
func appendAttrHeader(b []byte, t attrType, n int) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(attrHeaderLen+n))
	return binary.NativeEndian.AppendUint16(b, uint16(t))
}

// appendPadding appends what is missing to the alignment after n bytes.
func appendPadding(b []byte, n int) []byte {
	for range align4(n) - n {
		b = append(b, 0)
	}
	return b
}

// appendUint8 appends a one-byte attribute.
func appendUint8(b []byte, t attrType, v uint8) []byte {
	return append(appendAttrHeader(b, t, 1), v, 0, 0, 0)
}

// appendUint16 appends a big-endian 16-bit attribute.
func appendUint16(b []byte, t attrType, v uint16) []byte {
	b = binary.BigEndian.AppendUint16(appendAttrHeader(b, t, 2), v)
	return append(b, 0, 0)
}

// appendUint32 appends a big-endian 32-bit attribute.
func appendUint32(b []byte, t attrType, v uint32) []byte {
	return binary.BigEndian.AppendUint32(appendAttrHeader(b, t, 4), v)
}

// appendUint64 appends a big-endian 64-bit attribute.
func appendUint64(b []byte, t attrType, v uint64) []byte {
	return binary.BigEndian.AppendUint64(appendAttrHeader(b, t, 8), v)
}

// appendString appends a string attribute with its closing NUL.
func appendString(b []byte, t attrType, v string) []byte {
	b = appendAttrHeader(b, t, len(v)+1)
	b = append(b, v...)
	return appendPadding(append(b, 0), len(v)+1)
}

// beginNest appends the header of a nest and returns where it starts;
// endNest completes it.
func beginNest(b []byte, t attrType) ([]byte, int) {
	return appendAttrHeader(b, t|attrNested, 0), len(b)
}

// endNest writes the length of the nest that starts at start.
func endNest(b []byte, start int) []byte {
	binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start))
	return b
}
