package rtnl

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// What is left of a datagram that was cut short is an error at whatever byte
// that was, but between two messages.
func TestParseShort(t *testing.T) {
	message := func(size int) []byte {
		b := binary.NativeEndian.AppendUint32(nil, uint32(size))
		return append(b, make([]byte, size-len(b))...)
	}
	const first, second = 40, 20
	both := bytes.Join([][]byte{message(first), message(second)}, nil)
	for n := 1; n <= len(both); n++ {
		msgs, err := parse(both[:n])
		switch n {
		case first, len(both):
			if err != nil || len(msgs) != 1+n/len(both) {
				t.Errorf("%d of %d bytes: %d messages, %v", n, len(both), len(msgs), err)
			}
		default:
			if err == nil {
				t.Errorf("%d of %d bytes: %d messages and no error", n, len(both), len(msgs))
			}
		}
	}
}
