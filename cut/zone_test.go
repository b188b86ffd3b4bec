//go:build linux

package cut

import (
	"testing"

	"flowcut/conntrack"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// The segments that a cut sends are nobody's flow, also where rules put what
// the gateway sends into a zone, which makes conntrack follow it.
func TestCutLeavesNoEntries(t *testing.T) {
	for _, name := range []string{"", "zone", "zones"} {
		t.Run(name, func(t *testing.T) {
			net := labtest.Standard(t, ofKind(t, name))
			labtest.Listen(t, net.Clients[0].Host, port)
			idle := labtest.Dial(t, net.Servers[1].Host, lab.Streams{Kind: lab.Idle, To: address(net.Clients[0], false, port), Count: 20})
			r := runCut(t, net, quick(Options{Selector: parse(t, "--dport", "5201")}))
			wantProven(t, r)
			wantReset(t, both(idle))
			if r.Flows.Matched != 20 {
				t.Errorf("matched %d, want 20", r.Flows.Matched)
			}
			for _, f := range flows(t, net, parse(t, "-p", "tcp")) {
				t.Errorf("an entry is left: %v, reply %v, zone %d, %v", f.Orig, f.Reply, f.Zone, f.TCP.State)
			}
		})
	}
}

// Where some entries cannot be looked at, there may be zones: all are.
func TestUnseenZones(t *testing.T) {
	ct, err := conntrack.Dial(conntrack.Config{})
	if err != nil {
		t.Fatal(err)
	}
	must(t, ct.Close())
	c := newCutting(Options{}, parse(t, "--dport", "5201"))
	c.ct = ct
	if c.sampleZones(t.Context()); !c.zoned {
		t.Error("it goes on as if there were none")
	}
}
