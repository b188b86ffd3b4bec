//go:build linux

package cut

import (
	"flag"
	"os"
	"testing"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// backend is what fences are made of where a test does not say. With
// "-args -fence iptables" the scenarios of this package run on the other backend.
var backend Backend

func TestMain(m *testing.M) {
	name := flag.String("fence", "", "backend of the fence, iptables or nf_tables")
	flag.Parse()
	backend = Backend(*name)
	os.Exit(m.Run())
}

// An idle connection through a DMZ that was turned off ends at both ends.
func TestCutIdle(t *testing.T) {
	net := dmz(t, lab.Config{})
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false)})
	off(t, net)
	before := labtest.Ruleset(t, net.Gateway.Host)
	r := runCut(t, net, quick(Options{Selector: toServer(t, net), Fence: backend}))
	wantProven(t, r)
	if r.Flows.Matched != 1 || r.Endpoints.Dead != 2 {
		t.Errorf("matched %d, dead %d", r.Flows.Matched, r.Endpoints.Dead)
	}
	wantReset(t, both(idle))
	wantNoEntries(t, net)
	if after := labtest.Ruleset(t, net.Gateway.Host); after != before {
		t.Errorf("ruleset before:\n%s\nafter:\n%s", before, after)
	}
}
