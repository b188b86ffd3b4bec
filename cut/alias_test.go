//go:build linux

package cut

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// Hosts that take no resets, behind a firewall that answers in their place,
// look dead and go on sending: nothing is proven then.
func TestCutAnsweredInAnEndsPlace(t *testing.T) {
	net := dmz(t, lab.Config{})
	speak := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Speak, To: at(net, port, false), Count: 3, Interval: 20 * time.Millisecond})
	must(t, speak.WaitReceived(labtest.Context(t), 3))
	for _, h := range []*lab.Host{net.Clients[0].Host, net.Servers[0].Host} {
		iptables(t, h, "filter", "INPUT", "-p tcp --tcp-flags RST RST -j DROP")
	}
	iptables(t, net.Servers[0].Host, "filter", "INPUT", "-p tcp --dport 5201 --syn -j REJECT --reject-with tcp-reset")
	off(t, net)
	r := runCut(t, net, quick(Options{Selector: toServer(t, net)}))
	if r.Proven || r.Final {
		t.Errorf("proven %v, final %v, and the servers live", r.Proven, r.Final)
	}
	wantReason(t, r, "gone on sending")
	if n := speak.Peers().Told(nil); n != 3 {
		t.Fatalf("%d of 3 servers live: the test does not test", n)
	}
}

// Anybody can send the first segment of a connection on a cut tuple. That its
// originator has begun anew is believed when the responder has answered.
func TestCutSpoofedBeginning(t *testing.T) {
	net := dmz(t, lab.Config{})
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false)})
	must(t, net.Clients[0].Vanish())
	must(t, net.Servers[0].Vanish())
	admitted := false
	o := during(stepTellRest, Options{Selector: toServer(t, net)}, func() {
		must(t, net.Clients[1].Inject(t.Context(), beginning(idle[0].Local, idle[0].Remote)))
		labtest.Until(t, "the gateway takes it for a flow", func() bool { return entries(t, net, toServer(t, net)) == 1 })
		admitted = true
	})
	r := runCut(t, net, o)
	if r.Proven || r.Final || !admitted || r.Endpoints.Dead != 0 {
		t.Errorf("proven %v, final %v, dead %d, and nobody was heard; begun %v", r.Proven, r.Final, r.Endpoints.Dead, admitted)
	}
}

// beginning is a SYN, stray an ACK of nothing.
func beginning(from, to netip.AddrPort) []byte { return segment(from, to, 0x02) }
func stray(from, to netip.AddrPort) []byte     { return segment(from, to, 0x10) }

func segment(from, to netip.AddrPort, flags byte) []byte {
	const words, window = 5, 1024
	b := binary.BigEndian.AppendUint16(nil, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = append(b, 0, 0, 0, 1, 0, 0, 0, 0, words<<4, flags)
	b = binary.BigEndian.AppendUint16(b, window)
	return lab.Packet(from.Addr(), to.Addr(), unix.IPPROTO_TCP, append(b, 0, 0, 0, 0))
}
