package conntrack

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// listenTest begins to listen; the listener ends with the test.
func listenTest(t testing.TB, c *Client, cfg EventConfig) *Listener {
	t.Helper()
	l, err := c.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// waitEvent returns the next event.
func waitEvent(t testing.TB, l *Listener) *Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for e, err := range l.Events(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	panic("unreachable")
}

// noEvent fails if an event is waiting.
func noEvent(t testing.TB, l *Listener) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	for e, err := range l.Events(ctx) {
		if err == nil {
			t.Fatalf("event %v of %v", e.Kind, e.Flow)
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
}

// sysctl sets one of the namespace's.
func sysctl(t testing.TB, name, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/netfilter/"+name, []byte(value), 0o644); err != nil {
		t.Fatal(err)
	}
}

// portID returns the netlink port that the client's next call will use.
func portID(t testing.TB, c *Client) uint32 {
	t.Helper()
	s, err := c.take()
	if err != nil {
		t.Fatal(err)
	}
	defer c.put(s)
	return s.nl.PID()
}

func TestEvents(t *testing.T) {
	c := dialTest(t)
	sysctl(t, "nf_conntrack_timestamp", "1")
	sysctl(t, "nf_conntrack_acct", "1")
	l := listenTest(t, c, EventConfig{})
	us := portID(t, c)
	begin := time.Now()
	f := &Flow{Has: AttrMark, Mark: 7, Orig: tuple(ProtoUDP, "10.0.0.1:1", "10.0.0.2:2"), Timeout: time.Minute}
	mustCreate(t, c, f)
	entry := only(t, c)
	check := func(kind EventKind, port uint32, mark Mark) *Event {
		t.Helper()
		e := waitEvent(t, l)
		if e.Kind != kind || e.PortID != port || e.Flow == nil || e.Expect != nil {
			t.Fatalf("event %+v, want %v by %d", e, kind, port)
		}
		if e.Flow.Key() != entry.Key() || e.Flow.Mark != mark {
			t.Fatalf("%v of %v mark %d, want %v mark %d", kind, e.Flow.Key(), e.Flow.Mark, entry.Key(), mark)
		}
		if kernelVersion().compare(version{6, 14}) < 0 {
			if !e.Time.IsZero() {
				t.Fatalf("%v at %v, which kernels do not say before 6.14", kind, e.Time)
			}
			return e
		}
		if e.Time.Before(begin.Add(-time.Second)) || e.Time.After(time.Now().Add(time.Second)) {
			t.Fatalf("%v at %v, began at %v", kind, e.Time, begin)
		}
		return e
	}
	check(EventNew, us, 7)
	f.Mark = 8
	if err := c.Update(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	check(EventUpdate, us, 8)
	mustDelete(t, c, entry.Key())
	if e := check(EventDestroy, us, 8); e.Flow.Has&(AttrStop|AttrOrigCounters) != AttrStop|AttrOrigCounters {
		t.Fatalf("destroyed flow without end or counters: %#x", e.Flow.Has)
	}

	f.Timeout = time.Second
	mustCreate(t, c, f)
	entry = only(t, c)
	check(EventNew, us, 8)
	time.Sleep(1100 * time.Millisecond)
	if all := collect(t, c, Filter{}); len(all) != 0 { // looking makes it go
		t.Fatalf("%d flows after their time", len(all))
	}
	check(EventDestroy, 0, 8)
	noEvent(t, l)
}

func TestEventKinds(t *testing.T) {
	c := dialTest(t)
	v4 := &Flow{Has: AttrMark, Mark: 1, Orig: tuple(ProtoUDP, "10.0.0.1:1", "10.0.0.2:2"), Timeout: time.Minute}
	v6 := &Flow{Has: AttrMark, Mark: 1, Orig: tuple(ProtoUDP, "[::1]:1", "[::2]:2"), Timeout: time.Minute}
	tests := []struct {
		cfg  EventConfig
		want []string
	}{
		{EventConfig{Flows: EventNew | EventDestroy}, []string{"new 4", "new 6", "destroy 4", "destroy 6"}},
		{EventConfig{Flows: EventUpdate}, []string{"update 4", "update 6"}},
		{EventConfig{Family: FamilyIPv6}, []string{"new 6", "update 6", "destroy 6"}},
		{EventConfig{Family: FamilyIPv4, Flows: EventDestroy}, []string{"destroy 4"}},
		{EventConfig{Expectations: EventNew}, nil},
	}
	var all []*Listener
	for _, tt := range tests {
		all = append(all, listenTest(t, c, tt.cfg))
	}
	mustCreate(t, c, v4, v6)
	for _, f := range []*Flow{v4, v6} {
		g := *f
		g.Mark++
		if err := c.Update(t.Context(), &g); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []*Flow{v4, v6} {
		got, err := c.Get(t.Context(), f.Orig, 0)
		if err != nil {
			t.Fatal(err)
		}
		mustDelete(t, c, got.Key())
	}
	for i, tt := range tests {
		for _, want := range tt.want {
			e := waitEvent(t, all[i])
			family := map[Family]string{FamilyIPv4: " 4", FamilyIPv6: " 6"}[e.Flow.Orig.Family()]
			if got := e.Kind.String() + family; got != want {
				t.Errorf("%+v: %s, want %s", tt.cfg, got, want)
			}
		}
		noEvent(t, all[i])
	}
	for _, cfg := range []EventConfig{{Flows: EventOverrun}, {RecvBuffer: -1}, {RecvBuffer: math.MaxInt}} {
		if l, err := c.Listen(cfg); err == nil {
			_ = l.Close()
			t.Errorf("listen %+v: no error", cfg)
		}
	}
}

func TestEventsEnd(t *testing.T) {
	c := dialTest(t)
	own, err := Dial(Config{})
	if err != nil {
		t.Fatal(err)
	}
	// The one error that ends a wait, within a moment after end was called.
	ends := func(name string, l *Listener, want error, end func(), ctx context.Context) {
		t.Helper()
		var g errgroup.Group
		var called time.Time
		g.Go(func() error {
			time.Sleep(50 * time.Millisecond)
			called = time.Now()
			end()
			return nil
		})
		n := 0
		for e, err := range l.Events(ctx) {
			if n++; e != nil || !errors.Is(err, want) {
				t.Errorf("%s: event %v, error %v, want %v", name, e, err, want)
				break
			}
		}
		took := time.Now()
		_ = g.Wait()
		if d := took.Sub(called); n != 1 || d < 0 || d > 500*time.Millisecond {
			t.Errorf("%s: ended %d times, after %v", name, n, d)
		}
	}
	l := listenTest(t, c, EventConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ends("cancel", l, context.Canceled, cancel, ctx)
	for e, err := range l.Events(ctx) {
		if e != nil || !errors.Is(err, context.Canceled) {
			t.Fatalf("ended before: %v, %v", e, err)
		}
	}
	ctx2, cancel2 := context.WithTimeout(t.Context(), 60*time.Millisecond)
	defer cancel2()
	ends("deadline", l, context.DeadlineExceeded, func() { <-ctx2.Done() }, ctx2)
	ends("close", l, ErrClosed, func() { _ = l.Close() }, t.Context())
	if err := l.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}
	l.Resync() // does nothing
	l2, err := own.Listen(EventConfig{})
	if err != nil {
		t.Fatal(err)
	}
	ends("close of the client", l2, ErrClosed, func() { _ = own.Close() }, t.Context())
	if _, err := own.Listen(EventConfig{}); !errors.Is(err, ErrClosed) {
		t.Errorf("listen with a closed client: %v", err)
	}
}

// TestEventsGoOn leaves the loop and comes back.
func TestEventsGoOn(t *testing.T) {
	c := dialTest(t)
	l := listenTest(t, c, EventConfig{})
	const n = 300
	if made, err := c.CreateAll(t.Context(), churnFlows(0, n)); made != n || err != nil {
		t.Fatal(made, err)
	}
	i := 0
	for want := range churnFlows(0, n) {
		for e, err := range l.Events(t.Context()) {
			if err != nil || e.Flow.Orig != want.Orig {
				t.Fatalf("event %d: %v, %v, want %v", i, e, err, want.Orig)
			}
			for _, err := range l.Events(t.Context()) {
				if err == nil {
					t.Fatal("two sequences at once")
				}
			}
			break
		}
		i++
	}
	noEvent(t, l)
}

func TestEventsBuffer(t *testing.T) {
	c := dialTest(t)
	l := listenTest(t, c, EventConfig{RecvBuffer: 64 << 20})
	if n := l.RecvBuffer(); n != 128<<20 {
		t.Errorf("granted %d", n)
	}
	if n := listenTest(t, c, EventConfig{}).RecvBuffer(); n != 2*defaultEventBuffer {
		t.Errorf("granted %d by default", n)
	}
	dropCaps(t)
	s, err := c.open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.drop(s)
	// The buffer is granted as far as anybody's, the groups are not.
	_, err = newEventQueue(s, 64<<20, nil)
	if err != nil || s.rcvbuf <= 0 || s.rcvbuf >= 128<<20 {
		t.Errorf("without capability: %d, %v", s.rcvbuf, err)
	}
	if _, err := c.Listen(EventConfig{}); !errors.Is(err, os.ErrPermission) {
		t.Errorf("listen without capability: %v", err)
	}
}

func TestEventsAllocs(t *testing.T) {
	c := dialTest(t)
	l := listenTest(t, c, EventConfig{})
	const n = 2000
	if made, err := c.CreateAll(t.Context(), churnFlows(0, n)); made != n || err != nil {
		t.Fatal(made, err)
	}
	ctx := t.Context()
	allocs := testing.AllocsPerRun(n-10, func() {
		if e, err := l.next(ctx); err != nil || e.Kind != EventNew {
			t.Fatal(e, err)
		}
	})
	if allocs != 0 {
		t.Fatalf("%v allocations an event", allocs)
	}
}

func TestExpectationEvents(t *testing.T) {
	c := dialTest(t)
	both := listenTest(t, c, EventConfig{Flows: EventDestroy, Expectations: EventAll})
	v6 := listenTest(t, c, EventConfig{Family: FamilyIPv6, Expectations: EventAll})
	us := portID(t, c)
	ftpMaster(t, c, ftpControl4, 0)
	ftpMaster(t, c, ftpControl6, 0)
	check := func(l *Listener, kind EventKind, port uint32, data Tuple) {
		t.Helper()
		e := waitEvent(t, l)
		if e.Kind != kind || e.Flow != nil || e.Expect == nil || e.PortID != port || !e.Time.IsZero() {
			t.Fatalf("event %+v, want %v by %d", e, kind, port)
		}
		if e.Expect.Tuple != data || e.Expect.ID == 0 || e.Expect.Helper != "ftp" {
			t.Fatalf("%v of %+v, want %v", kind, e.Expect, data)
		}
	}
	mustExpect(t, c, anyPort(ftpControl4, ftpData4), anyPort(ftpControl6, ftpData6))
	check(both, EventNew, us, ftpData4)
	check(both, EventNew, us, ftpData6)
	check(v6, EventNew, us, ftpData6)
	all := expectations(t, c, FamilyIPv4)
	if n, err := c.DeleteExpectations(t.Context(), []ExpectationKey{all[0].Key()}, nil); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	check(both, EventDestroy, us, ftpData4)

	// With the master goes what it expects, by nobody's request. A flow that
	// is expected has no events of its own in v6.
	got, err := c.Get(t.Context(), ftpControl6, 0)
	if err != nil {
		t.Fatal(err)
	}
	mustDelete(t, c, got.Key())
	var kinds []string
	for range 2 {
		e := waitEvent(t, both)
		kinds = append(kinds, fmt.Sprint(e.Kind, e.Expect != nil, e.PortID == us))
	}
	slices.Sort(kinds)
	if want := []string{"destroy false true", "destroy true false"}; !slices.Equal(kinds, want) {
		t.Errorf("heard %v, want %v", kinds, want)
	}
	check(v6, EventDestroy, 0, ftpData6)
	noEvent(t, v6)
	noEvent(t, both)
}
