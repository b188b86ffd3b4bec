//go:build linux

package cut

import (
	"testing"

	"flowcut/conntrack"
	"flowcut/internal/fence"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/selector"
)

// The fence of a negated list stops no packet of those that the list names, not
// even while it rises or is lifted: the kernel finds new ranges a moment after
// the rules that ask for them.
func TestNegatedListHarmsNobody(t *testing.T) {
	net := dmz(t, lab.Config{})
	busy := loaded(t, net.Clients[0].Host, lab.Streams{Kind: lab.Upload, To: at(net, port, false), Count: 3})
	s := parse(t, "!", "--host", "192.0.2.77,192.168.1.100,203.0.113.1")
	for i := range 60 {
		f, err := fence.New(fence.Config{NetNS: net.Gateway.NS.Fd(), Selectors: []selector.Selector{s}})
		must(t, err)
		must(t, f.Raise(t.Context(), conntrack.FamilyIPv4))
		before := busy.Peers().Received()
		labtest.Until(t, "a good deal has passed", func() bool { return busy.Peers().Received() > before+1<<20 })
		n, err := f.Counts(t.Context())
		must(t, err)
		if n.Packets != 0 {
			t.Errorf("round %d: %d packets were stopped", i, n.Packets)
		}
		if i%2 == 0 {
			must(t, f.Lift(t.Context()))
		}
		must(t, f.Close())
		if n := both(busy).Told(nil); n != 6 {
			t.Fatalf("round %d: %d of 6 ends live", i, n)
		}
	}
}
