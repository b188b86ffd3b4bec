package conntrack

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
)

// Labels is the 128-bit label set, bit 0 is the lowest bit of the first byte.
//
// Wire: CTA_LABELS, 16 bytes, an array of unsigned long in the order of the
// machine; a shorter value of whole 32-bit words is filled with zeroes. The
// kernel sends it only if a bit is set.
type Labels [16]byte

// NumLabels is how many labels there are, numbered from 0.
const NumLabels = 128

// Test tells whether label n is set. It is false for n outside of 0 to 127.
func (l *Labels) Test(n int) bool {
	return n >= 0 && n < NumLabels && l[n/8]&(1<<(n%8)) != 0
}

// Set sets label n.
func (l *Labels) Set(n int) error {
	if n < 0 || n >= NumLabels {
		return fmt.Errorf("conntrack: no such label: %d", n)
	}
	l[n/8] |= 1 << (n % 8)
	return nil
}

// parse reads CTA_LABELS.
func (l *Labels) parse(v []byte) error {
	if len(v) > len(l) || len(v)%4 != 0 {
		return lengthError("CTA_LABELS", len(v), len(l))
	}
	*l = Labels{}
	copy(l[:], v)
	*l = l.turned()
	return nil
}

// bigEndian tells whether this machine has the high byte of a number first.
var bigEndian = binary.NativeEndian.Uint16([]byte{0, 1}) == 1

// turned returns labels as the kernel has them, given ours, and ours given the
// kernel's. Its unsigned long is taken to be as long as this program's.
// Source: struct nf_conn_labels in include/net/netfilter/nf_conntrack_labels.h.
func (l Labels) turned() Labels {
	if bigEndian {
		const long = bits.UintSize / 8
		for at := 0; at < len(l); at += long {
			slices.Reverse(l[at : at+long])
		}
	}
	return l
}
