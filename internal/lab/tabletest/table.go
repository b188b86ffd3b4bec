// Package tabletest gives tests tables of many flows. It is not in labtest, which
// the tests of package conntrack use.
package tabletest

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
)

// FillOwn puts the test's thread into a namespace of its own, with n flows.
func FillOwn(t testing.TB, n int) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the namespace ends with the thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	c, err := conntrack.Dial(conntrack.Config{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.CreateAll(t.Context(), func(yield func(*conntrack.Flow) bool) {
		for i := range n {
			if !yield(&conntrack.Flow{Orig: Tuple(i), Timeout: time.Hour}) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// Tuple returns the i-th of many tuples.
func Tuple(i int) conntrack.Tuple {
	return conntrack.Tuple{
		Src: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), Dst: netip.AddrFrom4([4]byte{10, 2, 0, 1}),
		Proto: conntrack.ProtoUDP, SrcPort: uint16(1 + i>>16), DstPort: 53,
	}
}
