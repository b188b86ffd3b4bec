//go:build linux

package cut

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// sctp is the head of an SCTP packet with one chunk, a HEARTBEAT or the answer
// to one: connection tracking takes these for an association, too.
func sctp(from, to uint16, chunk byte) []byte {
	const tag, checksum = 1, 0
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint32(b, tag)
	b = binary.BigEndian.AppendUint32(b, checksum)
	return append(b, chunk, 0, 0, 4+16)
}

// Flows of other protocols than TCP are held and their ends told by a port
// unreachable, idle or not: all that is promised for them.
func TestCutOtherProtocols(t *testing.T) {
	for _, c := range []struct {
		name string
		v6   bool
		make func(t *testing.T, net *lab.Topology, client, server netip.Addr) lab.Ends
	}{
		{name: "udplite", make: udpLite},
		{name: "udplite6", v6: true, make: udpLite},
		{name: "sctp", make: rawEnds(unix.IPPROTO_SCTP, sctp(4000, port, 4), sctp(port, 4000, 5), lab.SealSCTP)},
		{name: "sctp6", v6: true, make: rawEnds(unix.IPPROTO_SCTP, sctp(4000, port, 4), sctp(port, 4000, 5), lab.SealSCTP)},
		{name: "gre", make: rawEnds(unix.IPPROTO_GRE, gre, gre, nil)},
		{name: "gre6", v6: true, make: rawEnds(unix.IPPROTO_GRE, gre, gre, nil)},
		{name: "esp", make: rawEnds(unix.IPPROTO_ESP, esp, esp, nil)},
		{name: "ipip", make: rawEnds(unix.IPPROTO_IPIP, esp, esp, nil)},
	} {
		if strings.HasPrefix(c.name, "udplite") && !hasUDPLite(t) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			// Connection tracking computes UDP-Lite's checksum as UDP's and finds all wrong.
			net := labtest.Standard(t, lab.Config{NoRules: true, Sysctls: map[string]string{"net.netfilter.nf_conntrack_checksum": "0"}})
			track(t, net)
			client, server := net.Clients[0].Addr4, net.Servers[0].Addr4
			if c.v6 {
				client, server = net.Clients[0].Addr6, net.Servers[0].Addr6
			}
			ends := c.make(t, net, client, server)
			must(t, ends.WaitReceived(labtest.Context(t), 20*16))
			r := wantHeld(t, net, quick(Options{Selector: parse(t, "--host", server.String())}), ends)
			if !r.Proven || r.ForGood() {
				t.Errorf("proven %v, for good %v: %s", r.Proven, r.ForGood(), r.Reason)
			}
			if r.Flows.Matched != 1 || r.Flows.Deleted != 1 {
				t.Errorf("matched %d, deleted %d", r.Flows.Matched, r.Flows.Deleted)
			}
			for _, e := range ends {
				if e.Told().Err == nil {
					t.Errorf("the end at %s was told nothing", e.Local)
				}
			}
			if r.Endpoints.Unreachable != 2 {
				t.Errorf("unreachable %d, want 2", r.Endpoints.Unreachable)
			}
			// Both go on sending, and the ruleset admits it: said by name.
			if r.Flows.Knocking != 2 {
				t.Errorf("knocking %d, want 2", r.Flows.Knocking)
			}
			wantReason(t, r, "still sending", server.String())
		})
	}
}

// gre is a header of GRE that says that IPv4 follows.
var gre = []byte{0, 0, 8, 0}

// esp is the head of an ESP packet: an index.
var esp = []byte{0, 0, 1, 2}

// hasUDPLite tells whether the kernel has UDP-Lite; 7.3 has not.
func hasUDPLite(t *testing.T) bool {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDPLITE)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return false
	}
	must(t, err)
	must(t, unix.Close(fd))
	return true
}

func udpLite(t *testing.T, net *lab.Topology, client, server netip.Addr) lab.Ends {
	t.Helper()
	ends, err := net.Clients[0].UDPLite(labtest.Context(t), net.Servers[0].Host, netip.AddrPortFrom(client, 4000), netip.AddrPortFrom(server, port), 200)
	must(t, err)
	return ends
}

// rawEnds makes both ends of a flow of a protocol.
func rawEnds(proto int, up, down []byte, seal func([]byte)) func(*testing.T, *lab.Topology, netip.Addr, netip.Addr) lab.Ends {
	return func(t *testing.T, net *lab.Topology, client, server netip.Addr) lab.Ends {
		t.Helper()
		a, err := net.Clients[0].RawEnd(labtest.Context(t), lab.Packets{To: server, Proto: proto, Head: up, Seal: seal, Rate: 200})
		must(t, err)
		b, err := net.Servers[0].RawEnd(labtest.Context(t), lab.Packets{To: client, Proto: proto, Head: down, Seal: seal, Rate: 200})
		must(t, err)
		return lab.Ends{a, b}
	}
}

// With --hold quiet, what has no handshake stays closed until it has been
// quiet for --settle.
func TestCutHoldQuiet(t *testing.T) {
	net := dmz(t, lab.Config{})
	busy := labtest.Exchange(t, net.Clients[0].Host, lab.Datagrams{To: at(net, port, false), Count: 2, Up: 200})
	must(t, busy.Peers().WaitReceived(labtest.Context(t), 20*256))
	const talks, settle = 700 * time.Millisecond, 300 * time.Millisecond
	time.AfterFunc(talks, func() {
		for _, e := range busy {
			e.Quiet()
		}
	})
	start := time.Now()
	r := runCut(t, net, Options{Selector: toServer(t, net), Hold: UntilQuiet, Settle: settle})
	wantProven(t, r)
	if lifted := time.Duration(r.Fence.LiftedAfterMS); lifted < talks+settle-time.Since(start)+time.Duration(r.ElapsedMS) || r.Flows.Knocking != 0 {
		t.Errorf("lifted after %v, %d knocking", lifted, r.Flows.Knocking)
	}
	if n := entries(t, net, toServer(t, net)); n != 0 {
		t.Errorf("%d entries are left", n)
	}
}
