package cli

import (
	"encoding/binary"
	"io"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/selector"
)

// fillTable makes n flows in a network namespace of the test's own.
func fillTable(t *testing.T, n int) {
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
			src := [4]byte{10}
			binary.BigEndian.PutUint16(src[2:], uint16(i))
			f := &conntrack.Flow{Timeout: time.Hour, Orig: conntrack.Tuple{
				Src: netip.AddrFrom4(src), Dst: netip.AddrFrom4([4]byte{192, 0, 2, 1}),
				Proto: conntrack.ProtoUDP, SrcPort: 1, DstPort: 53,
			}}
			if !yield(f) {
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

// TestListAllocates holds "flowcut list" to memory that does not grow with the table.
func TestListAllocates(t *testing.T) {
	const few, many = 500, 5000
	formats := []string{"text", "json"}
	count := func(format string) float64 {
		return testing.AllocsPerRun(2, func() {
			if err := list(t.Context(), io.Discard, 0, selector.Selector{}, format); err != nil {
				t.Fatal(err)
			}
		})
	}
	fillTable(t, few)
	base := make(map[string]float64)
	for _, f := range formats {
		base[f] = count(f)
	}
	fillTable(t, many)
	for _, f := range formats {
		if n := count(f); n > base[f]+20 { // the scheduler keeps a few things of its own
			t.Errorf("%s: %v allocations for %d flows, %v for %d", f, base[f], few, n, many)
		}
	}
}
