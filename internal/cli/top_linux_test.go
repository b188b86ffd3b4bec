package cli

import (
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/example"
	"flowcut/internal/netns"
	"flowcut/selector"
)

// Somebody may come to the screen through another connection than at the start: the
// one that is theirs when a cut begins is left alone.
func TestTopSpares(t *testing.T) {
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	ct, err := conntrack.Dial(conntrack.Config{NetNS: ns.Fd()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ct.Close() })
	own := example.Ports(conntrack.ProtoTCP, "198.51.100.9:40000", "203.0.113.1:22")
	f := &conntrack.Flow{
		Has:  conntrack.AttrOrig | conntrack.AttrReply | conntrack.AttrTCP | conntrack.AttrTimeout,
		Orig: own, Reply: own.Invert(), TCP: conntrack.TCP{State: conntrack.TCPEstablished}, Timeout: time.Hour,
	}
	if _, err := ct.CreateAll(t.Context(), func(yield func(*conntrack.Flow) bool) { yield(f) }); err != nil {
		t.Fatal(err)
	}
	s, err := selector.Parse([]string{"-p", "tcp"})
	if err != nil {
		t.Fatal(err)
	}
	var sessions []conntrack.Tuple
	c := topCut{sessions: func() ([]conntrack.Tuple, bool) { return sessions, false }}
	c.o.NetNS = ns.Fd()
	for matched := 1; matched >= 0; matched-- {
		p, err := c.plan(t.Context(), []selector.Selector{s})
		if err != nil {
			t.Fatal(err)
		}
		if p.Flows.Matched != matched || p.Flows.Spared != 1-matched {
			t.Errorf("with %v as own sessions %d flows are meant and %d spared", sessions, p.Flows.Matched, p.Flows.Spared)
		}
		sessions = []conntrack.Tuple{own}
	}
}
