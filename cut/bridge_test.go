//go:build linux

package cut

import (
	"testing"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// Where packets come in by a bridge, the kernel answers them past all hooks,
// as on every host with containers: the ends that it resets are counted all the
// same, and one end's word is enough when the other one is gone.
func TestCutBehindBridge(t *testing.T) {
	for _, gone := range []bool{false, true} {
		t.Run(map[bool]string{false: "both ends", true: "one end"}[gone], func(t *testing.T) {
			net := dmz(t, lab.Config{Devices: lab.BridgeDevices})
			idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 20})
			there := both(idle)
			if gone {
				must(t, net.Clients[0].Vanish())
				there = idle.Peers()
			}
			r := runCut(t, net, quick(Options{Selector: toServer(t, net)}))
			wantReset(t, there)
			if e := r.Endpoints; !r.Proven || !r.Final || e.Reset != len(there) || e.Dead != len(there) {
				t.Errorf("proven %v, final %v, reset %d, dead %d, want %d of both: %s", r.Proven, r.Final, e.Reset, e.Dead, len(there), r.Reason)
			}
		})
	}
}
