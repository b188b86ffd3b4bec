//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// Config says what [Standard] builds; the zero value is the usual network.
type Config struct {
	Clients int // 0: two
	Servers int // 0: two

	// Sysctls of the gateway, such as net.netfilter.nf_conntrack_tcp_loose,
	// set before it forwards its first packet.
	Sysctls map[string]string

	SNAT         bool // translate to the gateway's address by name, not by masquerade
	IPv4Only     bool // the gateway has no IPv6 tables; addresses stay
	NoRules      bool // the gateway forwards everything and translates nothing
	HostFirewall bool // clients and servers drop what conntrack calls invalid
	HostRejects  bool // they answer it with a reset

	// What makes the gateway an unusual one. GatewayKinds has names for them.
	Output      Output
	InputDrop   bool // nothing may come in to the gateway itself but neighbour discovery and what is redirected
	Uplinks     Uplinks
	MainDefault bool // with Uplinks: the main table sends the rest of the world to client
	Zoned       Zoned
	// Twins: client2 has client's addresses and server2 server's. What comes
	// from the first two is in zone 1, from the other two in zone 2, and routed
	// by the device that it came in by. Nothing is translated.
	Twins   bool
	Devices Devices
	Bridged Bridged
	Routers bool // each host is behind a router of its own: [Station.Router]
	Crowd   Crowd
}

// Topology is clients outside and servers inside of a gateway that
// translates, in both families:
//
//	client   203.0.113.2   2001:db8:1::2 -- wan   gateway  lan  -- 192.168.1.100  fd00:1::100  server
//	client2  198.51.100.2  2001:db8:2::2 -- wan2           lan2 -- 192.168.2.100  fd00:2::100  server2
//
// and so on for more of them (client3 is 198.51.101.2). Clients reach a
// server through [Gateway.Forward], at the gateway's address on wan; where it
// is in gateways of all kinds says [Topology.To].
type Topology struct {
	*Lab
	Clients []*Station
	Gateway *Gateway
	Servers []*Station
}

// Station is a host with one link, to the gateway.
type Station struct {
	*Host
	Addr4, Addr6 netip.Addr // its own
	Via4, Via6   netip.Addr // the gateway's on that link
	Device       string     // the gateway's end of the link
	Router       *Host      // between the two, with Config.Routers
}

// outside returns client n, counted from 0, without its host.
func outside(n int) *Station {
	v4, v6 := fmt.Sprintf("198.51.%d.", 99+n), fmt.Sprintf("2001:db8:%x::", n+1)
	if n == 0 {
		v4 = "203.0.113."
	}
	return station(v4+"2", v6+"2", v4+"1", v6+"1", numbered("wan", n))
}

// inside returns server n, counted from 0, without its host.
func inside(n int) *Station {
	v4, v6 := fmt.Sprintf("192.168.%d.", n+1), fmt.Sprintf("fd00:%x::", n+1)
	return station(v4+"100", v6+"100", v4+"1", v6+"1", numbered("lan", n))
}

func station(addr4, addr6, via4, via6, device string) *Station {
	return &Station{
		Addr4: netip.MustParseAddr(addr4), Addr6: netip.MustParseAddr(addr6),
		Via4: netip.MustParseAddr(via4), Via6: netip.MustParseAddr(via6),
		Device: device,
	}
}

// numbered returns word for the first of a kind, word2 for the second.
func numbered(word string, n int) string {
	if n == 0 {
		return word
	}
	return word + strconv.Itoa(n+1)
}

// Standard builds the network and returns when packets can pass. Nothing is
// forwarded to a server until [Gateway.Forward] is called.
func Standard(ctx context.Context, cfg Config) (_ *Topology, err error) {
	l, err := New()
	if err != nil {
		return nil, err
	}
	t := &Topology{Lab: l}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	host, err := l.Host("gateway")
	if err != nil {
		return nil, err
	}
	g := &Gateway{Host: host, snat: cfg.SNAT, uplinks: cfg.Uplinks}
	t.Gateway = g
	if cfg.Bridged != Routed {
		if err := t.makeBridge(ctx, cfg); err != nil {
			return nil, err
		}
	}
	for n := range orTwo(cfg.Clients) {
		s := cfg.place(outside, n)
		if err := t.attach(ctx, numbered("client", n), s, cfg, cfg.tableOf(n, true)); err != nil {
			return nil, err
		}
		t.Clients = append(t.Clients, s)
	}
	for n := range orTwo(cfg.Servers) {
		s := cfg.place(inside, n)
		if err := t.attach(ctx, numbered("server", n), s, cfg, cfg.tableOf(n, false)); err != nil {
			return nil, err
		}
		t.Servers = append(t.Servers, s)
	}
	g.outer, g.inner = t.Clients, t.Servers
	g.Public4, g.Public6 = t.Clients[0].Via4, t.Clients[0].Via6
	return t, t.configure(cfg)
}

func orTwo(n int) int {
	if n == 0 {
		return 2
	}
	return n
}

// configure makes the gateway forward and sets the rules up.
func (t *Topology) configure(cfg Config) error {
	g := t.Gateway
	if err := t.policyRouting(cfg); err != nil {
		return err
	}
	if !cfg.NoRules && !cfg.Twins && cfg.Bridged == Routed {
		if err := g.install(!cfg.IPv4Only); err != nil {
			return err
		}
	}
	if err := g.special(cfg); err != nil {
		return err
	}
	for key, value := range cfg.Sysctls {
		if err := g.Sysctl(key, value); err != nil {
			return err
		}
	}
	if cfg.HostFirewall || cfg.HostRejects {
		for _, s := range slices.Concat(t.Clients, t.Servers) {
			if err := s.Firewall(cfg.HostRejects); err != nil {
				return fmt.Errorf("lab: firewall of %s: %w", s.Name, err)
			}
		}
	}
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		if err := g.Sysctl(key, "1"); err != nil {
			return err
		}
	}
	return nil
}
