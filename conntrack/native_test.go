package conntrack

import (
	"encoding/binary"
	"math/bits"
	"testing"
)

// native puts attributes that a little-endian machine has captured into the
// order of this one: their headers, and labels. All else is big-endian anywhere.
func native(t testing.TB, b []byte) {
	t.Helper()
	for len(b) > 0 {
		n, typ := int(binary.LittleEndian.Uint16(b)), binary.LittleEndian.Uint16(b[2:])
		if n < attrHeaderLen || n > len(b) {
			t.Fatalf("attribute %#x: %d bytes, %d left", typ, n, len(b))
		}
		binary.NativeEndian.PutUint16(b, uint16(n))
		binary.NativeEndian.PutUint16(b[2:], typ)
		switch v := b[attrHeaderLen:n]; {
		case typ&attrNested != 0:
			native(t, v)
		case attrType(typ) == attrLabels && len(v) == len(Labels{}):
			for n := range NumLabels / bits.UintSize {
				putWord(v, n, binary.LittleEndian.Uint32, binary.LittleEndian.Uint64)
			}
		}
		b = b[min(align4(n), len(b)):]
	}
}

// putWord writes the n-th unsigned long of b, as it is read from there, in the
// order of this machine.
func putWord(b []byte, n int, read32 func([]byte) uint32, read64 func([]byte) uint64) {
	if bits.UintSize == 32 {
		binary.NativeEndian.PutUint32(b[4*n:], read32(b[4*n:]))
	} else {
		binary.NativeEndian.PutUint64(b[8*n:], read64(b[8*n:]))
	}
}

// TestLabelsOfTheMachine: the kernel has label n as a bit of an array of
// unsigned long.
func TestLabelsOfTheMachine(t *testing.T) {
	for _, n := range []int{0, 7, 8, 31, 32, 63, 64, 127} {
		wire := make([]byte, len(Labels{}))
		putWord(wire, n/bits.UintSize, func([]byte) uint32 { return 1 << (n % 32) }, func([]byte) uint64 { return 1 << (n % 64) })
		var f, want Flow
		if err := f.Labels.parse(wire); err != nil {
			t.Fatal(err)
		}
		if err := want.Labels.Set(n); err != nil {
			t.Fatal(err)
		}
		if f.Labels != want.Labels {
			t.Errorf("label %d: %x from %x", n, f.Labels, wire)
		}
		if got := f.Labels.turned(); string(got[:]) != string(wire) {
			t.Errorf("label %d: %x for the kernel, want %x", n, got, wire)
		}
	}
}
