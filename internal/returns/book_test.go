package returns

import (
	"net/netip"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/example"
)

const (
	isNew, isUpdate, isEnd = conntrack.EventNew, conntrack.EventUpdate, conntrack.EventDestroy
	begin, entry, synced   = conntrack.EventSyncBegin, conntrack.EventSync, conntrack.EventSynced
)

// step is an event and what is to be said of it.
type step struct {
	after    time.Duration // the step before
	kind     conntrack.EventKind
	flow     *conntrack.Flow
	program  uint32
	returned bool
	first    bool
	reversed bool
	silent   bool // the earlier life's end was not announced
}

// Flows of the stories. Those whose name has 2 have another ID.
var (
	shaken = conntrack.TCP{State: conntrack.TCPSynSent, OrigFlags: 0x03}
	loose  = conntrack.TCP{State: conntrack.TCPEstablished, OrigFlags: 0x0a, ReplyFlags: 0x2a}

	dnat    = tcp(1, shaken, "203.0.113.2:47274", "203.0.113.1:5201", "192.168.1.100:5201", "203.0.113.2:47274")
	mirror2 = tcp(2, loose, "192.168.1.100:5201", "203.0.113.2:47274", "203.0.113.2:47274", "203.0.113.1:5201")
	moved2  = tcp(2, loose, "192.168.1.100:5201", "203.0.113.2:47274", "203.0.113.2:47274", "203.0.113.1:61000")
	again1  = tcp(1, loose, "203.0.113.2:47274", "203.0.113.1:5201", "192.168.1.100:5201", "203.0.113.2:47274")
	again2  = with(again1, 2)
	anew2   = with(dnat, 2)
	other   = tcp(9, loose, "192.168.1.100:5201", "203.0.113.2:47275", "203.0.113.2:47275", "203.0.113.1:5201")

	ask  = udp(1, "192.168.1.5:5000", "198.51.100.9:53")
	ask2 = with(ask, 2)
	say2 = udp(2, "198.51.100.9:53", "192.168.1.5:5000")

	dnat6   = tcp(1, shaken, "[2001:db8::2]:40000", "[2001:db8:1::1]:443", "[2001:db8:2::1]:8443", "[2001:db8::2]:40000")
	mirror6 = tcp(2, loose, "[2001:db8:2::1]:8443", "[2001:db8::2]:40000", "[2001:db8::2]:40000", "[2001:db8:1::1]:443")
	plain6  = tcp(1, shaken, "[2001:db8::2]:40000", "[2001:db8:1::1]:443", "[2001:db8:1::1]:443", "[2001:db8::2]:40000")
	turned6 = tcp(2, loose, "[2001:db8:1::1]:443", "[2001:db8::2]:40000", "[2001:db8::2]:40000", "[2001:db8:1::1]:443")
)

func tcp(id uint32, state conntrack.TCP, orig, to, from, back string) *conntrack.Flow {
	return &conntrack.Flow{
		Has:  conntrack.AttrOrig | conntrack.AttrReply | conntrack.AttrID | conntrack.AttrTCP,
		Orig: example.Ports(conntrack.ProtoTCP, orig, to), Reply: example.Ports(conntrack.ProtoTCP, from, back),
		ID: id, TCP: state, Timeout: time.Hour,
	}
}

func udp(id uint32, orig, to string) *conntrack.Flow {
	t := example.Ports(conntrack.ProtoUDP, orig, to)
	return &conntrack.Flow{
		Has:  conntrack.AttrOrig | conntrack.AttrReply | conntrack.AttrID | conntrack.AttrTimeout,
		Orig: t, Reply: t.Invert(), ID: id, Timeout: 30 * time.Second,
	}
}

func with(f *conntrack.Flow, id uint32) *conntrack.Flow {
	f = f.Clone()
	f.ID = id
	return f
}

// zoned puts a flow into a zone, of a direction or of both.
func zoned(f *conntrack.Flow, a conntrack.Attr, z conntrack.Zone) *conntrack.Flow {
	f = f.Clone()
	f.Has |= a
	f.Zone, f.OrigZone, f.ReplyZone = z, z, z
	return f
}

