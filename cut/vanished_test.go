//go:build linux

package cut

import (
	"strings"
	"testing"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// Where no end answers, nothing proves the end of a flow: the receipt says so
// and what to do, and takes it on trust only when told to.
func TestCutVanished(t *testing.T) {
	for _, accept := range []bool{false, true} {
		t.Run(map[bool]string{false: "asked", true: "accepted"}[accept], func(t *testing.T) {
			net := dmz(t, lab.Config{})
			labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 5})
			for _, s := range []*lab.Station{net.Clients[0], net.Servers[0]} {
				if err := s.Vanish(); err != nil {
					t.Fatal(err)
				}
			}
			r := runCut(t, net, Options{Selector: toServer(t, net), AcceptSilent: accept})
			if r.Final || r.Proven != accept || r.Flows.Deleted != 5 || r.Endpoints.Silent != 10 {
				t.Errorf("final %v, proven %v, deleted %d, silent %d", r.Final, r.Proven, r.Flows.Deleted, r.Endpoints.Silent)
			}
			if want := map[bool]string{false: "--accept-silent", true: "on trust"}[accept]; !strings.Contains(r.Reason, want) {
				t.Errorf("reason %q, want %q in it", r.Reason, want)
			}
		})
	}
	t.Run("one end", func(t *testing.T) {
		net := dmz(t, lab.Config{})
		idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 5})
		if err := net.Clients[0].Vanish(); err != nil {
			t.Fatal(err)
		}
		r := runCut(t, net, Options{Selector: toServer(t, net)})
		wantProven(t, r)
		wantReset(t, idle.Peers())
		if r.Endpoints.Dead != 5 || r.Endpoints.Silent != 5 {
			t.Errorf("dead %d, silent %d, want 5 of each", r.Endpoints.Dead, r.Endpoints.Silent)
		}
	})
}
