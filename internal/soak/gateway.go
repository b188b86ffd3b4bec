//go:build linux

package soak

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"flowcut/conntrack"
	"flowcut/internal/lab"
)

// gatewayKind is a way in which gateways are.
type gatewayKind struct {
	name   string
	config lab.Config
	rules  string // more of them, as nft(8) reads them
	plain  bool   // nothing is translated
	marks  bool   // flows have marks, see markOf
	zones  bool   // flows of the second client are in the zone zoned
	only4  bool   // no IPv6 is tracked
}

// roads are those that a gateway of the kind has. A connection between two
// clients would have its halves in two zones.
func (k *gatewayKind) roads() []Road {
	switch {
	case k.plain:
		return []Road{Plain, Plain, Within, ToGateway, FromGateway}
	case k.zones:
		return []Road{Inward, Inward, Inward, Outward, Within, ToGateway, FromGateway}
	}
	return []Road{Inward, Inward, Inward, Outward, Across, Within, ToGateway, FromGateway}
}

const zoned = 7

// markOf is the mark of a client's flows, of other flows none.
var markOf = [2]uint32{0x11, 0x22}

var gatewayKinds = []gatewayKind{
	{name: "masquerade"},
	{name: "snat", config: lab.Config{SNAT: true}},
	{name: "strict", config: lab.Config{Sysctls: map[string]string{"net.netfilter.nf_conntrack_tcp_loose": "0"}}},
	{name: "host firewalls", config: lab.Config{HostFirewall: true}},
	{name: "host firewalls that reject", config: lab.Config{HostRejects: true}},
	{name: "plain router", config: lab.Config{NoRules: true}, rules: tracking, plain: true},
	{name: "IPv4 only", config: lab.Config{IPv4Only: true}, only4: true},
	{name: "marks", rules: marking(), marks: true},
	{name: "zone", rules: zoning(), zones: true},
}

// tracking makes a gateway without rules track connections.
const tracking = `table inet track { chain pre { type filter hook prerouting priority 0; ct state invalid counter; }; chain out { type filter hook output priority 0; ct state invalid counter; }; }
`

// marking sets the marks of new flows of clients.
func marking() string {
	var b strings.Builder
	for _, hook := range []string{"prerouting", "output"} {
		fmt.Fprintf(&b, "add table inet marks\nadd chain inet marks %s { type filter hook %s priority -150; }\n", hook, hook)
		for i, c := range clients {
			for _, side := range []string{"saddr", "daddr"} {
				fmt.Fprintf(&b, "add rule inet marks %s ct state new ip %s %s ct mark set %d\n", hook, side, c.v4, markOf[i])
				fmt.Fprintf(&b, "add rule inet marks %s ct state new ip6 %s %s ct mark set %d\n", hook, side, c.v6, markOf[i])
			}
		}
	}
	return b.String()
}

// zoning puts the second client's flows into a zone.
func zoning() string {
	var b strings.Builder
	for _, hook := range []string{"prerouting", "output"} {
		fmt.Fprintf(&b, "add table inet zones\nadd chain inet zones %s { type filter hook %s priority -300; }\n", hook, hook)
		for _, side := range []string{"saddr", "daddr"} {
			fmt.Fprintf(&b, "add rule inet zones %s ip %s %s ct zone set %d\n", hook, side, clients[1].v4, zoned)
			fmt.Fprintf(&b, "add rule inet zones %s ip6 %s %s ct zone set %d\n", hook, side, clients[1].v6, zoned)
		}
	}
	return b.String()
}

// place is a host as the lab has it, see [lab.Topology]: its own addresses,
// and the gateway's beside it.
type place struct{ v4, v6, via4, via6 netip.Addr }

func placeOf(v4, v6, via4, via6 string) place {
	return place{netip.MustParseAddr(v4), netip.MustParseAddr(v6), netip.MustParseAddr(via4), netip.MustParseAddr(via6)}
}

var (
	clients = []place{
		placeOf("203.0.113.2", "2001:db8:1::2", "203.0.113.1", "2001:db8:1::1"),
		placeOf("198.51.100.2", "2001:db8:2::2", "198.51.100.1", "2001:db8:2::1"),
	}
	servers = []place{
		placeOf("192.168.1.100", "fd00:1::100", "192.168.1.1", "fd00:1::1"),
		placeOf("192.168.2.100", "fd00:2::100", "192.168.2.1", "fd00:2::1"),
	}
)

