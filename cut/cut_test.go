//go:build linux

package cut

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/selector"
)

const port = 5201

// dmz is the standard network with the first server on port, forwarded.
func dmz(t testing.TB, cfg lab.Config) *lab.Topology {
	t.Helper()
	net := labtest.Standard(t, cfg)
	labtest.Listen(t, net.Servers[0].Host, port)
	if err := net.Gateway.Forward(port, net.Servers[0]); err != nil {
		t.Fatal(err)
	}
	return net
}

func to(net *lab.Topology) netip.AddrPort { return netip.AddrPortFrom(net.Gateway.Public4, port) }

func parse(t testing.TB, args ...string) selector.Selector {
	t.Helper()
	s, err := selector.Parse(args)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// cutDMZ turns the DMZ off and cuts its flows.
func run(t testing.TB, net *lab.Topology, o Options) *Receipt {
	t.Helper()
	o.NetNS = net.Gateway.NS.Fd()
	o.Flows = false
	r, err := Run(labtest.Context(t), o)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(r)
	t.Logf("%s", b)
	return r
}

func TestFirst(t *testing.T) {
	net := dmz(t, lab.Config{})
	down := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Download, To: to(net), Count: 4})
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: to(net), Count: 200})
	if err := down.WaitReceived(labtest.Context(t), 50<<20); err != nil {
		t.Fatal(err)
	}
	if err := net.Gateway.Unforward(port); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	r := run(t, net, Options{Selector: parse(t, "--dst-nat", "--reply-src", net.Servers[0].Addr4.String())})
	if !r.Proven || !r.Final {
		t.Errorf("not proven")
	}
	t.Logf("last received %v after start", down.LastReceived().Sub(before))
	all := append(append(append(lab.Ends{}, down...), idle...), append(down.Peers(), idle.Peers()...)...)
	for _, e := range all {
		_ = e
	}
	if n := all.Told(unix.ECONNRESET); n != len(all) {
		t.Errorf("%d of %d told", n, len(all))
	}
}