// ended is a flow as its end tells it: without the flags of TCP.
func ended(f *conntrack.Flow) *conntrack.Flow {
	f = f.Clone()
	f.TCP = conntrack.TCP{State: conntrack.TCPEstablished}
	f.Has |= conntrack.AttrOrigCounters | conntrack.AttrReplyCounters
	f.OrigCounters, f.ReplyCounters = conntrack.Counters{Packets: 2, Bytes: 200}, conntrack.Counters{Packets: 3, Bytes: 3000}
	return f
}

// stories are told to a book of all flows.
var stories = map[string][]step{
	"missed by a listing": {
		{kind: begin}, {kind: entry, flow: ask}, {kind: entry, flow: again1}, {kind: synced},
		{kind: begin}, {kind: synced},
		{kind: isUpdate, flow: ask},
		{kind: isUpdate, flow: again1},
		{kind: isEnd, flow: ended(ask), program: 7},
		{kind: isNew, flow: ask2, returned: true, first: true},
	},
	"deleted, back in the other direction": {
		{kind: isNew, flow: dnat},
		{kind: isUpdate, flow: dnat},
		{kind: isEnd, flow: ended(dnat), program: 7},
		{kind: isNew, flow: mirror2, returned: true, first: true, reversed: true},
		{kind: isUpdate, flow: ended(mirror2), returned: true, reversed: true},
		{kind: isEnd, flow: ended(mirror2), program: 7, returned: true, reversed: true},
		{kind: isNew, flow: again2, returned: true, first: true, reversed: true},
	},
	"deleted, back by another port": {
		{kind: isNew, flow: dnat},
		{kind: isEnd, flow: ended(dnat), program: 7},
		{kind: isNew, flow: moved2, returned: true, first: true, reversed: true},
		{kind: isNew, flow: with(again2, 3), returned: true, first: true},
	},
	"expired, back in the same direction": {
		{kind: isNew, flow: dnat},
		{kind: isEnd, flow: ended(dnat)},
		{kind: isNew, flow: again2, returned: true, first: true},
	},
	"begun anew": {
		{kind: isNew, flow: dnat},
		{kind: isEnd, flow: ended(dnat), program: 7},
		{kind: isNew, flow: anew2},
		{kind: isUpdate, flow: anew2},
		{kind: isEnd, flow: ended(anew2)},
	},
	"restored by a program": {
		{kind: isNew, flow: dnat},
		{kind: isEnd, flow: ended(dnat), program: 7},
		{kind: isNew, flow: again2, program: 8},
		{kind: isUpdate, flow: again2},
	},
	"another connection of the same ends": {
		{kind: isNew, flow: dnat},
		{kind: isEnd, flow: ended(dnat), program: 7},
		{kind: isNew, flow: other},
	},
	"older than the listener, another ID": {
		{kind: begin}, {kind: entry, flow: dnat}, {kind: synced},
		{kind: isNew, flow: mirror2, returned: true, first: true, reversed: true, silent: true},
		{kind: isEnd, flow: ended(mirror2), program: 7, returned: true, reversed: true, silent: true},
	},
	"older than the listener, the same ID at once": {
		{kind: begin}, {kind: entry, flow: dnat}, {kind: synced},
		{kind: isNew, flow: again1, returned: true, first: true, silent: true},
	},
	"older than the listener and adopted, the same ID later": {
		{kind: begin}, {kind: entry, flow: again1}, {kind: synced},
		{after: 2 * afterListing, kind: isNew, flow: again1, returned: true, first: true, silent: true},
	},
	"announced behind the listing": {
		{kind: begin}, {kind: entry, flow: again1}, {kind: isNew, flow: again1}, {kind: synced},
		{kind: isUpdate, flow: again1},
	},
	"announced behind the end of the listing": {
		{kind: begin}, {kind: entry, flow: again1}, {kind: synced}, {kind: isNew, flow: again1},
	},
	"the end is announced behind what came in its place": {
		{kind: isNew, flow: dnat},
		{kind: isNew, flow: mirror2, returned: true, first: true, reversed: true, silent: true},
		{kind: isEnd, flow: ended(dnat), program: 7},
		{kind: isUpdate, flow: mirror2, returned: true, reversed: true},
	},
	"all of it lost in an overrun": {
		{kind: isNew, flow: dnat},
		{kind: conntrack.EventOverrun},
		{kind: begin}, {kind: entry, flow: mirror2, returned: true, first: true, reversed: true, silent: true}, {kind: synced},
		{kind: isNew, flow: mirror2, returned: true, reversed: true, silent: true},
	},
	"lost in an overrun, the same ID": {
		{kind: isNew, flow: dnat},
		{kind: conntrack.EventOverrun},
		{kind: begin}, {kind: entry, flow: again1, returned: true, first: true, silent: true}, {kind: synced},
	},
	"the beginning lost in an overrun": {
		{kind: isNew, flow: dnat},
		{kind: isEnd, flow: ended(dnat), program: 7},
		{kind: conntrack.EventOverrun},
		{kind: begin}, {kind: entry, flow: mirror2, returned: true, first: true, reversed: true}, {kind: synced},
	},
	"the end lost in an overrun": {
		{kind: isNew, flow: dnat},
		{kind: conntrack.EventOverrun},
		{kind: begin}, {kind: synced},
		{kind: isNew, flow: mirror2, returned: true, first: true, reversed: true, silent: true},
	},
	"in a zone": {
		{kind: isNew, flow: zoned(dnat, conntrack.AttrZone, 3)},
		{kind: isEnd, flow: zoned(ended(dnat), conntrack.AttrZone, 3), program: 7},
		{kind: isNew, flow: mirror2},
		{kind: isNew, flow: zoned(with(mirror2, 3), conntrack.AttrZone, 4)},
		{kind: isNew, flow: zoned(with(mirror2, 4), conntrack.AttrZone, 3), returned: true, first: true, reversed: true},
	},
	"in a zone of one direction": {
		{kind: isNew, flow: zoned(dnat, conntrack.AttrReplyZone, 3)},
		{kind: isEnd, flow: zoned(ended(dnat), conntrack.AttrReplyZone, 3), program: 7},
		{kind: isNew, flow: mirror2},
		{kind: isNew, flow: zoned(with(mirror2, 4), conntrack.AttrOrigZone, 3), returned: true, first: true, reversed: true},
	},
	"deleted again and again on the same tuples": {
		{kind: isNew, flow: dnat}, {kind: isEnd, flow: ended(dnat), program: 7},
		{kind: isNew, flow: again2, returned: true, first: true}, {kind: isEnd, flow: ended(again2), program: 7, returned: true},
		{kind: isNew, flow: again1, returned: true, first: true}, {kind: isEnd, flow: ended(again1), program: 7, returned: true},
		{kind: isNew, flow: mirror2, returned: true, first: true, reversed: true},
	},
	"UDP deleted by a program": {
		{kind: isNew, flow: ask},
		{kind: isEnd, flow: ended(ask), program: 7},
		{after: time.Second, kind: isNew, flow: say2, returned: true, first: true, reversed: true},
		{kind: isEnd, flow: ended(say2), returned: true, reversed: true},
	},
	"UDP deleted, and begun again when it would have expired": {
		{kind: isNew, flow: ask},
		{kind: isEnd, flow: ended(ask), program: 7},
		{after: 31 * time.Second, kind: isNew, flow: ask2},
	},
	"UDP expired": {
		{kind: isNew, flow: ask},
		{kind: isEnd, flow: ended(ask)},
		{kind: isNew, flow: ask2},
	},
	"UDP older than the listener": {
		{kind: begin}, {kind: entry, flow: ask}, {kind: synced},
		{after: 10 * time.Second, kind: isNew, flow: ask, returned: true, first: true, silent: true},
	},
	"UDP older than the listener, expired": {
		{kind: begin}, {kind: entry, flow: ask}, {kind: synced},
		{after: 31 * time.Second, kind: isNew, flow: ask2},
	},
	"UDP on two processors at once, one entry loses": {
		{kind: isNew, flow: ask}, {kind: isNew, flow: ask2}, {kind: isEnd, flow: ask2}, {kind: isUpdate, flow: ask},
		{kind: isEnd, flow: ask},
	},
	"SCTP": {
		{kind: isNew, flow: sctp(1, conntrack.SCTPCookieWait)},
		{kind: isEnd, flow: sctp(1, conntrack.SCTPEstablished), program: 7},
		{kind: isNew, flow: sctp(2, conntrack.SCTPHeartbeatSent), returned: true, first: true},
		{kind: isEnd, flow: sctp(2, conntrack.SCTPEstablished), program: 7, returned: true},
		{kind: isNew, flow: sctp(3, conntrack.SCTPCookieWait)},
	},
	"IPv6 with a translation": {
		{kind: isNew, flow: dnat6},
		{kind: isEnd, flow: ended(dnat6), program: 7},
		{kind: isNew, flow: mirror6, returned: true, first: true, reversed: true},
	},
	"IPv6 without": {
		{kind: isNew, flow: plain6},
		{kind: isEnd, flow: ended(plain6), program: 7},
		{kind: isNew, flow: turned6, returned: true, first: true, reversed: true},
	},
}

