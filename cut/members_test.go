package cut

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/selector"
)

// Of an offloaded flow the kernel does not tell the state: it lives until the
// contrary is known. Of one in hardware it must be known that it was let go.
func TestOffloaded(t *testing.T) {
	f := &conntrack.Flow{Has: conntrack.AttrOrig | conntrack.AttrStatus, Status: conntrack.StatusOffload | conntrack.StatusHWOffload | conntrack.StatusSeenReply}
	f.Orig.Proto = conntrack.ProtoTCP
	m := newMember(f, false)
	if !m.open || m.closed || m.offload != inHardware {
		t.Errorf("open %v, closed %v, offloaded %v", m.open, m.closed, m.offload)
	}
	c := newCutting(Options{AcceptSilent: true}, selector.Selector{})
	c.checked = true
	c.members.add(m)
	for _, x := range []struct {
		name           string
		tcp, seen, die bool
		want           bool
	}{
		{"silent", true, false, false, false},
		{"silent, and seen to be let go", true, true, false, true},
		{"dead", true, false, true, true},
		{"datagrams", false, false, false, false},
		{"datagrams, seen to be let go", false, true, false, true},
	} {
		t.Run(x.name, func(t *testing.T) {
			m.tcp, m.released, m.dead = x.tcp, x.seen, [2]bool{x.die, x.die}
			c.report()
			r := c.requests[0].receipt
			if r.Proven != x.want || r.Flows.Offloaded != 1 {
				t.Errorf("proven %v, want %v; offloaded %d; because %v", r.Proven, x.want, r.Flows.Offloaded, r.Reason)
			}
			if !r.Proven && !strings.Contains(r.Reason, "flowtable") {
				t.Errorf("because %v", r.Reason)
			}
		})
	}
}

// What /proc/net/stat/nf_flowtable looks like with two processors, after
// net/netfilter/nf_flow_table_procfs.c of Linux 7.3.
func TestDriverWork(t *testing.T) {
	const heading = "wq_add   wq_del   wq_stats\n"
	for _, x := range []struct {
		text string
		want int
		ok   bool
	}{
		{heading + "       0        0        0\n       0        0        7\n", 0, true},
		{heading + "       3        0        0\n      -2        4        0\n", 5, true},
		{heading + "       3        0\n", 0, false},
		{heading + "       x        0        0\n", 0, false},
		{"wq_del wq_add\n0 0\n", 0, false},
		{"", 0, false},
	} {
		if n, err := parseDriverWork([]byte(x.text)); n != x.want || (err == nil) != x.ok {
			t.Errorf("%q: %d, %v", x.text, n, err)
		}
	}
}

// Hardware is given the collector's time. Whether it has let go is known where
// the kernel counts the work for drivers, of which there is none here.
func TestReleaseOfHardware(t *testing.T) {
	c := newCutting(Options{})
	m := &member{offload: inHardware, tcp: true}
	kept := &member{offload: inSoftware, tcp: true}
	c.members.list = memberList{m, kept}
	m.deleted, c.deleted = true, time.Now().Add(100*time.Millisecond-hardwareLeast)
	began := time.Now()
	if err := c.release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if waited := time.Since(began); waited < 95*time.Millisecond {
		t.Errorf("waited %v of the collector's last 100 ms", waited)
	}
	_, err := os.Stat("/proc/net/stat/nf_flowtable")
	if m.released != (err == nil) || kept.released || c.released.Before(began) {
		t.Errorf("released %v, the other one %v, at %v", m.released, kept.released, c.released)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m.released, c.deleted = false, time.Now()
	if err := c.release(ctx); !errors.Is(err, context.Canceled) || m.released {
		t.Errorf("after the end: %v, released %v", err, m.released)
	}
}
