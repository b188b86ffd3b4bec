//go:build linux

package lab_test

import (
	"io"
	"net/netip"
	"os"
	"testing"
	"time"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"

	"golang.org/x/sys/unix"
)

const port = 5201

// standard builds the usual network with the first server on port, forwarded.
func standard(t testing.TB, cfg lab.Config) *lab.Topology {
	t.Helper()
	net := labtest.Standard(t, cfg)
	labtest.Listen(t, net.Servers[0].Host, port)
	if err := net.Gateway.Forward(port, net.Servers[0]); err != nil {
		t.Fatal(err)
	}
	return net
}

// publics are where clients reach the first server, one for each family.
func publics(net *lab.Topology) []netip.AddrPort {
	return []netip.AddrPort{
		netip.AddrPortFrom(net.Gateway.Public4, port),
		netip.AddrPortFrom(net.Gateway.Public6, port),
	}
}

func TestForwardedStream(t *testing.T) {
	net := standard(t, lab.Config{})
	for _, to := range publics(net) {
		for _, client := range net.Clients {
			ends := labtest.Dial(t, client.Host, lab.Streams{Kind: lab.Talk, To: to, Interval: time.Millisecond})
			if err := ends.WaitReceived(labtest.Context(t), 10); err != nil {
				t.Fatalf("from %s to %s: %v", client.Name, to, err)
			}
			e := ends[0]
			if got, want := e.Peer().Remote, e.Local; got != want {
				t.Errorf("server sees %s, want the client's own %s", got, want)
			}
			if got := e.Peer().Local.Addr(); got != net.Servers[0].Addr4 && got != net.Servers[0].Addr6 {
				t.Errorf("server was reached at %s", got)
			}
		}
	}
}

func TestMasquerade(t *testing.T) {
	for name, cfg := range map[string]lab.Config{"masquerade": {}, "snat": {SNAT: true}} {
		t.Run(name, func(t *testing.T) {
			net := labtest.Standard(t, cfg)
			client := net.Clients[0]
			labtest.Listen(t, client.Host, 7000)
			for to, want := range map[netip.Addr]netip.Addr{
				client.Addr4: net.Gateway.Public4,
				client.Addr6: net.Gateway.Public6,
			} {
				ends := labtest.Dial(t, net.Servers[0].Host, lab.Streams{Kind: lab.Idle, To: netip.AddrPortFrom(to, 7000)})
				if got := ends[0].Peer().Remote.Addr(); got != want {
					t.Errorf("client sees %s, want the gateway's %s", got, want)
				}
			}
		})
	}
}

func TestPing(t *testing.T) {
	net := labtest.Standard(t, lab.Config{})
	for _, to := range []netip.Addr{net.Clients[0].Addr4, net.Clients[0].Addr6, net.Clients[1].Addr4, net.Clients[1].Addr6} {
		e, err := net.Servers[0].Ping(labtest.Context(t), to, 5*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		labtest.Until(t, "ten answers from "+to.String(), func() bool { return e.Received.Messages() >= 10 })
		lost, err := lab.Ends{e}.Lost(labtest.Context(t))
		if err != nil || lost != (lab.Loss{}) {
			t.Errorf("%s: lost %+v, error %v", to, lost, err)
		}
	}
}

// Without a line of the DMZ nobody outside reaches the server.
func TestUnforward(t *testing.T) {
	net := standard(t, lab.Config{})
	to := publics(net)[0]
	old := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Talk, To: to, Interval: time.Millisecond})
	if err := net.Gateway.Unforward(port); err != nil {
		t.Fatal(err)
	}
	again := net.Clients[0].Reconnect(lab.Reconnects{To: to, Rate: 100, Timeout: 300 * time.Millisecond})
	labtest.Until(t, "five attempts", func() bool { return len(again.Attempts()) >= 5 })
	again.Stop()
	if got := lab.Count(again.Attempts()); got.OK != 0 || got.TimedOut != len(again.Attempts()) {
		t.Errorf("new connections without a line: %+v, want all timed out", got)
	}
	before := old[0].Received.Bytes()
	if err := old.WaitReceived(labtest.Context(t), before+10); err != nil {
		t.Errorf("old connection: %v; it should have gone on", err)
	}
}