func sctp(id uint32, s conntrack.SCTPState) *conntrack.Flow {
	t := example.Ports(conntrack.ProtoSCTP, "192.168.1.7:5000", "198.51.100.9:53")
	return &conntrack.Flow{
		Has:  conntrack.AttrOrig | conntrack.AttrReply | conntrack.AttrID | conntrack.AttrSCTP,
		Orig: t, Reply: t.Invert(), ID: id, SCTP: conntrack.SCTP{State: s},
	}
}

func TestStories(t *testing.T) {
	for name, story := range stories {
		t.Run(name, func(t *testing.T) { tell(t, New(nil, 0), story) })
	}
}

// tell applies the steps of a story and compares.
func tell(t *testing.T, b *Book, story []step) {
	t.Helper()
	at := time.Unix(1_700_000_000, 0)
	b.now = func() time.Time { return at }
	for i, s := range story {
		at = at.Add(s.after + time.Millisecond)
		v := b.Apply(&conntrack.Event{Kind: s.kind, Flow: s.flow, PortID: s.program})
		if v.Returned != s.returned || v.First != s.first || v.Meant != (s.flow != nil) || !v.At.Equal(at) {
			t.Fatalf("step %d, %v: %+v", i, s.kind, v)
		}
		if (v.Earlier != nil) != s.returned {
			t.Fatalf("step %d: earlier life %+v", i, v.Earlier)
		}
		if v.Earlier != nil && (v.Earlier.Reversed != s.reversed || v.Earlier.Ended.IsZero() != s.silent) {
			t.Fatalf("step %d: earlier life %+v", i, v.Earlier)
		}
	}
}

