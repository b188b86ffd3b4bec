package personality

import (
	"context"
	"io"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
)

// fillOwn makes n flows in a network namespace of the test's own.
func fillOwn(t *testing.T, n int) {
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
			if !yield(&conntrack.Flow{Orig: flowTuple(i), Timeout: time.Hour}) {
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

// TestListAllocates holds -L to memory that does not grow with the table.
func TestListAllocates(t *testing.T) {
	const few, many = 500, 5000
	formats := [][]string{nil, {"-o", "extended,id,ktimestamp"}, {"-o", "save"}, {"-o", "xml"}}
	count := func(args []string) float64 {
		return testing.AllocsPerRun(2, func() {
			args := append([]string{"-L"}, args...)
			if code := Run(context.Background(), Config{Args: args, Stdout: io.Discard, Stderr: io.Discard}); code != 0 {
				t.Fatalf("code %d", code)
			}
		})
	}
	fillOwn(t, few)
	var base []float64
	for _, f := range formats {
		base = append(base, count(f))
	}
	fillOwn(t, many)
	for i, f := range formats {
		if n := count(f); n > base[i]+20 { // the scheduler keeps a few things of its own
			t.Errorf("%q: %v allocations for %d flows, %v for %d", f, base[i], few, n, many)
		}
	}
}