func TestReconnect(t *testing.T) {
	net := standard(t, lab.Config{})
	for _, to := range publics(net) {
		again := net.Clients[0].Reconnect(lab.Reconnects{To: to, Rate: 500})
		labtest.Until(t, "200 attempts", func() bool { return len(again.Attempts()) >= 200 })
		again.Stop()
		attempts := again.Attempts()
		if got := lab.Count(attempts); got != (lab.Tally{OK: len(attempts)}) {
			t.Errorf("%s: %+v of %d attempts", to, got, len(attempts))
		}
	}
	closed := net.Clients[0].Reconnect(lab.Reconnects{To: netip.AddrPortFrom(net.Clients[0].Addr4, 9), Rate: 500})
	labtest.Until(t, "ten attempts", func() bool { return len(closed.Attempts()) >= 10 })
	closed.Stop()
	if got := lab.Count(closed.Attempts()); got.Refused != len(closed.Attempts()) {
		t.Errorf("closed port: %+v of %d, want all refused", got, len(closed.Attempts()))
	}
}

// Floors are far below what the machine does, and far above a lab that
// copies too much or waits on a lock.
func TestThroughput(t *testing.T) {
	const floor, span = 1 << 30 / 8, time.Second // 1 Gbit in a second
	net := standard(t, lab.Config{})
	for _, kind := range []lab.Kind{lab.Download, lab.Upload} {
		ends := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: kind, To: publics(net)[0], Count: 4})
		receivers := ends
		if kind == lab.Upload {
			receivers = ends.Peers()
		}
		if err := receivers.WaitReceived(labtest.Context(t), 1); err != nil {
			t.Fatal(err)
		}
		begin, before := time.Now(), receivers.Received()
		labtest.Until(t, "a second of load", func() bool { return time.Since(begin) >= span })
		got := receivers.Received() - before
		t.Logf("kind %d: %.2f Gbit/s", kind, float64(got)*8/1e9/time.Since(begin).Seconds())
		if got < floor {
			t.Errorf("kind %d: %d bytes in a second, want %d", kind, got, floor)
		}
		ends.Close()
	}
}

func TestDatagrams(t *testing.T) {
	net := standard(t, lab.Config{})
	for _, to := range publics(net) {
		ends := labtest.Exchange(t, net.Clients[0].Host, lab.Datagrams{To: to, Count: 5, Up: 1000, Down: 1000})
		labtest.Until(t, "5000 datagrams each way", func() bool {
			return ends.Peers().Messages() >= 5000 && ends.Messages() >= 5000
		})
		lost, err := ends.Lost(labtest.Context(t))
		if err != nil || lost != (lab.Loss{}) {
			t.Errorf("%s: lost %+v, error %v", to, lost, err)
		}
		if again := ends[0].Repeated.Load(); again != 0 {
			t.Errorf("%d datagrams came twice", again)
		}
	}
}

// A drop on the way is counted, to the datagram, in the direction it happened.
func TestDatagramsLost(t *testing.T) {
	net := standard(t, lab.Config{})
	ends := labtest.Exchange(t, net.Clients[0].Host, lab.Datagrams{To: publics(net)[0], Up: 1000, Down: 1000})
	labtest.Until(t, "traffic", func() bool { return ends.Messages() > 10 && ends.Peers().Messages() > 10 })
	if err := net.Gateway.Block(net.Servers[0].Addr4); err != nil {
		t.Fatal(err)
	}
	before := ends.Peers()[0].Sent.Messages()
	labtest.Until(t, "50 more were sent", func() bool { return ends.Peers()[0].Sent.Messages() > before+50 })
	if err := net.Gateway.Unblock(); err != nil {
		t.Fatal(err)
	}
	lost, err := ends.Lost(labtest.Context(t))
	if err != nil || lost.Up != 0 || lost.Down < 50 {
		t.Errorf("lost %+v, error %v; want none up and 50 or more down", lost, err)
	}
}

