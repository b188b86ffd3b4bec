//go:build linux

package cut

import (
	"strings"
	"testing"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// A server that takes the question whether its end is dead for a new
// connection's beginning does not keep that, also where the gateway's own
// resets do not get to it: many would crowd out its clients.
func TestCutLeavesNothingHalfOpen(t *testing.T) {
	for _, name := range []string{"", "output-drop", "input", "twins"} {
		t.Run(name, func(t *testing.T) {
			net := labtest.Standard(t, ofKind(t, name))
			labtest.Listen(t, net.Clients[1].Host, port)
			idle := labtest.Dial(t, net.Servers[1].Host, lab.Streams{Kind: lab.Idle, To: address(net.Clients[1], false, port), Count: 20})
			r := runCut(t, net, quick(Options{Selector: parse(t, "--dport", "5201")}))
			if name != "twins" {
				wantProven(t, r)
				wantReset(t, both(idle))
			}
			if n := halfOpen(t, net.Clients[1].Host); n != 0 {
				t.Errorf("%d connections are half open", n)
			}
		})
	}
}

// halfOpen counts the connections of a host that wait for the end of their handshake.
func halfOpen(t testing.TB, h *lab.Host) (n int) {
	t.Helper()
	const synRecv = "03" // TCP_SYN_RECV
	for _, line := range strings.Split(proc(t, h, "tcp")+proc(t, h, "tcp6"), "\n") {
		if f := strings.Fields(line); len(f) > 3 && f[3] == synRecv {
			n++
		}
	}
	return n
}