// What is told of the earlier life is what its events said.
func TestEarlier(t *testing.T) {
	b := New(nil, 0)
	at := time.Unix(1_700_000_000, 0)
	b.now = func() time.Time { return at }
	for _, f := range []struct{ before, after *conntrack.Flow }{
		{dnat, mirror2}, {dnat6, mirror6}, {plain6, turned6},
		{zoned(dnat, conntrack.AttrZone, 5), zoned(mirror2, conntrack.AttrZone, 5)},
	} {
		began := at
		b.Apply(&conntrack.Event{Kind: isNew, Flow: f.before})
		at = at.Add(1500 * time.Millisecond)
		gone := at
		if v := b.Apply(&conntrack.Event{Kind: isEnd, Flow: ended(f.before), PortID: 7}); !v.Began.Equal(began) {
			t.Errorf("began %v, want %v", v.Began, began)
		}
		at = at.Add(2 * time.Second)
		l := b.Apply(&conntrack.Event{Kind: isNew, Flow: f.after}).Earlier
		if l == nil {
			t.Fatalf("%v: no earlier life", f.after.Orig)
		}
		bytes, counted := l.Bytes()
		packets, _ := l.Packets()
		if l.Flow.Orig != f.before.Orig || l.Flow.Reply != f.before.Reply || l.Flow.Zone != f.before.Zone ||
			!l.Began.Equal(began) || !l.Ended.Equal(gone) || l.Program != 7 || !counted || bytes != 3200 || packets != 5 {
			t.Errorf("%v: earlier life %+v", f.after.Orig, l)
		}
	}
}

