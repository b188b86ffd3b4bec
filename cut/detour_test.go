//go:build linux

package cut

import (
	"errors"
	"strings"
	"testing"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/selector"
)

// What may carry packets past all rules on the way of the flows denies the
// proof, unless it is taken on trust; elsewhere it is nobody's business.
func TestCutDetour(t *testing.T) {
	for _, c := range []struct {
		name, device string
		accept       bool
		proven       bool
	}{
		{"on the way", "wan", false, false},
		{"on trust", "wan", true, true},
		{"elsewhere", "wan2", false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			net := dmz(t, lab.Config{})
			idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 3})
			rules(t, net.Gateway.Host, "table netdev fast { chain in { type filter hook ingress device "+c.device+" priority 0; udp dport 9 fwd to lan; }; }")
			r := runCut(t, net, quick(Options{Selector: toServer(t, net), AcceptDetours: c.accept}))
			if r.Proven != c.proven || !r.Final {
				t.Errorf("proven %v, final %v: %s", r.Proven, r.Final, r.Reason)
			}
			wantReset(t, both(idle))
			found := c.device == "wan"
			if found != strings.Contains(r.Reason, "fwd") || found != (len(r.Fence.Detours) == 1) {
				t.Errorf("reason %q, detours %q", r.Reason, r.Fence.Detours)
			}
		})
	}
}

// Where not all could be looked at, nothing is proven.
func TestDetoursNotLookedFor(t *testing.T) {
	for _, accept := range []bool{false, true} {
		c := newCutting(Options{AcceptDetours: accept}, selector.Selector{})
		c.unlooked = errors.New("some reason")
		c.report()
		if q := c.requests[0]; q.receipt.Proven != accept {
			t.Errorf("accepted %v, proven %v because %q", accept, q.receipt.Proven, q.reasons)
		}
	}
}
