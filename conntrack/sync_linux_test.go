package conntrack

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
)

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
			var all atomic.Int64
			g.Go(func() error {
				defer cancel()
				_, _, err := churn{rate: 50_000, keep: 20_000, flows: 50_000}.run(ctx, c)
				untilQuiet(t, l, &all)
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
				all.Add(1)
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

// TestSyncWaits: a listing begins only when the queue is empty. As long as it
// is not, the kernel drops what happens, and says so no more.
func TestSyncWaits(t *testing.T) {
	c := dialTest(t)
	l := listenTest(t, c, EventConfig{RecvBuffer: 256 << 10, SyncAfterOverrun: true})
	if _, err := c.CreateAll(t.Context(), churnFlows(0, 1000)); err != nil {
		t.Fatal(err)
	}
	p := NewPicture((*Flow).Merge)
	follow(t, l, p, EventOverrun)
	if queued(t, l.q.conn) == 0 {
		t.Fatal("nothing is queued after the overrun")
	}
	follow(t, l, p, EventSyncBegin)
	if n := queued(t, l.q.conn); n != 0 {
		t.Errorf("%d bytes queued when the listing begins", n)
	}
	// From here on everything is heard.
	if _, err := c.CreateAll(t.Context(), churnFlows(1000, 100)); err != nil {
		t.Fatal(err)
	}
	follow(t, l, p, EventSynced)
	samePicture(t, c, p)
	noEvent(t, l)
}

// TestSyncAgain: a listing begins again when events are lost meanwhile, also
// where no listing follows an overrun.
func TestSyncAgain(t *testing.T) {
	c := dialTest(t)
	if _, err := c.CreateAll(t.Context(), churnFlows(0, 5000)); err != nil {
		t.Fatal(err)
	}
	l := listenTest(t, c, EventConfig{RecvBuffer: 4 << 10, SyncAtStart: true})
	p := NewPicture((*Flow).Merge)
	follow(t, l, p, EventSync)
	if err := c.Flush(t.Context(), FamilyBoth); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateAll(t.Context(), churnFlows(3000, 3000)); err != nil {
		t.Fatal(err)
	}
	follow(t, l, p, EventOverrun)
	follow(t, l, p, EventSyncBegin)
	follow(t, l, p, EventSynced)
	samePicture(t, c, p)
	noEvent(t, l)
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
	var all atomic.Int64
	g.Go(func() (err error) {
		defer cancel()
		made, deleted, err = churn{rate: 50_000, keep: 25_000, flows: 100_000}.run(ctx, c)
		untilQuiet(t, l, &all)
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
		all.Add(1)
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

// Whoever leaves the stream in the middle of a listing and closes the listener
// leaves no socket behind.
func TestCloseDuringListing(t *testing.T) {
	c := dialTest(t)
	fill(t, c, 1000)
	l, err := c.Listen(EventConfig{SyncAtStart: true})
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range l.Events(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == EventSync {
			break
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.busy) > 0 {
		t.Errorf("%d sockets are left", len(c.busy))
	}
}

// A sequence that ends during a listing leaves the listing to the next one.
func TestListingOutlivesSequence(t *testing.T) {
	c := dialTest(t)
	const flows = 3000
	fill(t, c, flows)
	for range 20 {
		l, err := c.Listen(EventConfig{SyncAtStart: true})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Duration(rand.IntN(6000))*time.Microsecond, cancel)
		p := NewPicture((*Flow).Merge)
		synced := false
		for e, err := range l.Events(ctx) {
			if err != nil {
				break
			}
			p.Apply(e)
			synced = e.Kind == EventSynced
		}
		if !synced {
			finishListing(t, l, p)
		}
		if p.Len() != flows {
			t.Errorf("%d in the picture, want %d", p.Len(), flows)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// finishListing applies what comes until the listing is complete.
func finishListing(t *testing.T, l *Listener, p *Picture[Flow]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for e, err := range l.Events(ctx) {
		if err != nil {
			t.Fatalf("no listing came: %v", err)
		}
		if p.Apply(e); e.Kind == EventSynced {
			return
		}
	}
}
