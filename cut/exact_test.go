//go:build linux

package cut

import (
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/selector"
)

// find returns the entry of a client's connection.
func find(t *testing.T, net *lab.Topology, e *lab.End) *conntrack.Flow {
	t.Helper()
	c, err := conntrack.Dial(conntrack.Config{NetNS: net.Gateway.NS.Fd()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for f, err := range c.Dump(labtest.Context(t), conntrack.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if f.Orig.Src == e.Local.Addr() && f.Orig.SrcPort == e.Local.Port() {
			return f.Clone()
		}
	}
	t.Fatalf("no entry of %s", e.Local)
	return nil
}

// What rules cannot match, or what changes while a flow lives, is fenced by
// the tuples of the flows that are listed first: those end, and no other.
func TestCutByTuples(t *testing.T) {
	for _, c := range []struct {
		name string
		args func(*conntrack.Flow) []string
	}{
		{"id", func(f *conntrack.Flow) []string { return []string{"--id", strconv.FormatUint(uint64(f.ID), 10)} }},
		{"state", func(f *conntrack.Flow) []string {
			return []string{"--state", "ESTABLISHED", "--sport", strconv.Itoa(int(f.Orig.SrcPort))}
		}},
		{"status", func(f *conntrack.Flow) []string {
			return []string{"-u", "ASSURED", "--sport", strconv.Itoa(int(f.Orig.SrcPort))}
		}},
		{"picked-up", func(f *conntrack.Flow) []string {
			return []string{"--picked-up=no", "--sport", strconv.Itoa(int(f.Orig.SrcPort))}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			net := dmz(t, lab.Config{})
			talks := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Talk, To: at(net, port, false), Count: 11})
			meant, rest := talks[:1], talks[1:]
			if err := talks.WaitReceived(labtest.Context(t), 2); err != nil {
				t.Fatal(err)
			}
			s, err := selector.Parse(c.args(find(t, net, meant[0])))
			if err != nil {
				t.Fatal(err)
			}
			r := runCut(t, net, Options{Selector: s})
			wantProven(t, r)
			if r.Flows.Matched != 1 || r.Fence.Exact {
				t.Errorf("matched %d, exact %v", r.Flows.Matched, r.Fence.Exact)
			}
			wantReset(t, both(meant))
			if n := both(rest).Told(nil); n != 20 {
				t.Errorf("%d of 20 other ends were told nothing; some were told something", n)
			}
			before := rest.Received()
			labtest.Until(t, "the others go on", func() bool { return rest.Received() > before+20 })
			if n := meant.Told(unix.ECONNRESET); n != 1 {
				t.Errorf("the selected one was told %v", meant[0].Told().Err)
			}
		})
	}
}

// A flow that is to be left alone lives, from the fence's first moment on, and
// is counted.
func TestCutSpares(t *testing.T) {
	net := dmz(t, lab.Config{})
	talks := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Talk, To: at(net, port, false), Count: 5, Interval: 2 * time.Millisecond})
	if err := talks.WaitReceived(labtest.Context(t), 2); err != nil {
		t.Fatal(err)
	}
	own := talks[:1]
	sampler := net.Sample(time.Millisecond, own.Received)
	r := runCut(t, net, Options{Selector: toServer(t, net), Spare: []conntrack.Tuple{find(t, net, own[0]).Orig}})
	samples := sampler.Stop()
	wantProven(t, r)
	if r.Flows.Matched != 5 || r.Flows.Spared != 1 || r.Flows.Deleted != 4 {
		t.Errorf("matched %d, spared %d, deleted %d", r.Flows.Matched, r.Flows.Spared, r.Flows.Deleted)
	}
	wantReset(t, both(talks[1:]))
	if n := both(own).Told(nil); n != 2 {
		t.Fatalf("%d of 2 ends of the spared one live", n)
	}
	// A stopped segment would be sent again after 200 ms.
	pause, last := time.Duration(0), samples[0]
	for _, s := range samples {
		if s.Value != last.Value {
			pause, last = max(pause, s.At.Sub(last.At)), s
		}
	}
	if pause > time.Duration(labtest.Slow())*150*time.Millisecond {
		t.Errorf("the spared one stood still for %v", pause)
	}
}