func (p place) own(v6 bool) netip.Addr {
	if v6 {
		return p.v6
	}
	return p.v4
}

func (p place) via(v6 bool) netip.Addr {
	if v6 {
		return p.via6
	}
	return p.via4
}

// everybody returns the addresses of all hosts.
func everybody() []netip.Addr {
	var out []netip.Addr
	for _, list := range [][]place{clients, servers} {
		for _, p := range list {
			out = append(out, p.v4, p.v6, p.via4, p.via6)
		}
	}
	return out
}

// isGateways tells whether an address is one of the gateway's.
func (x *site) isGateways(a netip.Addr) bool {
	for _, p := range slices.Concat(clients, servers) {
		if a == p.via4 || a == p.via6 {
			return true
		}
	}
	return false
}

// path is where a group's connections go.
type path struct {
	local, to    netip.Addr // of the originator's socket
	remote, from netip.Addr // of the responder's socket: its own, and whom it sees
}

// pathOf follows a road.
func pathOf(g *Group) path {
	public := clients[0].via(g.V6)
	switch g.Road {
	case Inward:
		from := clients[g.From].own(g.V6)
		return path{from, public, servers[g.To].own(g.V6), from}
	case Outward:
		to := clients[g.To]
		return path{servers[g.From].own(g.V6), to.own(g.V6), to.own(g.V6), to.via(g.V6)}
	case Across:
		to := clients[g.To]
		return path{clients[g.From].own(g.V6), public, to.own(g.V6), to.via(g.V6)}
	case Within:
		return direct(servers[g.From].own(g.V6), servers[g.To].own(g.V6))
	case Plain:
		return direct(clients[g.From].own(g.V6), servers[g.To].own(g.V6))
	case ToGateway:
		return direct(servers[g.From].own(g.V6), servers[g.From].via(g.V6))
	default:
		return direct(servers[g.To].via(g.V6), servers[g.To].own(g.V6))
	}
}

func direct(a, b netip.Addr) path { return path{a, b, b, a} }

// know gives a flow the mark and the zone that the rules of its gateway give
// it, which is by the addresses of its first packet.
func (k *gatewayKind) know(f *flow) {
	for i, c := range clients {
		for _, a := range []netip.Addr{c.v4, c.v6} {
			if f.orig.Src != a && f.orig.Dst != a {
				continue
			}
			if k.marks {
				f.mark = markOf[i]
			}
			if k.zones && i == 1 {
				f.zone = zoned
			}
		}
	}
}

// template is a flow of a group as far as it is known before it is made.
func (k *gatewayKind) template(g *Group) *flow {
	p := pathOf(g)
	f := &flow{group: g,
		orig:  conntrack.Tuple{Proto: protoOf(g), Src: p.local, Dst: p.to},
		reply: conntrack.Tuple{Proto: protoOf(g), Src: p.remote, Dst: p.from},
	}
	if f.orig.HasPorts() {
		f.orig.DstPort, f.reply.SrcPort = g.Port, g.Port
	}
	k.know(f)
	return f
}

func protoOf(g *Group) conntrack.Proto {
	switch {
	case g.Kind == lab.Datagram:
		return conntrack.ProtoUDP
	case g.Kind != lab.Echo:
		return conntrack.ProtoTCP
	case g.V6:
		return conntrack.ProtoICMPv6
	}
	return conntrack.ProtoICMP
}

// nft runs nft(8) on a host.
func nft(ctx context.Context, h *lab.Host, rules string, args ...string) (string, error) {
	var out []byte
	err := h.NS.Do(func() (err error) {
		cmd := exec.CommandContext(ctx, "nft", args...)
		cmd.Stdin = strings.NewReader(rules)
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("soak: nft %s on %s: %w\n%s", strings.Join(args, " "), h.Name, err, out)
	}
	return string(out), nil
}

func zoneOf(f *flow) conntrack.Zone { return conntrack.Zone(f.zone) }
