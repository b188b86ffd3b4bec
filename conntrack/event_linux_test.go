package conntrack

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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
	for _, cfg := range []EventConfig{{Flows: EventOverrun}, {RecvBuffer: -1}, {RecvBuffer: 1 << 40}} {
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

// samePicture compares a picture with a dump.
func samePicture(t testing.TB, c *Client, p *Picture[Flow]) {
	t.Helper()
	table := NewPicture((*Flow).Merge)
	for f, err := range c.Dump(t.Context(), Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		table.Apply(&Event{Kind: EventSync, Flow: f})
	}
	if p.Len() != table.Len() {
		t.Errorf("%d flows in the picture, %d in the table", p.Len(), table.Len())
	}
	wrong := 0
	for k, want := range table.All() {
		got := p.Get(k)
		if got == nil {
			t.Errorf("not in the picture: %v", k)
		} else if reflect.DeepEqual(settled(want), settled(got)) { // Diff is slow
			continue
		} else {
			t.Errorf("%v (-table +picture):\n%s", k, cmp.Diff(settled(want), settled(got), cmpAddr))
		}
		if wrong++; wrong > 5 {
			t.FailNow()
		}
	}
}

// settled is f without what no event tells: the use count, and the time left.
func settled(f *Flow) *Flow {
	g := *f
	g.Has &^= AttrUse | AttrTimeout
	g.Use, g.Timeout = 0, 0
	return &g
}

// follow applies events to p until it has heard until.
func follow(t testing.TB, l *Listener, p *Picture[Flow], until EventKind) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for e, err := range l.Events(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if p.Apply(e); e.Kind == until {
			return
		}
	}
}

// TestResync: flows older than the first listener end unannounced, and a
// listing takes them out of the picture.
func TestResync(t *testing.T) {
	c := dialTest(t)
	sysctl(t, "nf_conntrack_events", "0") // with 2 anybody may be listening, on some kernels in any namespace
	if made, err := c.CreateAll(t.Context(), churnFlows(0, 3000)); made != 3000 || err != nil {
		t.Fatal(made, err)
	}
	sysctl(t, "nf_conntrack_events", "2")
	l := listenTest(t, c, EventConfig{SyncAtStart: true})
	p := NewPicture((*Flow).Merge)
	follow(t, l, p, EventSynced)
	samePicture(t, c, p)
	if _, err := c.CreateAll(t.Context(), churnFlows(3000, 500)); err != nil {
		t.Fatal(err)
	}
	var keys []Key
	for f := range churnFlows(2500, 1000) {
		got, err := c.Get(t.Context(), f.Orig, 0)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, got.Key())
	}
	mustDelete(t, c, keys...)
	go func() { // while the reader waits
		time.Sleep(50 * time.Millisecond)
		l.Resync()
	}()
	follow(t, l, p, EventSyncBegin)
	if p.Len() != 3000 {
		t.Errorf("%d flows before the listing, want 3000: 500 are gone unannounced", p.Len())
	}
	follow(t, l, p, EventSynced)
	samePicture(t, c, p)
}

