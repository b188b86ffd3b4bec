//go:build linux

package lab

import (
	"context"
	"fmt"

	"github.com/vishvananda/netlink"
)

// theBridge is the device of a gateway that bridges.
const theBridge = "br0"

// connectGateway links the gateway with a host by a device of the kind that is
// wanted.
func (t *Topology) connectGateway(ctx context.Context, gateway, other Port, cfg Config) error {
	if cfg.Devices == PlainDevices && cfg.Bridged == Routed {
		return t.Connect(ctx, gateway, other)
	}
	bare := Port{Host: gateway.Host, Name: gateway.Name}
	if cfg.Devices != PlainDevices {
		bare.Name += "-port"
	}
	if err := t.Connect(ctx, bare, other); err != nil {
		return err
	}
	h := gateway.Host
	if cfg.Bridged != Routed {
		return h.enslave(bare.Name, theBridge)
	}
	switch cfg.Devices {
	case BridgeDevices:
		if err := h.bridge(gateway.Name); err != nil {
			return err
		}
		if err := h.enslave(bare.Name, gateway.Name); err != nil {
			return err
		}
	case MacvlanDevices:
		if err := h.macvlan(gateway.Name, bare.Name); err != nil {
			return err
		}
	}
	return gateway.configure(ctx)
}

// makeBridge makes the device that all hosts are joined by.
func (t *Topology) makeBridge(ctx context.Context, cfg Config) error {
	g := t.Gateway
	if err := g.bridge(theBridge); err != nil {
		return err
	}
	for _, family := range []string{"iptables", "ip6tables"} { // they are 1 unless somebody changed them
		if err := g.Sysctl("net.bridge.bridge-nf-call-"+family, "1"); err != nil {
			return fmt.Errorf("%w; load br_netfilter", err)
		}
	}
	if cfg.Bridged == BridgeBare {
		// Not even a link-local address: with one it could ask for neighbours.
		return g.Sysctl("net.ipv6.conf."+theBridge+".disable_ipv6", "1")
	}
	s := outside(0)
	for _, prefix := range networks(s.Via4, s.Via6) {
		if err := g.Address(theBridge, prefix); err != nil {
			return err
		}
	}
	return nil
}

// bridge makes a bridge and sets it up. It forwards at once: without STP the
// kernel does not wait.
func (h *Host) bridge(name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	attrs.Index = h.lab.index()
	return h.add(&netlink.Bridge{LinkAttrs: attrs})
}

// macvlan makes a device on top of another one, which has no address itself.
func (h *Host) macvlan(name, below string) error {
	parent, err := h.index(below)
	if err != nil {
		return err
	}
	// Otherwise it answers for the addresses of the device on top as well, and
	// gets their packets.
	if err := h.Sysctl("net.ipv4.conf."+below+".arp_ignore", "1"); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = name, parent
	attrs.Index = h.lab.index()
	return h.add(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_PRIVATE})
}

func (h *Host) add(dev netlink.Link) error {
	if err := h.route.LinkAdd(dev); err != nil {
		return fmt.Errorf("lab: %s: make %s %s: %w", h.Name, dev.Type(), dev.Attrs().Name, err)
	}
	return Port{Host: h, Name: dev.Attrs().Name}.up()
}

// enslave makes a device a port of a bridge.
func (h *Host) enslave(port, bridge string) error {
	p, err := h.route.LinkByName(port)
	if err != nil {
		return fmt.Errorf("lab: %s: find %s: %w", h.Name, port, err)
	}
	b, err := h.route.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("lab: %s: find %s: %w", h.Name, bridge, err)
	}
	if err := h.route.LinkSetMaster(p, b); err != nil {
		return fmt.Errorf("lab: %s: make %s a port of %s: %w", h.Name, port, bridge, err)
	}
	return nil
}
