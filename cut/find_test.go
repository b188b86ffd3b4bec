//go:build linux

package cut

import (
	"testing"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// A flow that one listing has found and the next one has not, since somebody
// else has deleted it meanwhile, is cut all the same: its ends live.
func TestFindKeepsWhatVanishes(t *testing.T) {
	net := dmz(t, lab.Config{})
	labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 3})
	ctx := labtest.Context(t)
	c := newCutting(Options{NetNS: net.Gateway.NS.Fd()}, parse(t, "--dport", "5201", "--state", "ESTABLISHED"))
	t.Cleanup(func() { must(t, c.close()) })
	must(t, c.dial())
	must(t, c.open())
	must(t, c.raise(ctx))
	if first, err := c.sweep(ctx, true); err != nil || len(first) != 3 {
		t.Fatalf("%d flows in the first listing, %v", len(first), err)
	}
	rival := table(t, net)
	remove(t, rival, all(t, rival, toServer(t, net)))
	if found, err := c.find(ctx); err != nil || len(found) != 3 {
		t.Errorf("%d flows are found, want all 3 of the first listing; %v", len(found), err)
	}
}
