//go:build linux

package cut

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/selector"
)

// mixtures are gateways that are of several kinds at once.
var mixtures = [][]string{
	{"output-drop", "input-drop", "mark", "zones", "macvlan-devices", "crowd-dropping", "routers", "snat"},
	{"output-established", "source-default", "zone-original", "bridge-devices", "crowd"},
	{"output-related", "input", "zone", "ipv4-only", "routers"},
	{"output-drop", "twins", "crowd-dropping", "macvlan-devices"},
	{"output-drop", "bridge", "crowd"},
}

// On a gateway of each kind both ends of all flows to a server are told, in
// both families, nothing passes after the exit, and the flows of the other
// server go on.
func TestCutOnGateways(t *testing.T) {
	kinds := slices.Clone(mixtures)
	for _, k := range lab.GatewayKinds {
		kinds = append(kinds, []string{k.Name})
	}
	for _, names := range kinds {
		name := names[0]
		if len(names) > 1 {
			name += " and others"
		}
		t.Run(name, func(t *testing.T) {
			cfg, err := lab.NewConfig(names...)
			must(t, err)
			cutOn(t, cfg)
		})
	}
}

// ofKind is a gateway of a kind, or the usual one for "".
func ofKind(t *testing.T, name string) lab.Config {
	t.Helper()
	if name == "" {
		return lab.Config{}
	}
	cfg, err := lab.NewConfig(name)
	must(t, err)
	return cfg
}

// traffic is what goes through a gateway to one server.
type traffic struct{ streams, data lab.Ends }

// begin lets all clients talk to server n.
func begin(t *testing.T, net *lab.Topology, cfg lab.Config, n int) (x traffic) {
	t.Helper()
	server, p := net.Servers[n], port+uint16(n)
	labtest.Listen(t, server.Host, p)
	must(t, net.Gateway.Forward(p, server))
	for c, client := range net.Clients {
		if cfg.Twins && c != n {
			continue // that is the other one's network
		}
		for _, v6 := range []bool{false, true} {
			if v6 && cfg.IPv4Only && n == 0 {
				continue // nothing is tracked, and so nothing cut
			}
			to := net.To(client, server, p, v6)
			for _, s := range []lab.Streams{
				{Kind: lab.Idle, Count: 5},
				{Kind: lab.Talk, Count: 3, Interval: 10 * time.Millisecond},
				{Kind: lab.Speak, Count: 3, Interval: 10 * time.Millisecond},
			} {
				s.To = to
				x.streams = append(x.streams, labtest.Dial(t, client.Host, s)...)
			}
			x.data = append(x.data, labtest.Exchange(t, client.Host, lab.Datagrams{To: to, Count: 2})...)
		}
	}
	return x
}

// onServer selects the flows of the first server.
func onServer(t *testing.T, net *lab.Topology, cfg lab.Config) selector.Selector {
	t.Helper()
	s := net.Servers[0]
	args := []string{"--host", s.Addr4.String() + "," + s.Addr6.String(), "--dport", "5201"}
	if cfg.Twins {
		args = append(args, "--zone", "1")
	}
	return parse(t, args...)
}

func cutOn(t *testing.T, cfg lab.Config) {
	t.Helper()
	net := labtest.Standard(t, cfg)
	meant, rest := begin(t, net, cfg, 0), begin(t, net, cfg, 1)
	before := labtest.Ruleset(t, net.Gateway.Host)
	r := runCut(t, net, quick(Options{Selector: onServer(t, net, cfg)}))
	exit := time.Now()
	switch {
	case cfg.Bridged == lab.BridgeBare || cfg.Twins:
		if r.Proven || r.Final {
			t.Errorf("proven %v, final %v, and the gateway has no way to the ends", r.Proven, r.Final)
		}
		wantReason(t, r, "no way to their ends")
	default:
		wantProven(t, r)
		wantReset(t, both(meant.streams))
		if told := both(meant.data).Told(unix.ECONNREFUSED); told != len(both(meant.data)) {
			t.Errorf("%d of %d ends of datagram flows were told", told, len(both(meant.data)))
		}
	}
	if want := len(meant.streams) + len(meant.data); r.Flows.Matched != want {
		t.Errorf("matched %d, want %d", r.Flows.Matched, want)
	}
	wantSilence(t, both(meant.streams), exit, 200*time.Millisecond)
	if after := labtest.Ruleset(t, net.Gateway.Host); after != before {
		t.Errorf("ruleset before:\n%s\nafter:\n%s", before, after)
	}
	ends := both(rest.streams, rest.data)
	if n := ends.Told(nil); n != len(ends) {
		t.Errorf("%d of %d ends of the other server live", n, len(ends))
	}
	got := rest.streams.Received()
	labtest.Until(t, "the other server's flows go on", func() bool { return rest.streams.Received() > got+50 })
	if cfg.IPv4Only {
		if n := entries(t, net, parse(t, "-f", "ipv6")); n != 0 {
			t.Errorf("%d IPv6 flows are tracked that were not", n)
		}
	}
}
