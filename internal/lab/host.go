//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"flowcut/internal/netns"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Host is one machine of a lab: a network namespace that ip-netns(8) sees
// under Name.
type Host struct {
	Name string // of the namespace, such as fclab-4711-1-gateway
	NS   *netns.NS

	lab   *Lab
	route *netlink.Handle // rtnetlink inside the namespace
}

// hostSysctls are set in every host before it has a link: addresses are
// usable at once, echo needs no privilege, nothing is inherited that would
// drop packets, and bridges have no flows of their own: the kernel reports the
// group of those that snoop.
var hostSysctls = [][2]string{
	{"net.ipv6.conf.all.accept_dad", "0"},
	{"net.ipv6.conf.default.accept_dad", "0"},
	{"net.ipv6.conf.default.accept_ra", "0"},
	{"net.ipv4.conf.all.rp_filter", "0"},
	{"net.ipv4.conf.default.rp_filter", "0"},
	{"net.ipv4.igmp_link_local_mcast_reports", "0"},
	{"net.ipv4.ping_group_range", "0 2147483647"},
	{"net.core.somaxconn", "65535"},
	{"net.ipv4.tcp_max_syn_backlog", "65535"},
}

func newHost(l *Lab, name string) (_ *Host, err error) {
	h := &Host{Name: name, lab: l}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	if h.NS, err = bind(name); err != nil {
		return nil, err
	}
	if h.route, err = netlink.NewHandleAt(vnetns.NsHandle(h.NS.Fd()), unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	for _, kv := range hostSysctls {
		if err := h.Sysctl(kv[0], kv[1]); err != nil {
			return nil, err
		}
	}
	lo, err := h.route.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("find lo: %w", err)
	}
	if err := h.route.LinkSetUp(lo); err != nil {
		return nil, fmt.Errorf("set lo up: %w", err)
	}
	return h, nil
}

// close removes the host; its processes' sockets must be closed already.
func (h *Host) close() error {
	if h.route != nil {
		h.route.Close()
	}
	return errors.Join(unbind(h.Name), h.NS.Close())
}

// Sysctl sets key, written with dots as sysctl(8) does, inside the host.
func (h *Host) Sysctl(key, value string) error {
	path := filepath.Join("/proc/sys", strings.ReplaceAll(key, ".", "/"))
	err := h.NS.Do(func() error { return os.WriteFile(path, []byte(value), 0) })
	if err != nil {
		return fmt.Errorf("lab: %s: set %s to %s: %w", h.Name, key, value, err)
	}
	return nil
}

// Address adds an address to the host's link, usable at once.
func (h *Host) Address(link string, prefix netip.Prefix) error { return h.address(link, prefix, false) }

func (h *Host) address(link string, prefix netip.Prefix, noRoute bool) error {
	dev, err := h.route.LinkByName(link)
	if err != nil {
		return fmt.Errorf("lab: %s: find %s: %w", h.Name, link, err)
	}
	addr := &netlink.Addr{IPNet: ipNet(prefix)}
	if prefix.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if noRoute {
		addr.Flags |= unix.IFA_F_NOPREFIXROUTE
	}
	if err := h.route.AddrAdd(dev, addr); err != nil {
		return fmt.Errorf("lab: %s: add %s to %s: %w", h.Name, prefix, link, err)
	}
	return nil
}

// Route sends what is for dst to the neighbour via.
func (h *Host) Route(dst netip.Prefix, via netip.Addr) error {
	err := h.route.RouteAdd(&netlink.Route{Dst: ipNet(dst.Masked()), Gw: via.AsSlice()})
	if err != nil {
		return fmt.Errorf("lab: %s: route %s via %s: %w", h.Name, dst, via, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// ForgetNeighbours empties the host's table of link-layer addresses, so that
// the next packet to each has to ask for it.
func (h *Host) ForgetNeighbours() error {
	neighbours, err := h.route.NeighList(0, 0)
	if err != nil {
		return err
	}
	for _, n := range neighbours {
		if n.State&netlink.NUD_NOARP != 0 {
			continue
		}
		if err := h.route.NeighDel(&n); err != nil {
			return fmt.Errorf("lab: %s: forget %s: %w", h.Name, n.IP, err)
		}
	}
	return nil
}
