//go:build linux

package lab

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// place returns station n of a side, counted from 0, without its host.
func (cfg Config) place(side func(int) *Station, n int) *Station {
	if cfg.Twins {
		s := side(0)
		s.Device = side(n).Device
		return s
	}
	if cfg.Bridged == Routed {
		return side(n)
	}
	// One network for all: clients from .2, servers from .100 on.
	s := side(n)
	last, net := 2+n, outside(0)
	if s.Addr4.As4()[3] == 100 {
		last += 98
	}
	s.Via4, s.Via6 = net.Via4, net.Via6
	s.Addr4 = netip.MustParseAddr(fmt.Sprintf("203.0.113.%d", last))
	s.Addr6 = netip.MustParseAddr(fmt.Sprintf("2001:db8:1::%d", last))
	return s
}

// tableOf returns the routing table that has the way to station n: 0 for the
// main one, by the network of the gateway's address.
func (cfg Config) tableOf(n int, client bool) int {
	switch {
	case cfg.Twins:
		return tableTwins + n
	case client && n > 0 && cfg.Uplinks != MainTable:
		return n + 1 // the number of its mark, too
	}
	return 0
}

// tableTwins is the routing table of what comes from the first twins.
const tableTwins = 11

// The devices and addresses of a station's own router; the kernel wants no
// network on either side, so that hosts keep their addresses.
const (
	routerUp, routerDown = "up", "down"
	lastUp, lastDown     = 253, 254 // last parts of its addresses
)

func networks(a, b netip.Addr) []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(a, 24), netip.PrefixFrom(b, 64)}
}

// attach makes the host of s and links it with the gateway, which has the way
// to it in a routing table, 0 for the usual one.
func (t *Topology) attach(ctx context.Context, role string, s *Station, cfg Config, table int) (err error) {
	if s.Host, err = t.Host(role); err != nil {
		return err
	}
	gateway := Port{Host: t.Gateway.Host, Name: s.Device, Addresses: networks(s.Via4, s.Via6), NoRoutes: table != 0 || cfg.Routers}
	if cfg.Routers {
		return t.attachBehind(ctx, role, s, cfg, gateway, table)
	}
	station := Port{Host: s.Host, Name: "eth0", Addresses: networks(s.Addr4, s.Addr6)}
	if err := t.connectGateway(ctx, gateway, station, cfg); err != nil {
		return err
	}
	for _, to := range gateway.Addresses {
		if table != 0 {
			if err := t.Gateway.routeBy(to, netip.Addr{}, s.Device, table); err != nil {
				return err
			}
		}
		if err := s.Route(everything(to.Addr()), to.Addr()); err != nil {
			return err
		}
	}
	return nil
}

// attachBehind puts a router between the gateway and the station.
func (t *Topology) attachBehind(ctx context.Context, role string, s *Station, cfg Config, gateway Port, table int) (err error) {
	if s.Router, err = t.Host("router-" + role); err != nil {
		return err
	}
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		if err := s.Router.Sysctl(key, "1"); err != nil {
			return err
		}
	}
	at := func(last int) []netip.Prefix {
		return networks(withLast(s.Via4, last), withLast(s.Via6, last))
	}
	up := Port{Host: s.Router, Name: routerUp, Addresses: at(lastUp), NoRoutes: true}
	if err := t.connectGateway(ctx, gateway, up, cfg); err != nil {
		return err
	}
	err = t.Connect(ctx,
		Port{Host: s.Router, Name: routerDown, Addresses: at(lastDown), NoRoutes: true},
		Port{Host: s.Host, Name: "eth0", Addresses: networks(s.Addr4, s.Addr6), NoRoutes: true})
	if err != nil {
		return err
	}
	for i, own := range []netip.Addr{s.Addr4, s.Addr6} {
		net := gateway.Addresses[i]
		for _, r := range []struct {
			host  *Host
			to    netip.Prefix
			via   netip.Addr
			dev   string
			table int
		}{
			{t.Gateway.Host, net, at(lastUp)[i].Addr(), s.Device, table},
			{s.Router, netip.PrefixFrom(own, own.BitLen()), netip.Addr{}, routerDown, 0},
			{s.Router, netip.PrefixFrom(net.Addr(), own.BitLen()), netip.Addr{}, routerUp, 0},
			{s.Router, everything(own), net.Addr(), routerUp, 0},
			{s.Host, everything(own), at(lastDown)[i].Addr(), "eth0", 0},
		} {
			if err := r.host.routeBy(r.to, r.via, r.dev, r.table); err != nil {
				return err
			}
		}
	}
	return nil
}

