package conntrack

import (
	"slices"
	"testing"
	"time"
)

// unheardAndHeard makes n flows whose end the kernel will announce to nobody, and then
// as many that it will.
func unheardAndHeard(t *testing.T, c *Client, n int) (l *Listener, unheard, heard []*Flow) {
	t.Helper()
	sysctl(t, "nf_conntrack_events", "0")
	flows := slices.Collect(manyFlows(2 * n))
	for i, f := range flows {
		c := *f
		flows[i] = &c
	}
	mustCreate(t, c, flows[:n]...)
	sysctl(t, "nf_conntrack_events", "2")
	l = listenTest(t, c, EventConfig{Flows: EventNew | EventDestroy})
	mustCreate(t, c, flows[n:]...)
	for range n {
		waitEvent(t, l)
	}
	byTuple := map[Tuple]*Flow{}
	for _, f := range collect(t, c, Filter{}) {
		byTuple[f.Orig] = f
	}
	for i, f := range flows {
		flows[i] = byTuple[f.Orig]
	}
	return l, flows[:n], flows[n:]
}

// A deletion says of which flows nobody has heard that they ended.
func TestDeleteHeard(t *testing.T) {
	c := dialTest(t)
	const n = 40
	l, unheard, heard := unheardAndHeard(t, c, n)
	var keys []Key
	for _, f := range slices.Concat(unheard, heard, unheard[:1]) {
		keys = append(keys, f.Key())
	}
	var said, gone []int
	deleted, err := c.DeleteHeard(t.Context(), keys, func(i int) { gone = append(gone, i) }, func(i int) { said = append(said, i) })
	if err != nil || deleted != 2*n || !slices.Equal(gone, []int{2 * n}) {
		t.Fatalf("deleted %d, gone %v: %v", deleted, gone, err)
	}
	want := make([]int, n)
	for i := range want {
		want[i] = n + i
	}
	if !slices.Equal(said, want) {
		t.Errorf("heard of %v, want the %d that began while somebody listened", said, n)
	}
	for range n {
		if e := waitEvent(t, l); e.Kind != EventDestroy {
			t.Errorf("event %v", e.Kind)
		}
	}
	noEvent(t, l)
}

// Those that listen hear of the end of flows that began before, and nothing of
// the flows that tell them so is left.
func TestAnnounce(t *testing.T) {
	c := dialTest(t)
	const n = 40
	l, unheard, _ := unheardAndHeard(t, c, n)
	var keys []Key
	for _, f := range unheard {
		keys = append(keys, f.Key())
	}
	mustDelete(t, c, keys...)
	again := &Flow{Orig: unheard[3].Orig, Timeout: time.Minute} // somebody else has the tuple by now
	mustCreate(t, c, again)
	waitEvent(t, l)
	var told []int
	if err := c.Announce(t.Context(), unheard, func(i int) { told = append(told, i) }); err != nil {
		t.Fatal(err)
	}
	if len(told) != n-1 || slices.Contains(told, 3) {
		t.Errorf("told of %v, want all but 3", told)
	}
	kinds := map[Tuple]EventKind{}
	for range 2 * (n - 1) {
		e := waitEvent(t, l)
		if e.Kind == EventDestroy && kinds[e.Flow.Orig] != EventNew {
			t.Errorf("%v ends and has not begun", e.Flow.Orig)
		}
		kinds[e.Flow.Orig] |= e.Kind
	}
	noEvent(t, l)
	for i, f := range unheard {
		if want := map[bool]EventKind{false: EventNew | EventDestroy}[i == 3]; kinds[f.Orig] != want {
			t.Errorf("events of flow %d: %v, want %v", i, kinds[f.Orig], want)
		}
	}
	if left := collect(t, c, Filter{}); len(left) != n+1 {
		t.Errorf("%d flows are left, want %d", len(left), n+1)
	}
}

// An announcement keeps to both tuples and the zone, whatever the translation was.
func TestAnnounceTuples(t *testing.T) {
	c := dialTest(t)
	l := listenTest(t, c, EventConfig{Flows: EventNew | EventDestroy})
	f := &Flow{Has: AttrReply | AttrZone, Zone: 7, Orig: tuple(ProtoTCP, "203.0.113.2:1234", "203.0.113.1:80"), Reply: tuple(ProtoTCP, "192.168.1.100:8080", "203.0.113.2:1234")}
	told := 0
	if err := c.Announce(t.Context(), []*Flow{f}, func(int) { told++ }); err != nil || told != 1 {
		t.Fatalf("told of %d: %v", told, err)
	}
	e := waitEvent(t, l)
	if e.Flow.Status&StatusFixedTimeout == 0 || e.Flow.Timeout > announced {
		t.Errorf("packets could keep it: status %v, timeout %v", e.Flow.Status, e.Flow.Timeout)
	}
	if e.Flow.Orig != f.Orig || e.Flow.Reply != f.Reply || e.Flow.Zone != 7 || e.Flow.TCP.State != TCPEstablished {
		t.Errorf("told of %v, reply %v, zone %d, state %v", e.Flow.Orig, e.Flow.Reply, e.Flow.Zone, e.Flow.TCP.State)
	}
}
