package top

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/example"
	"flowcut/internal/tally"
	"flowcut/selector"
)

// epoch is when the clocks of tests begin.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is a table, and the kernel's as the test says it is.
type world struct {
	*Table
	now   time.Time
	flows []*conntrack.Flow
}

func newWorld(filter selector.Selector) *world {
	w := &world{now: epoch}
	w.Table = NewTable(filter, func() time.Time { return w.now })
	return w
}

// flow returns flow i, of one of three servers, with what it has carried.
func flow(i int, bytes uint64) *conntrack.Flow {
	o := example.Ports(conntrack.ProtoTCP, fmt.Sprintf("192.0.2.%d:%d", i%200+1, 40000+i), fmt.Sprintf("203.0.113.%d:443", i%3+1))
	return &conntrack.Flow{
		Has:  conntrack.AttrOrig | conntrack.AttrReply | conntrack.AttrStatus | conntrack.AttrTCP | conntrack.AttrOrigCounters | conntrack.AttrReplyCounters | conntrack.AttrStart | conntrack.AttrID,
		Orig: o, Reply: o.Invert(), ID: uint32(i + 1), Status: conntrack.StatusSeenReply | conntrack.StatusAssured,
		TCP: conntrack.TCP{State: conntrack.TCPEstablished}, Start: epoch.Add(-time.Duration(i+1) * time.Minute),
		OrigCounters: conntrack.Counters{Packets: bytes / 100, Bytes: bytes / 4}, ReplyCounters: conntrack.Counters{Packets: bytes / 50, Bytes: bytes - bytes/4},
	}
}

// walkAll does a walk that meets the flows there are.
func (w *world) walkAll(t testing.TB) {
	t.Helper()
	walk, filter := w.begin(len(w.flows))
	for _, f := range w.flows {
		if filter.Match(f) && !w.visit(walk, f) {
			t.Fatal("the walk is none any more")
		}
	}
	w.end(walk)
}

// sums writes groups as "name flows bytes rate".
func sums(s *Snapshot) string {
	var out []string
	for _, g := range s.Groups {
		out = append(out, fmt.Sprintf("%v %d %d %.0f", g.Key, g.Flows, g.Bytes, g.Rate))
	}
	return strings.Join(out, ", ")
}

// rates writes flows as "port bytes rate".
func rates(s *Snapshot) string {
	var out []string
	for _, r := range s.Rows {
		rate := "-"
		if r.Rated {
			rate = fmt.Sprintf("%.0f", r.Rate)
		}
		out = append(out, fmt.Sprintf("%d %d %s", r.Orig.SrcPort, r.bytes(), rate))
	}
	return strings.Join(out, ", ")
}

