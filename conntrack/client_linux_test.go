package conntrack

import (
	"context"
	"errors"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// collect dumps what matches x.
func collect(t testing.TB, c *Client, x Filter) []*Flow {
	t.Helper()
	var all []*Flow
	for f, err := range c.Dump(t.Context(), x) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f.Clone())
	}
	return all
}

// only dumps the one flow of the table.
func only(t testing.TB, c *Client) *Flow {
	t.Helper()
	all := collect(t, c, Filter{})
	if len(all) != 1 {
		t.Fatalf("%d flows in the table, want 1", len(all))
	}
	return all[0]
}

// mustCreate makes entries of flows.
func mustCreate(t testing.TB, c *Client, flows ...*Flow) {
	t.Helper()
	for _, f := range flows {
		if err := c.Create(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
}

// settle clears what differs from run to run, after checking it.
func settle(t testing.TB, f *Flow) {
	t.Helper()
	if f.Has&AttrID == 0 || f.Has&AttrUse == 0 || f.Use == 0 {
		t.Fatalf("flow without ID or use: %+v", f)
	}
	if f.Timeout > 100*time.Second || f.Timeout < 90*time.Second {
		t.Fatalf("timeout %v, want 100 s", f.Timeout)
	}
	f.ID, f.Use, f.Timeout = 0, 0, 100*time.Second
}

// mustDelete deletes keys that all have an entry.
func mustDelete(t testing.TB, c *Client, keys ...Key) {
	t.Helper()
	n, err := c.Delete(t.Context(), keys, func(i int) { t.Errorf("already gone: %v", keys[i]) })
	if err != nil || n != len(keys) {
		t.Fatalf("deleted %d of %d: %v", n, len(keys), err)
	}
}

// TestStaleAnswer leaves the answer to one request in the queue of another.
func TestStaleAnswer(t *testing.T) {
	c := dialTest(t)
	s, err := c.take()
	if err != nil {
		t.Fatal(err)
	}
	s.request(msgGet, flagAck, FamilyIPv4, versionPlain) // no tuple: EINVAL
	s.seal()
	if err := s.send(s.out); err != nil {
		t.Fatal(err)
	}
	c.put(s)
	if _, err := c.Count(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestGetMissing(t *testing.T) {
	c := dialTest(t)
	tup := tuple(ProtoTCP, "10.0.0.1:1", "10.0.0.2:2")
	_, err := c.Get(t.Context(), tup, 7)
	if !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("get: %v, want %v", err, os.ErrNotExist)
	}
	const want = "conntrack: get tcp 10.0.0.1:1 -> 10.0.0.2:2 zone 7: no such file or directory"
	if err.Error() != want {
		t.Fatalf("error %q, want %q", err, want)
	}
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Errno != syscall.ENOENT || e.Op != "get" {
		t.Fatalf("error %#v, want an *Error of get with ENOENT", err)
	}
	if _, err := c.Get(t.Context(), Tuple{}, 0); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Fatalf("get of the empty tuple: %v", err)
	}
}

func TestCountAndLimits(t *testing.T) {
	c := dialTest(t)
	if n, err := c.CreateAll(t.Context(), manyFlows(1234)); n != 1234 || err != nil {
		t.Fatalf("created %d: %v", n, err)
	}
	l, err := c.Limits(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if l.Count != 1234 || l.Max < 1234 || l.Buckets == 0 {
		t.Fatalf("limits %+v", l)
	}
	if n, err := c.Count(t.Context()); n != 1234 || err != nil {
		t.Fatalf("count %d, %v", n, err)
	}
}

func TestHas(t *testing.T) {
	c := dialTest(t)
	has := func(want map[Family]bool) {
		t.Helper()
		for f, w := range want {
			if got, err := c.Has(t.Context(), f); got != w || err != nil {
				t.Fatalf("has %v: %v, %v, want %v", f, got, err, w)
			}
		}
	}
	has(map[Family]bool{FamilyBoth: false, FamilyIPv4: false, FamilyIPv6: false})
	mustCreate(t, c, &Flow{Orig: tuple(ProtoUDP, "[::1]:1", "[::2]:2"), Timeout: time.Minute})
	has(map[Family]bool{FamilyBoth: true, FamilyIPv4: false, FamilyIPv6: true})
	if _, err := c.CreateAll(t.Context(), manyFlows(2000)); err != nil {
		t.Fatal(err)
	}
	has(map[Family]bool{FamilyBoth: true, FamilyIPv4: true, FamilyIPv6: true})
}

func TestFlush(t *testing.T) {
	c := dialTest(t)
	fill := func() {
		t.Helper()
		if _, err := c.CreateAll(t.Context(), manyFlows(50)); err != nil {
			t.Fatal(err)
		}
		mustCreate(t, c, &Flow{Orig: tuple(ProtoUDP, "[::1]:1", "[::2]:2"), Timeout: time.Minute})
	}
	for f, want := range map[Family]uint32{FamilyIPv4: 1, FamilyIPv6: 50, FamilyBoth: 0} {
		fill()
		if err := c.Flush(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Count(t.Context()); n != want || err != nil {
			t.Fatalf("after flush of %v: %d entries, %v, want %d", f, n, err, want)
		}
		if err := c.Flush(t.Context(), FamilyBoth); err != nil {
			t.Fatal(err)
		}
	}
	fill()
	if err := c.Flush(t.Context(), 7); err == nil {
		t.Fatal("flush of a family that is none: no error")
	}
	if n, err := c.Count(t.Context()); n != 51 || err != nil {
		t.Fatalf("after a refused flush: %d entries, %v, want 51", n, err)
	}
}

func TestDumpStops(t *testing.T) {
	c := dialTest(t)
	if _, err := c.CreateAll(t.Context(), manyFlows(5000)); err != nil {
		t.Fatal(err)
	}
	t.Run("early", func(t *testing.T) {
		for range 50 {
			for range c.Dump(t.Context(), Filter{}) {
				break
			}
		}
		if n := len(collect(t, c, Filter{})); n != 5000 {
			t.Fatalf("dump after stopped dumps: %d flows, want 5000", n)
		}
	})
	t.Run("panic", func(t *testing.T) {
		func() {
			defer func() { _ = recover() }()
			for range c.Dump(t.Context(), Filter{}) {
				panic("in the loop")
			}
		}()
		if n := len(collect(t, c, Filter{})); n != 5000 {
			t.Fatalf("dump after a panic: %d flows, want 5000", n)
		}
	})
	t.Run("nested", func(t *testing.T) {
		seen := 0
		for f, err := range c.Dump(t.Context(), Filter{}) {
			if err != nil {
				t.Fatal(err)
			}
			if seen++; seen%500 != 0 {
				continue
			}
			if _, err := c.Get(t.Context(), f.Orig, 0); err != nil {
				t.Fatal(err)
			}
		}
		if seen != 5000 {
			t.Fatalf("dumped %d flows, want 5000", seen)
		}
	})
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var seen int
		var last error
		for f, err := range c.Dump(ctx, Filter{}) {
			cancel()
			if last = err; f != nil {
				seen++
			}
		}
		if !errors.Is(last, context.Canceled) || seen == 5000 {
			t.Fatalf("after %d flows: %v, want %v", seen, last, context.Canceled)
		}
	})
	t.Run("close", func(t *testing.T) {
		inNewNetNS(t) // a subtest runs on another thread
		own, err := Dial(Config{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := own.CreateAll(t.Context(), manyFlows(5000)); err != nil {
			t.Fatal(err)
		}
		var last error
		for _, last = range own.Dump(t.Context(), Filter{}) {
			if last == nil {
				_ = own.Close() // twice and more
			}
		}
		if !errors.Is(last, ErrClosed) {
			t.Fatalf("dump: %v, want %v", last, ErrClosed)
		}
		if _, err := own.Count(t.Context()); !errors.Is(err, ErrClosed) {
			t.Fatalf("count: %v, want %v", err, ErrClosed)
		}
	})
}

func TestNetNS(t *testing.T) {
	inNewNetNS(t)
	inside, err := os.Open(threadNS)
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	a, err := Dial(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	mustCreate(t, a, &Flow{Orig: tuple(ProtoUDP, "10.0.0.1:1", "10.0.0.2:2"), Timeout: time.Minute})

	inNewNetNS(t) // now somewhere else
	b, err := Dial(Config{NetNS: int(inside.Fd())})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	// a's further sockets must be in its namespace too, not in the thread's.
	a.drop(slices.Concat(a.idle)[0])
	a.idle = nil
	for name, c := range map[string]*Client{"from another thread's namespace": a, "by descriptor": b} {
		if n, err := c.Count(t.Context()); n != 1 || err != nil {
			t.Errorf("%s: count %d, %v, want 1", name, n, err)
		}
	}
}

func TestWithoutPrivilege(t *testing.T) {
	c := dialTest(t)
	if _, err := c.CreateAll(t.Context(), manyFlows(10)); err != nil {
		t.Fatal(err)
	}
	var keys []Key
	for _, f := range collect(t, c, Filter{}) {
		keys = append(keys, f.Key())
	}
	dropCaps(t)
	own, err := Dial(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	_, countErr := own.Count(t.Context())
	n, deleteErr := own.Delete(t.Context(), keys, func(int) { t.Error("gone") })
	if n != 0 {
		t.Errorf("deleted %d", n)
	}
	_, hasErr := own.Has(t.Context(), FamilyBoth)
	made, createErr := own.CreateAll(t.Context(), manyFlows(10))
	if made != 0 {
		t.Errorf("made %d", made)
	}
	_, probeErr := probeIPv4()
	for name, err := range map[string]error{
		"count": countErr, "delete": deleteErr, "has": hasErr, "create": createErr,
		"flush": own.Flush(t.Context(), FamilyBoth), "probe": probeErr,
	} {
		if !errors.Is(err, os.ErrPermission) {
			t.Errorf("%s: %v, want %v", name, err, os.ErrPermission)
		}
	}
}

// dropCaps takes all capabilities from the calling thread, which must be
// locked and not be given back.
func dropCaps(t testing.TB) {
	t.Helper()
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&h, &none[0]); err != nil {
		t.Fatal(err)
	}
}

// TestConcurrent uses one client from many goroutines, which run on threads of
// other namespaces, and counts descriptors.
func TestConcurrent(t *testing.T) {
	c := dialTest(t)
	keys := fill(t, c, 2000)
	open := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	before := open()
	var g errgroup.Group
	for i := range 8 {
		g.Go(func() error {
			for f, err := range c.Dump(t.Context(), Filter{}) {
				if err != nil {
					return err
				}
				if i%2 == 0 && f.Orig.SrcPort%7 == 0 {
					break
				}
			}
			_, err := c.Delete(t.Context(), keys[i*100:(i+1)*100], nil)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Count(t.Context()); n != 1200 || err != nil {
		t.Fatalf("count %d, %v, want 1200", n, err)
	}
	if after := open(); after > before+maxIdle {
		t.Fatalf("%d descriptors open, %d before", after, before)
	}
}
