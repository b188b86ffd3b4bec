//go:build linux

package cut

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/nft"
)

// A chain of hosts, each the next one's way out:
//
//	client -- home router (masquerade) -- gateway (DNAT) -- container host (DNAT) -- server
type behindNAT struct {
	*lab.Lab
	client, home, gateway, host, server *lab.Host
}

func newBehindNAT(t *testing.T) *behindNAT {
	t.Helper()
	l, err := lab.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	n := &behindNAT{Lab: l}
	all := []**lab.Host{&n.client, &n.home, &n.gateway, &n.host, &n.server}
	for i, role := range []string{"client", "home", "gateway", "host", "server"} {
		if *all[i], err = l.Host(role); err != nil {
			t.Fatal(err)
		}
	}
	for i, net := range []string{"10.1.0.", "203.0.113.", "192.168.1.", "172.17.0."} {
		left, right := *all[i], *all[i+1]
		at := func(last int) []netip.Prefix {
			return []netip.Prefix{netip.MustParsePrefix(fmt.Sprint(net, last, "/24"))}
		}
		must(t, l.Connect(labtest.Context(t), lab.Port{Host: left, Name: "right", Addresses: at(2)}, lab.Port{Host: right, Name: "left", Addresses: at(1)}))
	}
	for _, h := range []*lab.Host{n.home, n.gateway, n.host} {
		must(t, h.Sysctl("net.ipv4.ip_forward", "1"))
	}
	everything := netip.MustParsePrefix("0.0.0.0/0")
	must(t, n.client.Route(everything, netip.MustParseAddr("10.1.0.1")))
	must(t, n.home.Route(everything, netip.MustParseAddr("203.0.113.1")))
	must(t, n.host.Route(everything, netip.MustParseAddr("192.168.1.2")))
	must(t, n.server.Route(everything, netip.MustParseAddr("172.17.0.2")))
	must(t, masquerade(n.home, "right"))
	must(t, masquerade(n.gateway, "left"))
	must(t, masquerade(n.host, "right"))
	must(t, redirect(n.gateway, "dmz", "left", netip.MustParseAddr("192.168.1.1")))
	must(t, redirect(n.host, "dmz", "left", netip.MustParseAddr("172.17.0.1")))
	return n
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func masquerade(h *lab.Host, out string) error {
	b := new(nft.Batch)
	b.AddTable(&nft.Table{Family: nft.IPv4, Name: "masquerade", Chains: []*nft.Chain{{
		Name: "post", Hook: &nft.Hook{Type: "nat", Num: nft.Postrouting, Priority: 100},
		Rules: []nft.Rule{nft.NewRule("", nft.Equal(nft.MetaOIFName, nft.Name(out)), nft.Masquerade)},
	}}})
	return h.Commit(b)
}

// redirect forwards the port to a host inside.
func redirect(h *lab.Host, table, in string, to netip.Addr) error {
	b := new(nft.Batch)
	b.AddTable(redirection(table, in, to))
	return h.Commit(b)
}

func redirection(table, in string, to netip.Addr) *nft.Table {
	return &nft.Table{Family: nft.IPv4, Name: table, Chains: []*nft.Chain{{
		Name: "pre", Hook: &nft.Hook{Type: "nat", Num: nft.Prerouting, Priority: -100},
		Rules: []nft.Rule{nft.NewRule("", nft.Equal(nft.MetaIIFName, nft.Name(in)), nft.Equal(nft.MetaL4Proto, []byte{6}),
			nft.Equal(nft.DstPort, nft.Port(port)), nft.DNAT(to, 0))},
	}}}
}

// Hosts between the gateway and an end that translate as well answer for it
// when a probe does not fit: their word is not taken for the end's.
func TestCutBehindNAT(t *testing.T) {
	for i := range 4 { // the numbers of probes are drawn at random
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			n := newBehindNAT(t)
			labtest.Listen(t, n.server, port)
			idle := labtest.Dial(t, n.client, lab.Streams{Kind: lab.Idle, To: netip.MustParseAddrPort("203.0.113.1:5201"), Count: 20})
			b := new(nft.Batch)
			b.DeleteTable(redirection("dmz", "left", netip.Addr{}))
			must(t, n.gateway.Commit(b))
			net := &lab.Topology{Gateway: &lab.Gateway{Host: n.gateway}}
			r := runCut(t, net, Options{Selector: parse(t, "--dst-nat", "--dport", "5201")})
			exit := time.Now()
			wantProven(t, r)
			wantReset(t, both(idle))
			for _, e := range idle.Peers() {
				if e.Told().Err == nil { // told: cannot speak any more
					_ = e.Say()
				}
			}
			wantSilence(t, idle, exit, 500*time.Millisecond)
			if told := both(idle).Told(unix.ECONNRESET); told < r.Endpoints.Dead {
				t.Errorf("%d ends are counted as dead, %d know of it", r.Endpoints.Dead, told)
			}
		})
	}
}