func same(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

// A second walk knows the rates, of flows and of groups, and orders by them.
func TestRates(t *testing.T) {
	w := newWorld(selector.Selector{})
	w.flows = []*conntrack.Flow{flow(0, 1000), flow(1, 2000), flow(2, 3000), flow(3, 0)}
	w.walkAll(t)
	s := w.Look(Flows, Rate)
	same(t, "first walk", rates(s), "40002 3000 -, 40001 2000 -, 40000 1000 -, 40003 0 -")
	if s.Rated || !s.Counted || !s.Timed || s.Matched != 4 {
		t.Errorf("after the first walk: %+v", s)
	}
	w.now = w.now.Add(2 * time.Second)
	w.flows = []*conntrack.Flow{flow(0, 9000), flow(1, 2000), flow(2, 4000), flow(4, 700)}
	w.walkAll(t)
	s = w.Look(Flows, Rate)
	same(t, "second walk", rates(s), "40000 9000 4000, 40002 4000 500, 40001 2000 0, 40004 700 -")
	same(t, "by age", rates(w.Look(Flows, Age)), "40004 700 -, 40002 4000 500, 40001 2000 0, 40000 9000 4000")
	same(t, "servers", sums(w.Look(ViewBy(tally.Server), Rate)), "203.0.113.1 1 9000 4000, 203.0.113.3 1 4000 500, 203.0.113.2 2 2700 0")
	same(t, "servers by count", sums(w.Look(ViewBy(tally.Server), Count)), "203.0.113.2 2 2700 0, 203.0.113.1 1 9000 4000, 203.0.113.3 1 4000 500")
	if s.Every != 2*time.Second || !s.Whole {
		t.Errorf("%+v", s)
	}
	if w.seen.used != 4 {
		t.Errorf("%d flows are remembered, want 4", w.seen.used)
	}
}

// Counts are right at each moment, whichever of walk and event tells of a flow first.
func TestEvents(t *testing.T) {
	w := newWorld(selector.Selector{})
	for i := range 6 {
		w.flows = append(w.flows, flow(i, 100))
	}
	w.walkAll(t)
	count := func() string { return sums(w.Look(ViewBy(tally.Protocol), Count)) }
	w.born(flow(10, 0))
	w.born(flow(10, 0)) // told twice
	w.ended(flow(0, 500))
	w.ended(flow(20, 500)) // of which nobody knew
	same(t, "between walks", count(), "tcp 6 500 0")

	w.now = w.now.Add(time.Second)
	walk, _ := w.begin(6)
	for _, f := range w.flows[1:4] {
		w.visit(walk, f)
	}
	w.visit(walk, w.flows[1])    // a dump repeats it
	w.born(flow(11, 0))          // and the walk does not meet it
	w.born(flow(12, 0))          // and the walk does
	w.visit(walk, flow(12, 900)) // its bytes count the next time
	w.ended(flow(1, 100))        // met already
	w.ended(flow(4, 100))        // not met
	same(t, "in the old picture", count(), "tcp 6 300 0")
	w.visit(walk, w.flows[5])
	w.visit(walk, flow(10, 50))
	w.end(walk)
	same(t, "in the new one", count(), "tcp 6 350 50") // of flow 10, which was born a second ago
	if s := w.Look(Flows, Bytes); s.Matched != 6 || strings.Contains(rates(s), "40001 ") || !strings.Contains(rates(s), "40012 900") {
		t.Errorf("%d flows: %s", s.Matched, rates(s))
	}
	for _, i := range []int{2, 3, 5, 10, 11, 12} {
		w.ended(flow(i, 0))
	}
	if s := w.Look(Flows, Bytes); s.Matched != 0 || count() != "" || len(s.Rows) != 0 || w.seen.used != 0 {
		t.Errorf("%d flows are left, %q, rows %s, %d remembered", s.Matched, count(), rates(s), w.seen.used)
	}
}

// A new filter empties the table at once, ends the walk under way, and rates are
// known again after its first walk.
func TestSetFilter(t *testing.T) {
	w := newWorld(selector.Selector{})
	w.flows = []*conntrack.Flow{flow(0, 1000), flow(1, 2000), flow(2, 3000)}
	w.walkAll(t)
	walk, _ := w.begin(3)
	w.SetFilter(parse(t, "-d 203.0.113.1,203.0.113.3"))
	if w.visit(walk, w.flows[1]) {
		t.Error("the walk goes on")
	}
	w.end(walk)
	if s := w.Look(Flows, Rate); len(s.Rows) != 0 || s.Whole {
		t.Errorf("rows %s", rates(s))
	}
	w.now = w.now.Add(time.Second)
	walk, filter := w.begin(3)
	w.flows[2] = flow(2, 5000)
	for _, f := range w.flows {
		if filter.Match(f) {
			w.visit(walk, f)
		}
	}
	if s := w.Look(Flows, Rate); s.Whole || len(s.Rows) != 2 {
		t.Errorf("while the first walk is under way: %s", rates(s))
	}
	w.end(walk)
	same(t, "filtered", rates(w.Look(Flows, Rate)), "40002 5000 2000, 40000 1000 0")
	w.born(flow(7, 0))
	w.born(flow(9, 0))
	if s := w.Look(Flows, Rate); s.Matched != 3 {
		t.Errorf("%d flows match, want 3", s.Matched)
	}
}

// A million flows of as many clients stay within what the collector of garbage is told
// to keep to, also while a second walk builds its picture beside that of the first.
func TestMemory(t *testing.T) {
	const n = 1_000_000
	w := newWorld(selector.Selector{})
	f := flow(0, 0)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	walkOne := func(i int, walk uint32) {
		f.Orig.Src = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		f.Reply.Dst, f.ID = f.Orig.Src, uint32(i)
		w.visit(walk, f)
	}
	walk, _ := w.begin(n)
	for i := range n {
		walkOne(i, walk)
	}
	w.end(walk)
	if s := w.Look(ViewBy(tally.Client), Count); s.Matched != n || !s.AtLeast || s.All > mostGroups {
		t.Errorf("%d flows, %d clients", s.Matched, s.All)
	}
	walk, _ = w.begin(n)
	for i := range 2 * mostGroups {
		walkOne(i, walk)
	}
	if used := heap() - before; used > memoryLimit*2/3 {
		t.Errorf("%d MiB of memory, want less than %d", used>>20, memoryLimit*2/3>>20)
	} else {
		t.Logf("%d MiB of memory", used>>20)
	}
	runtime.KeepAlive(w)
}