// With a selector, its flows are followed, and what comes back of them, which it
// does not mean.
func TestSelected(t *testing.T) {
	b := New(func(f *conntrack.Flow) bool { return f.Orig.Dst == netip.MustParseAddr("203.0.113.1") }, 0)
	for i, s := range []struct {
		kind            conntrack.EventKind
		flow            *conntrack.Flow
		meant, returned bool
	}{
		{isNew, dnat, true, false},
		{isNew, other, false, false},
		{isUpdate, other, false, false},
		{isEnd, ended(dnat), true, false},
		{isNew, mirror2, true, true},
		{isUpdate, mirror2, true, true},
		{isEnd, ended(mirror2), true, true},
		{isEnd, ended(other), false, false},
		{isNew, with(other, 10), false, false},
	} {
		if v := b.Apply(&conntrack.Event{Kind: s.kind, Flow: s.flow}); v.Meant != s.meant || v.Returned != s.returned {
			t.Errorf("step %d: %+v", i, v)
		}
	}
}

// Only so many lives are remembered, the latest, and the room of the others is
// used again.
func TestBounds(t *testing.T) {
	const most = 100
	b := New(nil, most)
	for i := range 50 * most {
		f := numbered(i)
		b.Apply(&conntrack.Event{Kind: isNew, Flow: f})
		b.Apply(&conntrack.Event{Kind: isEnd, Flow: f, PortID: uint32(i % 2)}) // half of them by a program
	}
	if b.Len() != 0 || b.used != most+most/4 || b.made > 2*most {
		t.Errorf("%d living, %d of %d records", b.Len(), b.used, b.made)
	}
	back := 0
	for i := range 50 * most {
		f := numbered(i)
		f.TCP = loose
		if b.Apply(&conntrack.Event{Kind: isNew, Flow: f}).Returned {
			back++
		}
	}
	if back != most+most/4 {
		t.Errorf("%d returned, want %d", back, most+most/4)
	}
}

// What a listing does not have is gone, also if another one was given up before.
func TestSweep(t *testing.T) {
	b := New(nil, 0)
	for _, e := range []conntrack.Event{
		{Kind: isNew, Flow: dnat}, {Kind: isNew, Flow: ask}, {Kind: isNew, Flow: plain6},
		{Kind: begin}, {Kind: entry, Flow: dnat}, {Kind: conntrack.EventOverrun},
		{Kind: begin}, {Kind: entry, Flow: ask}, {Kind: synced},
	} {
		b.Apply(&e)
	}
	if b.Len() != 1 || b.Apply(&conntrack.Event{Kind: isUpdate, Flow: ask}).Began.IsZero() {
		t.Errorf("%d flows", b.Len())
	}
}

// Of the lives on the same tuples the last is remembered.
func TestSameTuples(t *testing.T) {
	b := New(nil, 0)
	for i := range 1000 {
		b.Apply(&conntrack.Event{Kind: isNew, Flow: with(dnat, uint32(i))})
		b.Apply(&conntrack.Event{Kind: isEnd, Flow: with(dnat, uint32(i)), PortID: uint32(i % 3)})
	}
	if b.used != 1 {
		t.Errorf("%d records", b.used)
	}
}

// numbered returns one of many flows.
func numbered(i int) *conntrack.Flow {
	f := *dnat
	f.ID = uint32(i) + 1
	f.Orig.Src = netip.AddrFrom4([4]byte{10, byte(i >> 24), byte(i >> 16), byte(i >> 8)})
	f.Orig.SrcPort = 1024 + uint16(i&255)
	f.Reply.Dst, f.Reply.DstPort = f.Orig.Src, f.Orig.SrcPort
	return &f
}
