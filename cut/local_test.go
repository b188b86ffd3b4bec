//go:build linux

package cut

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// What the gateway takes on itself by a REDIRECT is cut like what it forwards.
func TestCutRedirected(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(map[bool]string{false: "v4", true: "v6"}[v6], func(t *testing.T) {
			net := dmz(t, lab.Config{})
			labtest.Listen(t, net.Gateway.Host, 3128)
			must(t, net.Gateway.Redirect(80, 3128))
			to := netip.AddrPortFrom(address(net.Servers[1], v6, 0).Addr(), 80) // of somebody else
			busy := loaded(t, net.Clients[0].Host, lab.Streams{Kind: lab.Download, To: to, Count: 2})
			idle := labtest.Dial(t, net.Clients[1].Host, lab.Streams{Kind: lab.Idle, To: to, Count: 10})
			rest := labtest.Dial(t, net.Clients[1].Host, lab.Streams{Kind: lab.Talk, To: at(net, other, v6), Count: 3})
			r := runCut(t, net, quick(Options{Selector: parse(t, "-p", "tcp", "--dport", "80")}))
			exit := time.Now()
			wantProven(t, r)
			if r.Flows.Matched != 12 {
				t.Errorf("matched %d, want 12", r.Flows.Matched)
			}
			wantReset(t, both(busy, idle))
			wantSilence(t, both(busy, idle), exit, 200*time.Millisecond)
			if n := both(rest).Told(nil); n != 6 {
				t.Errorf("%d of 6 other ends live", n)
			}
		})
	}
}

// Flows of the gateway with itself pass its hooks twice, and both ends of them
// are told.
func TestCutLoopback(t *testing.T) {
	net := dmz(t, lab.Config{})
	g := net.Gateway
	labtest.Listen(t, g.Host, port)
	labtest.Listen(t, g.Host, other)
	for _, a := range []netip.Addr{
		netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback(), net.Servers[0].Via4, net.Servers[0].Via6,
	} {
		t.Run(a.String(), func(t *testing.T) {
			to := netip.AddrPortFrom(a, port)
			busy := loaded(t, g.Host, lab.Streams{Kind: lab.Upload, To: to, Count: 1})
			idle := labtest.Dial(t, g.Host, lab.Streams{Kind: lab.Idle, To: to, Count: 10})
			data := labtest.Exchange(t, g.Host, lab.Datagrams{To: to, Count: 3})
			rest := labtest.Dial(t, g.Host, lab.Streams{Kind: lab.Talk, To: netip.AddrPortFrom(a, other), Count: 3})
			r := runCut(t, net, quick(Options{Selector: parse(t, "--host", a.String(), "--dport", "5201")}))
			exit := time.Now()
			wantProven(t, r)
			if r.Flows.Matched != 14 {
				t.Errorf("matched %d, want 14", r.Flows.Matched)
			}
			ends := both(busy, idle)
			wantReset(t, ends)
			if told := both(data).Told(unix.ECONNREFUSED); told != 6 {
				t.Errorf("%d of 6 ends of datagram flows were told", told)
			}
			wantSilence(t, slices.Concat(ends, both(data)), exit, 200*time.Millisecond)
			if n := both(rest).Told(nil); n != 6 {
				t.Errorf("%d of 6 other ends live", n)
			}
		})
	}
}
