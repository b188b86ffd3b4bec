//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// firstIndex is above the indexes that a new namespace gives by itself.
const firstIndex = 100

// Port is one end of a link: the device Name of Host, and its addresses.
type Port struct {
	Host      *Host
	Name      string
	Addresses []netip.Prefix
	NoRoutes  bool // the addresses bring no route to their networks
}

// Connect joins two hosts by a veth pair, gives each end its addresses, and
// returns when packets can pass.
func (l *Lab) Connect(ctx context.Context, a, b Port) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a.Name
	attrs.Index = l.index()
	veth := netlink.NewVeth(attrs)
	veth.PeerName = b.Name
	veth.PeerNamespace = netlink.NsFd(b.Host.NS.Fd())
	if err := a.Host.route.LinkAdd(veth); err != nil {
		return fmt.Errorf("lab: connect %s of %s and %s of %s: %w", a.Name, a.Host.Name, b.Name, b.Host.Name, err)
	}
	for _, p := range []Port{a, b} {
		if err := p.up(); err != nil {
			return err
		}
	}
	for _, p := range []Port{a, b} {
		if err := p.configure(ctx); err != nil {
			return err
		}
	}
	return nil
}

// configure gives a device that is up its addresses, and returns when they can
// be used.
func (p Port) configure(ctx context.Context) error {
	if err := Until(ctx, fmt.Sprintf("%s of %s is up", p.Name, p.Host.Name), p.running); err != nil {
		return err
	}
	for _, prefix := range p.Addresses {
		if err := p.Host.address(p.Name, prefix, p.NoRoutes); err != nil {
			return err
		}
	}
	return Until(ctx, fmt.Sprintf("%s of %s has its addresses", p.Name, p.Host.Name), p.usable)
}

// index returns a device number that no peer has: the kernel tells of a
// carrier up to a second late when both ends of a pair have the same number.
func (l *Lab) index() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.links++
	return firstIndex + l.links
}

func (p Port) up() error {
	dev, err := p.Host.route.LinkByName(p.Name)
	if err == nil {
		err = p.Host.route.LinkSetUp(dev)
	}
	if err != nil {
		return fmt.Errorf("lab: %s: set %s up: %w", p.Host.Name, p.Name, err)
	}
	return nil
}

// running tells whether the device has a carrier and the stack knows it.
func (p Port) running() (bool, error) {
	dev, err := p.Host.route.LinkByName(p.Name)
	if err != nil {
		return false, err
	}
	return dev.Attrs().OperState == netlink.OperUp, nil
}

// usable tells whether all addresses of the port can be bound to.
func (p Port) usable() (bool, error) {
	dev, err := p.Host.route.LinkByName(p.Name)
	if err != nil {
		return false, err
	}
	addrs, err := p.Host.route.AddrList(dev, netlink.FAMILY_ALL)
	if errors.Is(err, netlink.ErrDumpInterrupted) { // an address came or went meanwhile
		return false, nil
	}
	if err != nil {
		return false, err
	}
	ready := 0
	for _, a := range addrs {
		if a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
			return false, nil
		}
		if ip, ok := netip.AddrFromSlice(a.IP); ok && p.has(ip.Unmap()) {
			ready++
		}
	}
	return ready == len(p.Addresses), nil
}

func (p Port) has(ip netip.Addr) bool {
	for _, prefix := range p.Addresses {
		if prefix.Addr() == ip {
			return true
		}
	}
	return false
}
