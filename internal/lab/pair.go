//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Pair is two gateways for one network, of which one has the addresses:
//
//	                 .-- gateway  --.
//	client -- switch                 switch -- server
//	                 '-- gateway2 --'
//
// It has the addresses of [Standard]'s first client and server, and a link
// between the gateways: device sync, 10.0.0.1 and 10.0.0.2.
type Pair struct {
	*Lab
	Client   *Station
	Server   *Station
	Gateways [2]*Gateway // the first has the addresses until it fails
}

// SyncDevice is the device of a gateway's link to the other one of its pair.
const SyncDevice = "sync"

// SyncAddress is gateway n's address on that link.
func SyncAddress(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(n + 1)}) }

// NewPair builds a pair whose gateways have the rules of [Standard]'s, and the
// sysctls, and returns when packets can pass the first.
func NewPair(ctx context.Context, sysctls map[string]string) (_ *Pair, err error) {
	l, err := New()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	p := &Pair{Lab: l, Client: outside(0), Server: inside(0)}
	for n := range p.Gateways {
		h, err := l.Host(numbered("gateway", n))
		if err != nil {
			return nil, err
		}
		p.Gateways[n] = &Gateway{
			Host: h, Public4: p.Client.Via4, Public6: p.Client.Via6,
			outer: []*Station{p.Client}, inner: []*Station{p.Server},
		}
	}
	for role, s := range map[string]*Station{"client": p.Client, "server": p.Server} {
		if err := p.wire(ctx, role, s); err != nil {
			return nil, err
		}
	}
	var sync [2]Port
	for n, g := range p.Gateways {
		sync[n] = Port{Host: g.Host, Name: SyncDevice, Addresses: []netip.Prefix{netip.PrefixFrom(SyncAddress(n), 24)}}
	}
	if err := l.Connect(ctx, sync[0], sync[1]); err != nil {
		return nil, err
	}
	for _, g := range p.Gateways {
		if err := g.prepare(sysctls); err != nil {
			return nil, err
		}
	}
	return p, p.give(p.Gateways[0])
}

// prepare makes a gateway of a pair forward, with its rules.
func (g *Gateway) prepare(sysctls map[string]string) error {
	if err := g.install(true); err != nil {
		return err
	}
	for key, value := range sysctls {
		if err := g.Sysctl(key, value); err != nil {
			return err
		}
	}
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		if err := g.Sysctl(key, "1"); err != nil {
			return err
		}
	}
	return nil
}

// wire makes a station and the switch that joins it with both gateways.
func (p *Pair) wire(ctx context.Context, role string, s *Station) (err error) {
	hub, err := p.Host("switch-" + role)
	if err != nil {
		return err
	}
	if err := hub.bridge(theBridge); err != nil {
		return err
	}
	if s.Host, err = p.Host(role); err != nil {
		return err
	}
	ports := []Port{{Host: s.Host, Name: "eth0", Addresses: networks(s.Addr4, s.Addr6)}}
	for _, g := range p.Gateways {
		ports = append(ports, Port{Host: g.Host, Name: s.Device})
	}
	for i, port := range ports {
		name := numbered("port", i)
		if err := p.Connect(ctx, Port{Host: hub, Name: name}, port); err != nil {
			return err
		}
		if err := hub.enslave(name, theBridge); err != nil {
			return err
		}
	}
	for _, via := range []netip.Addr{s.Via4, s.Via6} {
		if err := s.Route(everything(via), via); err != nil {
			return err
		}
	}
	return nil
}

// give gives a gateway the pair's addresses and tells the neighbours.
func (p *Pair) give(g *Gateway) error {
	for _, s := range []*Station{p.Client, p.Server} {
		for _, prefix := range networks(s.Via4, s.Via6) {
			if err := g.Address(s.Device, prefix); err != nil {
				return err
			}
			if err := g.announce(s.Device, prefix.Addr()); err != nil {
				return err
			}
		}
	}
	return nil
}

