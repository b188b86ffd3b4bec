//go:build linux

package cut

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// conn is a connection whose ends the test closes as it likes.
type conn struct{ client, server *net.TCPConn }

// connections makes n of them through the DMZ, to a port of their own.
func connections(t *testing.T, site *lab.Topology, n int) []conn {
	t.Helper()
	const p = 5203
	var l *net.TCPListener
	must(t, site.Servers[0].NS.Do(func() (err error) {
		l, err = net.ListenTCP("tcp4", &net.TCPAddr{Port: p})
		return err
	}))
	t.Cleanup(func() { _ = l.Close() })
	must(t, site.Gateway.Forward(p, site.Servers[0]))
	var out []conn
	for range n {
		var c conn
		must(t, site.Clients[0].NS.Do(func() (err error) {
			c.client, err = net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(at(site, p, false)))
			return err
		}))
		t.Cleanup(func() { _ = c.client.Close() })
		var err error
		c.server, err = l.AcceptTCP()
		must(t, err)
		t.Cleanup(func() { _ = c.server.Close() })
		out = append(out, c)
	}
	return out
}

// state is the gateway's opinion of a connection.
func (c conn) state(t *testing.T, site *lab.Topology) conntrack.TCPState {
	t.Helper()
	f := c.entry(t, site)
	if f == nil {
		return conntrack.TCPNone
	}
	return f.TCP.State
}

func (c conn) entry(t *testing.T, site *lab.Topology) *conntrack.Flow {
	t.Helper()
	local := c.client.LocalAddr().(*net.TCPAddr).AddrPort()
	for _, f := range flows(t, site, parse(t, "-p", "tcp")) {
		if f.Orig.SrcPort == local.Port() && f.Orig.Src == local.Addr() {
			return f
		}
	}
	return nil
}

// told returns what a read at an end says, nil for data or an orderly end.
func told(c *net.TCPConn) error {
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	for {
		if _, err := c.Read(make([]byte, 1)); err != nil {
			return err
		}
	}
}

// Connections of which one side has said its last word, or both, are cut as
// well: whoever still has a socket is reset, and the rest is known to be over.
func TestCutClosing(t *testing.T) {
	site := dmz(t, lab.Config{})
	cs := connections(t, site, 5)
	must(t, cs[0].client.CloseWrite()) // FIN_WAIT, then CLOSE_WAIT
	must(t, cs[1].server.CloseWrite())
	must(t, cs[2].client.CloseWrite()) // LAST_ACK, then TIME_WAIT
	must(t, cs[2].server.Close())
	must(t, cs[3].client.SetLinger(0)) // CLOSE
	must(t, cs[3].client.Close())
	want := []conntrack.TCPState{
		conntrack.TCPCloseWait, conntrack.TCPCloseWait, conntrack.TCPTimeWait, conntrack.TCPClose, conntrack.TCPEstablished,
	}
	for i, c := range cs {
		labtest.Until(t, "the gateway has seen it", func() bool { return c.state(t, site) == want[i] })
	}
	r := runCut(t, site, quick(Options{Selector: parse(t, "--dport", "5203")}))
	wantProven(t, r)
	if r.Flows.Matched != 5 || r.Flows.Deleted != 5 {
		t.Errorf("matched %d, deleted %d, want 5", r.Flows.Matched, r.Flows.Deleted)
	}
	for i, end := range []*net.TCPConn{cs[0].client, cs[1].client, cs[4].client, cs[0].server, cs[1].server, cs[4].server} {
		// Who had heard the other's last word reads an end and learns of the
		// reset when it writes.
		if errors.Is(told(end), unix.ECONNRESET) {
			continue
		}
		if _, err := end.Write([]byte{0}); err == nil {
			t.Errorf("end %d goes on writing", i)
		}
	}
	if n := entries(t, site, parse(t, "--dport", "5203")); n != 0 {
		t.Errorf("%d entries are left", n)
	}
}

// A connection that is being begun has no end yet that could say that it is
// over. Its entry is deleted, its packets are stopped, and the receipt does not
// call it final; once it is answered, both ends are told.
func TestCutHalfOpen(t *testing.T) {
	t.Run("not answered", func(t *testing.T) {
		site := dmz(t, lab.Config{})
		must(t, site.Servers[0].Vanish())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		fresh := dialling(ctx, site.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(site, port, false)})
		labtest.Until(t, "the SYN has an entry", func() bool { return entries(t, site, toServer(t, site)) == 1 })
		off(t, site)
		r := runCut(t, site, quick(Options{Selector: toServer(t, site)}))
		if !r.Proven || r.Flows.Deleted+r.Flows.Vanished != 1 {
			t.Errorf("proven %v, deleted %d, vanished %d", r.Proven, r.Flows.Deleted, r.Flows.Vanished)
		}
		cancel()
		<-fresh
		if n := entries(t, site, toServer(t, site)); n != 0 {
			t.Errorf("%d entries are left", n)
		}
	})
	t.Run("answered", func(t *testing.T) {
		site := dmz(t, lab.Config{})
		client := site.Clients[0]
		// The client's last word of the handshake gets lost.
		rules(t, site.Gateway.Host, "table ip lossy { chain pre { type filter hook prerouting priority -400; iifname wan tcp flags & (syn|rst) == 0x0 drop; }; }")
		fd := begun(t, client, at(site, port, false))
		sel := parse(t, "--dport", "5201", "--state", "SYN_RECV")
		labtest.Until(t, "it is half open", func() bool { return entries(t, site, sel) == 1 })
		rules(t, site.Gateway.Host, "delete table ip lossy")
		off(t, site)
		r := runCut(t, site, quick(Options{Selector: toServer(t, site)}))
		wantProven(t, r)
		if _, err := fd.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("the client reads %v, want a reset", err)
		}
		wantNoEntries(t, site)
	})
}

// begun is a connection that a client has begun; it takes it for established
// when the server has answered.
func begun(t *testing.T, client *lab.Station, to netip.AddrPort) *os.File {
	t.Helper()
	var f *os.File
	must(t, client.NS.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), "client")
		return unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	}))
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// A rule that takes a flow's packets from connection tracking makes them
// invisible to all that asks for their flow. Where that is seen, nothing is
// proven.
func TestCutNotTracked(t *testing.T) {
	site := dmz(t, lab.Config{})
	speak := labtest.Dial(t, site.Clients[0].Host, lab.Streams{Kind: lab.Talk, To: at(site, port, false), Count: 3, Interval: 5 * time.Millisecond})
	must(t, speak.WaitReceived(labtest.Context(t), 3))
	rules(t, site.Gateway.Host, "table ip skip { chain pre { type filter hook prerouting priority raw; ip saddr "+site.Servers[0].Addr4.String()+" tcp sport 5201 notrack; }; }")
	r := runCut(t, site, quick(Options{Selector: toServer(t, site)}))
	if r.Proven {
		t.Error("proven, and the server's packets are not tracked")
	}
	wantReason(t, r, "NOTRACK")
	wantNoEntries(t, site)
}
