//go:build linux

package soak

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"flowcut/internal/lab"
)

// gateway is what is known of a gateway before it is built.
type gateway struct {
	kinds  []string
	config lab.Config
	rules  []func(clients []*lab.Station, family string) string // more of them, for nft(8)
	marks  bool                                                 // rules give the flows of clients marks, see markOf
	labels bool                                                 // and labels, see labelOf
}

// feature is a way in which gateways differ that package lab has no name for.
type feature struct {
	name string
	fits func(g *gateway) bool
	set  func(g *gateway)
}

var features = []feature{
	{"strict", always, func(g *gateway) { g.config.Sysctls["net.netfilter.nf_conntrack_tcp_loose"] = "0" }},
	{"no-timestamps", always, func(g *gateway) { delete(g.config.Sysctls, timestamps) }},
	{"accounting", always, func(g *gateway) { g.config.Sysctls["net.netfilter.nf_conntrack_acct"] = "1" }},
	{"host-firewalls", always, func(g *gateway) { g.config.HostFirewall = true }},
	{"host-firewalls-reject", func(g *gateway) bool { return !g.config.HostFirewall }, func(g *gateway) { g.config.HostRejects = true }},
	{"no-rules", (*gateway).plainRoutes, func(g *gateway) { g.config.NoRules, g.rules = true, append(g.rules, tracking) }},
	{"flow-marks", (*gateway).plainRoutes, func(g *gateway) { g.marks, g.rules = true, append(g.rules, marking) }},
	{"flow-labels", func(g *gateway) bool { return !g.config.Twins }, func(g *gateway) { g.labels, g.rules = true, append(g.rules, labelling) }},
}

func always(*gateway) bool { return true }

// plainRoutes tells whether the gateway routes by the main table, and by
// addresses that are all different.
func (g *gateway) plainRoutes() bool {
	c := &g.config
	return c.Uplinks == lab.MainTable && !c.Twins && c.Bridged == lab.Routed
}

// timestamps makes the kernel note when flows began, which tells an old entry
// from a new one that has got its place in memory, and so its ID.
const timestamps = "net.netfilter.nf_conntrack_timestamp"

// newGateway returns the gateway that is of all the kinds named.
func newGateway(kinds []string) (*gateway, error) {
	var ofLab []string
	g := &gateway{kinds: kinds}
	isFeature := func(name string) bool {
		return slices.ContainsFunc(features, func(f feature) bool { return f.name == name })
	}
	for _, name := range kinds {
		if !isFeature(name) {
			ofLab = append(ofLab, name)
		}
	}
	var err error
	if g.config, err = lab.NewConfig(ofLab...); err != nil {
		return nil, err
	}
	g.config.Sysctls = map[string]string{timestamps: "1"}
	for _, f := range features {
		if slices.Contains(kinds, f.name) {
			f.set(g)
		}
	}
	return g, nil
}

// families are those that the gateway has rules for, as nft(8) calls them.
func (g *gateway) families() []string {
	if g.config.IPv4Only {
		return []string{"ip"}
	}
	return []string{"ip", "ip6"}
}

// tracks tells whether flows of a family have entries.
func (g *gateway) tracks(v6 bool) bool { return !v6 || !g.config.IPv4Only }

// translates tells whether flows of a family are translated.
func (g *gateway) translates(v6 bool) bool {
	c := &g.config
	return g.tracks(v6) && !c.NoRules && !c.Twins && c.Bridged == lab.Routed
}

// reaches tells whether the gateway has a way to the ends of its own.
func (g *gateway) reaches() bool { return !g.config.Twins && g.config.Bridged != lab.BridgeBare }

// tracking makes a gateway without rules track connections.
func tracking(_ []*lab.Station, family string) string {
	return fmt.Sprintf(`add table %[1]s track
add chain %[1]s track pre { type filter hook prerouting priority 0; }
add rule %[1]s track pre ct state invalid counter
add chain %[1]s track out { type filter hook output priority 0; }
add rule %[1]s track out ct state invalid counter
`, family)
}

// markOf is the mark of a client's flows, labelOf their label; others have none.
var (
	markOf  = [2]uint32{0x11, 0x22}
	labelOf = [2]int{3, 100}
)

func marking(clients []*lab.Station, family string) string {
	return onClients("marks", clients, family, func(n int) string { return fmt.Sprint("ct mark set ", markOf[n]) })
}

func labelling(clients []*lab.Station, family string) string {
	return onClients("labels", clients, family, func(n int) string { return fmt.Sprint("ct label set ", labelOf[n]) })
}

// onClients does something to first packets from or to clients.
func onClients(table string, clients []*lab.Station, family string, what func(n int) string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "add table %s %s\n", family, table)
	for _, hook := range []string{"prerouting", "output"} {
		fmt.Fprintf(&b, "add chain %s %s %s { type filter hook %s priority -150; }\n", family, table, hook, hook)
		for n, c := range clients {
			for _, side := range []string{"saddr", "daddr"} {
				fmt.Fprintf(&b, "add rule %s %s %s ct state new %s %s %s %s\n", family, table, hook, family, side, own(c, family == "ip6"), what(n))
			}
		}
	}
	return b.String()
}

func own(s *lab.Station, v6 bool) netip.Addr {
	if v6 {
		return s.Addr6
	}
	return s.Addr4
}

func via(s *lab.Station, v6 bool) netip.Addr {
	if v6 {
		return s.Via6
	}
	return s.Via4
}

// know gives a flow the mark, label and zones that the gateway gives it.
func (x *site) know(f *flow) {
	c := &x.gateway.config
	from, to := x.hosts(f.group)
	for n, client := range x.net.Clients {
		if a := own(client, f.group.V6); f.orig.Src == a || f.orig.Dst == a {
			if x.gateway.marks {
				f.mark = markOf[n]
			}
			if x.gateway.labels {
				f.label = labelOf[n]
			}
		}
		begins := from == client.Host
		if !begins && to != client.Host {
			continue
		}
		switch {
		case c.Twins, c.Zoned == lab.ZoneEveryClient, c.Zoned == lab.ZoneClient && n == 0:
			f.zones = [2]uint16{uint16(n + 1), uint16(n + 1)}
		case c.Zoned == lab.ZoneOriginal && n == 0 && begins:
			f.zones[0] = 1
		}
		if (c.Uplinks == lab.ByMark || c.Uplinks == lab.ByMarkRestored) && n > 0 && begins {
			f.mark = uint32(n + 1)
		}
	}
}