// Fail takes a gateway's links away, that to the other one first, and then its
// addresses.
func (p *Pair) Fail(g *Gateway) error {
	for _, name := range []string{SyncDevice, p.Client.Device, p.Server.Device} {
		dev, err := g.route.LinkByName(name)
		if err == nil {
			err = g.route.LinkSetDown(dev)
		}
		if err != nil {
			return fmt.Errorf("lab: %s: set %s down: %w", g.Name, name, err)
		}
	}
	for _, s := range []*Station{p.Client, p.Server} {
		dev, err := g.route.LinkByName(s.Device)
		if err != nil {
			return fmt.Errorf("lab: %s: find %s: %w", g.Name, s.Device, err)
		}
		addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(s.Via4, 24))} // those of IPv6 go with the link
		if err := g.route.AddrDel(dev, addr); err != nil {
			return fmt.Errorf("lab: %s: remove %s: %w", g.Name, s.Via4, err)
		}
	}
	return nil
}

// Rejoin gives a gateway that has failed its link to the other one back.
func (p *Pair) Rejoin(ctx context.Context, g *Gateway) error {
	port := Port{Host: g.Host, Name: SyncDevice}
	if err := port.up(); err != nil {
		return err
	}
	return Until(ctx, SyncDevice+" of "+g.Name+" is up", port.running)
}

// TakeOver gives a gateway the addresses, after [Pair.Fail] of the other one: as
// keepalived does before it calls what commits the flows.
func (p *Pair) TakeOver(ctx context.Context, g *Gateway) error {
	for _, s := range []*Station{p.Client, p.Server} {
		port := Port{Host: g.Host, Name: s.Device}
		if err := port.up(); err != nil {
			return err
		}
		if err := Until(ctx, s.Device+" of "+g.Name+" is up", port.running); err != nil {
			return err
		}
	}
	return p.give(g)
}

// announce tells the neighbours on a device who has an address now.
func (h *Host) announce(device string, addr netip.Addr) error {
	dev, err := h.route.LinkByName(device)
	if err != nil {
		return fmt.Errorf("lab: %s: find %s: %w", h.Name, device, err)
	}
	say := advertise
	if addr.Is4() {
		say = gratuitousARP
	}
	if err := h.NS.Do(func() error { return say(dev.Attrs().Index, dev.Attrs().HardwareAddr, addr) }); err != nil {
		return fmt.Errorf("lab: %s: announce %s on %s: %w", h.Name, addr, device, err)
	}
	return nil
}

// gratuitousARP broadcasts an ARP request of an address for itself (RFC 5227, 3).
func gratuitousARP(device int, mac net.HardwareAddr, addr netip.Addr) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	const arpInNetworkOrder = 0x0608
	b := []byte{0, 1, 8, 0, 6, 4, 0, 1} // Ethernet, IPv4, lengths of addresses, request
	b = append(append(b, mac...), addr.AsSlice()...)
	b = append(append(b, make([]byte, len(mac))...), addr.AsSlice()...)
	to := &unix.SockaddrLinklayer{Protocol: arpInNetworkOrder, Ifindex: device, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	return unix.Sendto(fd, b, 0, to)
}

// advertise sends all nodes an unsolicited neighbour advertisement that replaces
// what they know (RFC 4861, 4.4).
func advertise(device int, mac net.HardwareAddr, addr netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	const hops = 255                                     // others are not heard
	const advertisement, router, override = 136, 128, 32 // ND_NEIGHBOR_ADVERT and its flags
	const target = 2                                     // ND_OPT_TARGET_LINKADDR, 8 bytes long
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, hops); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet6{Addr: addr.As16()}); err != nil {
		return err
	}
	b := append([]byte{advertisement, 0, 0, 0, router | override, 0, 0, 0}, addr.AsSlice()...)
	b = append(append(b, target, 1), mac...)
	to := &unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: uint32(device)}
	return unix.Sendto(fd, b, 0, to)
}
