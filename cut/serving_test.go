//go:build linux

package cut

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// Who serves is found out by half a handshake, of which no program hears.
func TestAskServing(t *testing.T) {
	topology := labtest.Standard(t, lab.Config{NoRules: true})
	server, gone := topology.Servers[0], topology.Servers[1]
	must(t, gone.Vanish())
	for _, v6 := range []bool{false, true} {
		var l *net.TCPListener
		at := address(server, v6, port)
		must(t, server.NS.Do(func() (err error) {
			l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
			return err
		}))
		defer l.Close()
		quiet, lonely := address(server, v6, other), address(gone, v6, port)
		nowhere := netip.AddrPortFrom(netip.MustParseAddr("100.64.0.1"), port)
		began := time.Now()
		got, err := askServing(labtest.Context(t), topology.Gateway.NS.Fd(), []netip.AddrPort{at, quiet, lonely, nowhere}, began.Add(askLong), time.Time{}, nil)
		must(t, err)
		if got[at] != serves || got[quiet] != refuses || got[lonely] != unknown || got[nowhere] != unknown {
			t.Errorf("answers %v", got)
		}
		if took := time.Since(began); took < askFor {
			t.Errorf("waited %v for one who says nothing", took)
		}
		must(t, l.SetDeadline(time.Now().Add(50*time.Millisecond)))
		if _, err := l.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the server was given a connection: %v", err)
		}
	}
}

// What cannot leave yet, as IPv6 packets in the first second of a device, is waited
// for: silence would be taken for an answer.
func TestAskServingBeforeNeighbours(t *testing.T) {
	topology := labtest.Standard(t, lab.Config{NoRules: true})
	server, gateway := topology.Servers[0], topology.Gateway
	must(t, server.NS.Do(func() error {
		l, err := net.ListenTCP("tcp6", &net.TCPAddr{Port: port})
		if err == nil {
			t.Cleanup(func() { must(t, l.Close()) })
		}
		return err
	}))
	for _, patient := range []bool{true, false} {
		// The address is nobody's at first.
		prefix, want := netip.MustParsePrefix("fd00:1::171/64"), serves
		began := time.Now()
		late := began.Add(askSlow)
		if !patient {
			prefix, want, late = netip.MustParsePrefix("fd00:1::172/64"), unknown, time.Time{}
		}
		at := netip.AddrPortFrom(prefix.Addr(), port)
		added := make(chan error, 1)
		time.AfterFunc(askFor+100*time.Millisecond, func() { added <- server.Address("eth0", prefix) })
		got, err := askServing(labtest.Context(t), gateway.NS.Fd(), []netip.AddrPort{at}, began.Add(askLong), late, nil)
		must(t, errors.Join(err, <-added))
		if got[at] != want {
			t.Errorf("patient %v: answer %v after %v, want %v", patient, got[at], time.Since(began), want)
		}
	}
}

// Our own handshakes are no flows that the ruleset has admitted, and leave no
// entries behind, whether they are answered or not; also where the selection
// means them and the fence cannot tell.
func TestAskingIsForgotten(t *testing.T) {
	for _, more := range [][]string{nil, {"--status", "!EXPECTED"}} {
		top := labtest.Standard(t, lab.Config{})
		server := top.Servers[0]
		must(t, server.NS.Do(func() error {
			l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(address(server, false, port)))
			if err == nil {
				t.Cleanup(func() { must(t, l.Close()) })
			}
			return err
		}))
		var flows []*conntrack.Flow
		for i := range uint16(2) { // one to a client that is not there
			client := netip.AddrPortFrom(top.Clients[0].Addr4, 40000)
			if i == 1 {
				client = netip.MustParseAddrPort("203.0.113.77:40000")
			}
			orig := conntrack.Tuple{Proto: conntrack.ProtoTCP, Src: server.Addr4, SrcPort: port, Dst: client.Addr(), DstPort: client.Port()}
			flows = append(flows, &conntrack.Flow{
				Orig: orig, Reply: orig.Invert(), Has: conntrack.AttrReply | conntrack.AttrTCP | conntrack.AttrStatus,
				Status: conntrack.StatusSeenReply | conntrack.StatusAssured, TCP: conntrack.TCP{State: conntrack.TCPEstablished},
			})
		}
		c := table(t, top)
		restore(t, c, flows)
		r := runCut(t, top, quick(Options{Selector: parse(t, append([]string{"-r", server.Addr4.String()}, more...)...), AcceptSilent: true}))
		if r.Flows.Matched != 2 || r.Flows.Mirrored != 2 || r.Flows.Admitted != 0 {
			t.Errorf("%v: matched %d, mirrored %d, admitted %d; want 2 mirrors and nothing else", more, r.Flows.Matched, r.Flows.Mirrored, r.Flows.Admitted)
		}
		for _, f := range all(t, c, parse(t, "-p", "tcp")) {
			t.Errorf("%v: left in the table: %v %v", more, f.Orig, f.TCP.State)
		}
	}
}

// What is a mirror is decided by who serves, and by ports where nobody says.
func TestIsMirror(t *testing.T) {
	const known, client = 8080, 40000
	for _, c := range []struct {
		name         string
		from, to     uint16
		server, peer serving
		want         bool
	}{
		{"a service and a client", 80, client, serves, refuses, true},
		{"a client's port may be any", 80, 1234, serves, refuses, true},
		{"a client that says nothing", 80, client, serves, unknown, true},
		{"both serve", 80, client, serves, serves, false},
		{"from the service's own port", known, 443, serves, serves, false},
		{"a port that nobody serves", 700, client, refuses, refuses, false},
		{"a service that has ended", known, client, refuses, refuses, true},
		{"to a service, from one that has ended", known, 443, refuses, unknown, false},
		{"nobody says", 80, client, unknown, unknown, true},
		{"nobody says, two services", 80, 443, unknown, unknown, false},
		{"nobody says, FTP's data", 20, client, unknown, unknown, false},
		{"a client's port", client, client, serves, refuses, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newCutting(Options{}, parse(t, "--dport", "8080"))
			x.reflect()
			x.services.below = 32768
			m := &member{tcp: true}
			m.key.Orig.Src, m.key.Orig.SrcPort = netip.MustParseAddr("192.0.2.1"), c.from
			m.reply.Src, m.reply.SrcPort = netip.MustParseAddr("192.0.2.2"), c.to
			x.services.asked = map[netip.AddrPort]serving{serverOf(m): c.server, peerOf(m): c.peer}
			if got := x.isMirror(m); got != c.want {
				t.Errorf("mirror: %v", got)
			}
		})
	}
}
