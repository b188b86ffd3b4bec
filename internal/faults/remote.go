//go:build linux && amd64

package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"flowcut/internal/lab"
	"flowcut/internal/netns"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// remote makes the gateway's namespace go away, as far as one can that sockets
// still hold: ip-netns(8) takes its name, and its devices go elsewhere.
type remote struct {
	gateway *lab.Gateway
	at      *netlink.Handle // of the gateway
	park    *netns.NS       // where the devices go
	parked  *netlink.Handle
	devices []device
	gone    bool
}

// device is one of the gateway's, and what it loses on the way.
type device struct {
	link      netlink.Link
	addresses []netlink.Addr
}

func newRemote(g *lab.Gateway) (_ *remote, err error) {
	r := &remote{gateway: g}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if r.at, err = netlink.NewHandleAt(vnetns.NsHandle(g.NS.Fd()), unix.NETLINK_ROUTE); err != nil {
		return nil, err
	}
	if r.park, err = netns.New(); err != nil {
		return nil, err
	}
	if r.parked, err = netlink.NewHandleAt(vnetns.NsHandle(r.park.Fd()), unix.NETLINK_ROUTE); err != nil {
		return nil, err
	}
	links, err := r.at.LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if l.Type() != "veth" {
			continue
		}
		d := device{link: l}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			list, err := r.at.AddrList(l, family)
			if err != nil {
				return nil, err
			}
			for _, a := range list {
				if !a.IP.IsLinkLocalUnicast() {
					d.addresses = append(d.addresses, netlink.Addr{IPNet: a.IPNet, Flags: unix.IFA_F_NODAD * b2i(family == netlink.FAMILY_V6)})
				}
			}
		}
		r.devices = append(r.devices, d)
	}
	return r, nil
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (r *remote) close() error {
	for _, h := range []*netlink.Handle{r.at, r.parked} {
		if h != nil {
			h.Close()
		}
	}
	if r.park == nil {
		return nil
	}
	return r.park.Close()
}

// vanish takes the namespace's name and its devices.
func (r *remote) vanish() error {
	r.gone = true
	path := filepath.Join(netns.Dir, r.gateway.Name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("take the name of the namespace: %w", err)
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	for _, d := range r.devices {
		if err := r.at.LinkSetNsFd(d.link, r.park.Fd()); err != nil {
			return fmt.Errorf("take device %s: %w", d.link.Attrs().Name, err)
		}
	}
	return nil
}

// restore undoes vanish.
func (r *remote) restore() error {
	if !r.gone {
		return nil
	}
	r.gone = false
	for _, d := range r.devices {
		name := d.link.Attrs().Name
		if err := r.parked.LinkSetNsFd(d.link, r.gateway.NS.Fd()); err != nil {
			return fmt.Errorf("bring device %s back: %w", name, err)
		}
		if err := r.at.LinkSetUp(d.link); err != nil {
			return fmt.Errorf("set %s up: %w", name, err)
		}
		for _, a := range d.addresses {
			if err := r.at.AddrAdd(d.link, &a); err != nil {
				return fmt.Errorf("give %s back %s: %w", name, a.IPNet, err)
			}
		}
	}
	path := filepath.Join(netns.Dir, r.gateway.Name)
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		return err
	}
	return unix.Mount(fmt.Sprintf("/proc/self/fd/%d", r.gateway.NS.Fd()), path, "", unix.MS_BIND, "")
}
