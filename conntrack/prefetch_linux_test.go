package conntrack

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"
)

// longTable is how many flows make a dump long enough for a goroutine of its
// own: the kernel sends some 150 at a time.
const longTable = 2000

// dialLong returns a client whose table holds n flows.
func dialLong(t testing.TB, n int) *Client {
	t.Helper()
	c := dialTest(t)
	made, err := c.CreateAll(t.Context(), manyFlows(n))
	if err != nil || made != n {
		t.Fatalf("made %d of %d flows: %v", made, n, err)
	}
	return c
}

// prefetching tells whether a goroutine of prefetch is there.
func prefetching() bool {
	buf := make([]byte, 1<<20)
	return strings.Contains(string(buf[:runtime.Stack(buf, true)]), "(*prefetch).run")
}

// ended tells whether the goroutine of prefetch has ended: it may be on its last
// step when the dump is.
func ended() bool {
	for end := time.Now().Add(10 * time.Second); prefetching(); runtime.Gosched() {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// TestDumpEndsItsGoroutine ends long dumps in each way there is.
func TestDumpEndsItsGoroutine(t *testing.T) {
	c := dialLong(t, longTable)
	errBody := errors.New("body")
	for _, test := range []struct {
		name string
		body func(i int, cancel context.CancelFunc) (stop bool)
		want error
	}{
		{"all", func(int, context.CancelFunc) bool { return false }, nil},
		{"stop", func(i int, _ context.CancelFunc) bool { return i == longTable/2 }, nil},
		{"context", func(i int, cancel context.CancelFunc) bool {
			if i == longTable/2 {
				cancel()
			}
			return false
		}, context.Canceled},
		{"panic", func(i int, _ context.CancelFunc) bool {
			if i == longTable/2 {
				panic(errBody)
			}
			return false
		}, errBody},
	} {
		seen := false
		dump := func() (err error) {
			defer func() {
				if r := recover(); r != nil {
					err, _ = r.(error)
				}
			}()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			i := 0
			for _, err := range c.Dump(ctx, Filter{}) {
				if err != nil {
					return err
				}
				if i++; i == longTable/2 {
					seen = prefetching()
				}
				if test.body(i, cancel) {
					break
				}
			}
			return nil
		}
		if err := dump(); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		if !seen {
			t.Errorf("%s: no goroutine in the middle of a long dump", test.name)
		}
		if !ended() {
			t.Errorf("%s: the goroutine is still there", test.name)
		}
		if n := len(collect(t, c, Filter{})); n != longTable {
			t.Errorf("%s: the next dump had %d flows, want %d", test.name, n, longTable)
		}
	}
}

// TestCloseInLongDump closes the client in the middle of a long dump.
func TestCloseInLongDump(t *testing.T) {
	inNewNetNS(t)
	c, err := Dial(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateAll(t.Context(), manyFlows(longTable)); err != nil {
		t.Fatal(err)
	}
	i := 0
	var last error
	for _, err := range c.Dump(t.Context(), Filter{}) {
		if i++; i == longTable/2 {
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		}
		last = err
	}
	if !errors.Is(last, ErrClosed) || i > longTable/2+1000 {
		t.Errorf("%d flows, then %v, want %v soon", i, last, ErrClosed)
	}
	if !ended() {
		t.Error("the goroutine is still there")
	}
}

// TestDumpAllocates holds a dump to memory that does not grow with the table.
func TestDumpAllocates(t *testing.T) {
	c := dialLong(t, longTable)
	few := dumpAllocs(t, c, longTable)
	c = dialLong(t, 10*longTable)
	many := dumpAllocs(t, c, 10*longTable)
	if many > few+10 { // some 150 pieces; the scheduler keeps a few things of its own
		t.Errorf("%v allocations for %d flows, %v for %d", few, longTable, many, 10*longTable)
	}
}

// dumpAllocs returns the allocations of a dump of want flows.
func dumpAllocs(t *testing.T, c *Client, want int) float64 {
	return testing.AllocsPerRun(3, func() {
		got := 0
		for _, err := range c.Dump(t.Context(), Filter{}) {
			if err != nil {
				t.Fatal(err)
			}
			got++
		}
		if got != want {
			t.Fatalf("dumped %d of %d", got, want)
		}
	})
}
