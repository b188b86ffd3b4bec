package rtnl

import (
	"encoding/binary"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Attr is an attribute that is read.
type Attr = netlink.AttributeDecoder

// Append appends an attribute to a message.
func Append(b []byte, typ uint16, data []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(data)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	return pad(append(b, data...))
}

// AppendUint32 appends an attribute that is a number.
func AppendUint32(b []byte, typ uint16, v uint32) []byte {
	return Append(b, typ, binary.NativeEndian.AppendUint32(nil, v))
}

// pad fills up to NLMSG_ALIGNTO.
func pad(b []byte) []byte {
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// Parse calls f for each attribute of a message, and returns its fixed header.
func Parse(data []byte, header int, f func(*Attr)) (fixed []byte, err error) {
	if len(data) < header {
		return nil, fmt.Errorf("a netlink message of %d bytes, its header has %d", len(data), header)
	}
	return data[:header], Each(data[header:], f)
}

// Each calls f for each attribute in b.
func Each(b []byte, f func(*Attr)) error {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return fmt.Errorf("netlink attributes: %w", err)
	}
	return eachOf(ad, f)
}

// Inside calls f for each attribute nested in the one that ad is at.
func Inside(ad *Attr, f func(*Attr)) {
	ad.Nested(func(nested *Attr) error { return eachOf(nested, f) })
}

func eachOf(ad *Attr, f func(*Attr)) error {
	for ad.Next() {
		f(ad)
	}
	if err := ad.Err(); err != nil {
		return fmt.Errorf("netlink attributes: %w", err)
	}
	return nil
}