// withLast changes the last byte of an address.
func withLast(a netip.Addr, last int) netip.Addr {
	b := a.AsSlice()
	b[len(b)-1] = byte(last)
	a, _ = netip.AddrFromSlice(b)
	return a
}

// everything is the prefix of all addresses of a's family.
func everything(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// routeBy adds a route by a device, to a neighbour if via is valid, to a table, 0
// for the main one.
func (h *Host) routeBy(dst netip.Prefix, via netip.Addr, device string, table int) error {
	dev, err := h.index(device)
	if err != nil {
		return err
	}
	r := &netlink.Route{Dst: ipNet(dst.Masked()), LinkIndex: dev, Table: table, Scope: netlink.SCOPE_LINK}
	if via.IsValid() {
		r.Gw, r.Flags, r.Scope = via.AsSlice(), int(netlink.FLAG_ONLINK), netlink.SCOPE_UNIVERSE
	}
	if err := h.route.RouteAdd(r); err != nil {
		return fmt.Errorf("lab: %s: route %s by %s in table %d: %w", h.Name, dst, device, table, err)
	}
	return nil
}

// index returns the number of a device.
func (h *Host) index(device string) (int, error) {
	dev, err := h.route.LinkByName(device)
	if err != nil {
		return 0, fmt.Errorf("lab: %s: find %s: %w", h.Name, device, err)
	}
	return dev.Attrs().Index, nil
}

// policyRouting adds the rules that choose routing tables.
func (t *Topology) policyRouting(cfg Config) error {
	g := t.Gateway
	if cfg.Twins {
		for _, side := range [][]*Station{t.Clients, t.Servers} {
			for n, s := range side {
				if err := g.rule(netlink.Rule{IifName: s.Device, Table: tableTwins + n}); err != nil {
					return err
				}
			}
		}
	}
	if cfg.Uplinks == MainTable {
		return nil
	}
	for n, client := range t.Clients[1:] {
		if err := g.uplink(cfg.Uplinks, client, n+2); err != nil {
			return err
		}
	}
	if !cfg.MainDefault {
		return nil
	}
	first := t.Clients[0]
	for _, via := range []netip.Addr{first.Addr4, first.Addr6} {
		if err := g.routeBy(everything(via), via, first.Device, 0); err != nil {
			return err
		}
	}
	return nil
}

// uplink adds the rules for the table with the way to a client.
func (g *Gateway) uplink(how Uplinks, client *Station, table int) error {
	var rules []netlink.Rule
	switch how {
	case ByMark, ByMarkRestored:
		rules = append(rules, netlink.Rule{Mark: uint32(table)})
	case BySource:
		from := []netip.Addr{client.Via4, client.Via6}
		for _, s := range g.inner {
			from = append(from, s.Addr4, s.Addr6)
		}
		for _, a := range from {
			rules = append(rules, netlink.Rule{Src: ipNet(netip.PrefixFrom(a, a.BitLen()))})
		}
	case ByInput:
		for _, s := range g.inner {
			rules = append(rules, netlink.Rule{IifName: s.Device})
		}
	}
	for _, r := range rules {
		r.Table = table
		if err := g.rule(r); err != nil {
			return err
		}
	}
	return nil
}

// rule adds a routing rule, for both families unless it has an address.
func (h *Host) rule(r netlink.Rule) error {
	families := []int{unix.AF_INET, unix.AF_INET6}
	if r.Src != nil {
		families = []int{unix.AF_INET}
		if len(r.Src.IP) == 16 {
			families = []int{unix.AF_INET6}
		}
	}
	for _, family := range families {
		add := netlink.NewRule()
		add.Family, add.Mark, add.Src, add.IifName, add.Table = family, r.Mark, r.Src, r.IifName, r.Table
		if err := h.route.RuleAdd(add); err != nil {
			return fmt.Errorf("lab: %s: add %v: %w", h.Name, add, err)
		}
	}
	return nil
}