func TestDatagramsTold(t *testing.T) {
	net := standard(t, lab.Config{})
	client := net.Clients[0]
	labtest.Listen(t, client.Host, 7000)
	for _, to := range []netip.Addr{client.Addr4, client.Addr6} {
		ends := labtest.Exchange(t, client.Host, lab.Datagrams{To: netip.AddrPortFrom(to, 7000), Down: 100})
		peer := ends.Peers()
		ends.Close()
		if err := peer.WaitTold(labtest.Context(t)); err != nil || peer.Told(unix.ECONNREFUSED) != 1 {
			t.Errorf("%s: told %v, error %v; want ECONNREFUSED", to, peer[0].Told(), err)
		}
	}
}

func TestSpeak(t *testing.T) {
	net := standard(t, lab.Config{})
	ends := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Speak, To: publics(net)[1], Count: 100, Interval: 10 * time.Millisecond})
	if err := ends.WaitReceived(labtest.Context(t), 3); err != nil {
		t.Fatal(err)
	}
	if ends.Sent() != 0 {
		t.Error("clients spoke")
	}
}

// Both ends learn how the other has ended: goodbye or reset.
func TestTold(t *testing.T) {
	net := standard(t, lab.Config{})
	ends := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: publics(net)[0], Count: 20})
	peers := ends.Peers()
	begin := time.Now()
	ends.Close()
	if err := peers.WaitTold(labtest.Context(t)); err != nil {
		t.Fatal(err)
	}
	if got := peers.Told(io.EOF); got != 20 {
		t.Errorf("%d of 20 servers were told goodbye", got)
	}
	if at := peers[0].Told().At; at.Before(begin) || at.After(time.Now()) {
		t.Errorf("told at %v, between %v and now expected", at, begin)
	}
	if got := ends.Told(nil); got != 20 {
		t.Errorf("%d of 20 clients, who closed themselves, were told nothing", got)
	}
}

func TestHostFirewall(t *testing.T) {
	net := standard(t, lab.Config{HostFirewall: true})
	for _, to := range publics(net) {
		ends := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Talk, To: to, Interval: time.Millisecond})
		if err := ends.WaitReceived(labtest.Context(t), 10); err != nil {
			t.Error(err)
		}
	}
}

func TestSysctls(t *testing.T) {
	net := labtest.Standard(t, lab.Config{Sysctls: map[string]string{"net.netfilter.nf_conntrack_tcp_loose": "0"}})
	for ns, want := range map[*lab.Host]string{net.Gateway.Host: "0\n", net.Clients[0].Host: "1\n"} {
		err := ns.NS.Do(func() error {
			got, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_tcp_loose")
			if string(got) != want {
				t.Errorf("%s: tcp_loose is %q, want %q", ns.Name, got, want)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// A paced connection takes what time it has to, and is not held back further.
func TestPace(t *testing.T) {
	net := labtest.Standard(t, lab.Config{NoRules: true})
	ctx := t.Context()
	const rate, amount = 1 << 20, 1 << 20
	took := map[bool]time.Duration{}
	for i, paced := range []bool{true, false} {
		port := uint16(6100 + i)
		s, err := net.Servers[0].Listen(port)
		if err == nil && paced {
			err = s.Pace(rate)
		}
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		ends, err := net.Clients[0].Dial(ctx, lab.Streams{Kind: lab.Download, To: net.To(net.Clients[0], net.Servers[0], port, true), Count: 2})
		if err != nil {
			t.Fatal(err)
		}
		if err := ends.WaitReceived(ctx, amount); err != nil {
			t.Fatal(err)
		}
		took[paced] = time.Since(began)
		ends.Close()
	}
	least := time.Duration(amount-amount/4) * time.Second / rate // it begins with a burst
	if took[true] < least || took[true] > 10*least || took[false] > took[true]/2 {
		t.Errorf("paced %v, want %v or a little more; not paced %v", took[true], least, took[false])
	}
}
