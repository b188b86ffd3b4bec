//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"flowcut/conntrack"
	"flowcut/internal/netns"

	"github.com/vishvananda/netlink"
)

// site is a gateway in a namespace of its own, whose devices lead to another
// one, where nobody answers.
type site struct {
	gateway, outside *netns.NS
	client           *conntrack.Client
	size             int // flows in the table
}

// newSite makes the namespaces.
func newSite() (_ *site, err error) {
	s := &site{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make a gateway: %w", err), s.close())
		}
	}()
	if s.gateway, err = netns.New(); err != nil {
		return nil, err
	}
	if s.outside, err = netns.New(); err != nil {
		return nil, err
	}
	if err = s.gateway.Do(s.build); err != nil {
		return nil, err
	}
	if err = s.track(); err != nil {
		return nil, err
	}
	s.client, err = conntrack.Dial(conntrack.Config{NetNS: s.gateway.Fd()})
	return s, err
}

func (s *site) close() error {
	var err error
	if s.client != nil {
		err = s.client.Close()
	}
	return errors.Join(err, s.gateway.Close(), s.outside.Close())
}

// build makes devices, addresses and routes. The thread is inside.
func (s *site) build() error {
	lan, err := s.device("lan", "192.168.1.1/24", serverAddr)
	if err != nil {
		return err
	}
	next := netip.MustParseAddr("203.0.113.254")
	wan, err := s.device("wan", public.String()+"/24", next)
	if err != nil {
		return err
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: wan, Gw: next.AsSlice()}); err != nil {
		return fmt.Errorf("default route by device %d, beside %d: %w", wan, lan, err)
	}
	return write("net/ipv4/ip_forward", 1)
}

// device makes a device that leads outside, with a neighbour whose link-layer
// address is nobody's. It returns its index.
func (s *site) device(name, prefix string, neighbour netip.Addr) (int, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(s.outside.Fd())}
	if err := netlink.LinkAdd(veth); err != nil {
		return 0, fmt.Errorf("device %s: %w", name, err)
	}
	// Else it asks for neighbours, and is asked, whenever it likes.
	if err := write("net/ipv6/conf/"+name+"/disable_ipv6", 1); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	index, err := up(name)
	if err != nil {
		return 0, err
	}
	if err := s.outside.Do(func() error { _, err := up(name); return err }); err != nil {
		return 0, err
	}
	addr, err := netlink.ParseAddr(prefix)
	if err != nil {
		return 0, err
	}
	if err := netlink.AddrAdd(veth, addr); err != nil {
		return 0, fmt.Errorf("device %s: address %s: %w", name, prefix, err)
	}
	err = netlink.NeighAdd(&netlink.Neigh{
		LinkIndex: index, State: netlink.NUD_PERMANENT, IP: neighbour.AsSlice(),
		HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 99},
	})
	if err != nil {
		return 0, fmt.Errorf("device %s: neighbour %v: %w", name, neighbour, err)
	}
	return index, nil
}

// up sets a device of the thread's namespace up and returns its index.
func up(name string) (int, error) {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return 0, fmt.Errorf("device %s: set up: %w", name, err)
	}
	return link.Attrs().Index, nil
}

// fill makes the table one of n flows.
func (s *site) fill(ctx context.Context, n int) error {
	if err := s.client.Flush(ctx, conntrack.FamilyBoth); err != nil {
		return err
	}
	if _, err := s.client.CreateAll(ctx, flows(n, 1)); err != nil {
		return fmt.Errorf("fill the table with %d flows: %w", n, err)
	}
	s.size = n
	return s.expect(n)
}

// refill makes the flows to the server anew.
func (s *site) refill(ctx context.Context) error {
	if _, err := s.client.CreateAll(ctx, flows(s.size, 10)); err != nil {
		return fmt.Errorf("make the flows to %s anew: %w", server, err)
	}
	return s.expect(s.size)
}

// empty empties the table, so that the kernel does not do it behind the back
// of what is measured next.
func (s *site) empty() error {
	s.size = 0
	return s.client.Flush(context.Background(), conntrack.FamilyBoth)
}

// expect holds the kernel's own count of the flows to n.
func (s *site) expect(n int) error {
	return s.gateway.Do(func() error {
		got, err := read(countName)
		if err == nil && got != n {
			err = fmt.Errorf("the table holds %d flows, not %d", got, n)
		}
		return err
	})
}

// Sysctls, below /proc/sys.
const (
	countName   = "net/netfilter/nf_conntrack_count"
	maxName     = "net/netfilter/nf_conntrack_max"
	bucketsName = "net/netfilter/nf_conntrack_buckets"
)

// read reads a sysctl.
func read(name string) (int, error) {
	b, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("sysctl %s: %w", name, err)
	}
	return n, nil
}

// write sets a sysctl.
func write(name string, n int) error {
	return os.WriteFile("/proc/sys/"+name, []byte(strconv.Itoa(n)), 0)
}