// TestSyncOrder: what ends while a listing is read stays ended, whatever part
// of the listing the kernel had made before.
func TestSyncOrder(t *testing.T) {
	c := dialTest(t)
	l := listenTest(t, c, EventConfig{SyncAtStart: true})
	const n = 5000
	if made, err := c.CreateAll(t.Context(), churnFlows(0, n)); made != n || err != nil {
		t.Fatal(made, err)
	}
	keys := make([]Key, 0, n)
	for _, f := range collect(t, c, Filter{}) {
		keys = append(keys, f.Key())
	}
	p := NewPicture((*Flow).Merge)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	r.Shuffle(n, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	synced := 0
	for e, err := range l.Events(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		p.Apply(e)
		if e.Kind == EventSynced {
			break
		}
		if e.Kind != EventSync {
			continue
		}
		if synced++; synced%20 == 0 && len(keys) > 1000 {
			k := 1 + r.IntN(100)
			mustDelete(t, c, keys[:k]...)
			keys = keys[k:]
		}
	}
	for l.q.fill(false) == nil { // what came after the last part
		for b, _ := l.q.next(); b != nil; b, _ = l.q.next() {
			if _, _, err := l.room.parse(b); err != nil {
				t.Fatal(err)
			}
			p.Apply(&l.room.ev)
		}
	}
	if p.Len() > len(keys) || synced < 1000 {
		t.Errorf("%d flows after %d entries", p.Len(), synced)
	}
	samePicture(t, c, p)
}

// TestPeek: looking at a part of a dump makes the kernel make no further one.
func TestPeek(t *testing.T) {
	c := dialTest(t)
	if _, err := c.CreateAll(t.Context(), churnFlows(0, 1000)); err != nil {
		t.Fatal(err)
	}
	s, err := c.open(syncBuffer)
	if err != nil {
		t.Fatal(err)
	}
	defer c.drop(s)
	s.requestDump(&Filter{}, Support{})
	if err := s.send(s.out); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		before := queued(t, s)
		a, err := s.peek(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		a = slices.Clone(a)
		b, err := s.peek(t.Context())
		if err != nil || !slices.Equal(a, b) {
			t.Fatalf("looked twice at different parts: %v", err)
		}
		if after := queued(t, s); before == 0 || after != before {
			t.Fatalf("%d bytes queued before, %d after", before, after)
		}
		if err := s.skip(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOverrun has far more events than there is room for, and in the end a
// picture like the table.
func TestOverrun(t *testing.T) {
	for _, buffer := range []int{4 << 10, 256 << 10} {
		t.Run(fmt.Sprint(buffer), func(t *testing.T) {
			c := dialTest(t)
			l := listenTest(t, c, EventConfig{RecvBuffer: buffer, SyncAtStart: true, SyncAfterOverrun: true})
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			var g errgroup.Group
			g.Go(func() error {
				_, _, err := churn{rate: 50_000, keep: 20_000, flows: 50_000}.run(ctx, c)
				time.Sleep(time.Second)
				cancel()
				return err
			})
			p := NewPicture((*Flow).Merge)
			heard := map[EventKind]int{}
			var last EventKind
			for e, err := range l.Events(ctx) {
				if errors.Is(err, context.Canceled) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				p.Apply(e)
				heard[e.Kind]++
				if e.Kind >= EventOverrun {
					last = e.Kind
				}
			}
			if err := g.Wait(); err != nil {
				t.Fatal(err)
			}
			t.Logf("heard %v", heard)
			if heard[EventOverrun] == 0 || last != EventSynced {
				t.Errorf("heard %v, the last of the stream's own is %v", heard, last)
			}
			samePicture(t, c, p)
		})
	}
}

// TestOverrunAlone: without a listing the stream goes on after an overrun.
func TestOverrunAlone(t *testing.T) {
	c := dialTest(t)
	l := listenTest(t, c, EventConfig{RecvBuffer: 4 << 10})
	if _, err := c.CreateAll(t.Context(), churnFlows(0, 1000)); err != nil {
		t.Fatal(err)
	}
	if e := waitEvent(t, l); e.Kind != EventOverrun || e.Flow != nil {
		t.Fatalf("event %+v, want an overrun", e)
	}
	queued := 0
	for e := waitEvent(t, l); ; e = waitEvent(t, l) {
		if e.Kind != EventNew {
			t.Fatalf("event %+v", e)
		}
		if e.Flow.Orig.DstPort == 7 {
			break
		}
		if queued++; queued == 1 {
			mustCreate(t, c, &Flow{Orig: tuple(ProtoUDP, "10.9.0.1:1", "10.0.0.2:6"), Timeout: time.Minute})
		}
		if l.q.at == l.q.got { // all that was queued
			mustCreate(t, c, &Flow{Orig: tuple(ProtoUDP, "10.9.0.1:1", "10.0.0.2:7"), Timeout: time.Minute})
		}
	}
	if queued == 0 || queued > 100 {
		t.Fatalf("%d events before the loss", queued)
	}
}

// TestEventsAtSpeed loses nothing of 50,000 new flows a second.
func TestEventsAtSpeed(t *testing.T) {
	c := dialTest(t)
	l := listenTest(t, c, EventConfig{RecvBuffer: 64 << 20})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var made, deleted int
	var g errgroup.Group
	g.Go(func() (err error) {
		made, deleted, err = churn{rate: 50_000, keep: 25_000, flows: 100_000}.run(ctx, c)
		time.Sleep(200 * time.Millisecond)
		cancel()
		return err
	})
	p := NewPicture((*Flow).Merge)
	heard := map[EventKind]int{}
	for e, err := range l.Events(ctx) {
		if errors.Is(err, context.Canceled) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		p.Apply(e)
		heard[e.Kind]++
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	want := map[EventKind]int{EventNew: made, EventDestroy: deleted}
	if diff := cmp.Diff(want, heard); diff != "" || made != 100_000 {
		t.Errorf("made %d; heard (-want +got):\n%s", made, diff)
	}
	samePicture(t, c, p)
}
