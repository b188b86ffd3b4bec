package detour

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"strings"
)

// judgeBridges reports bridges that forward packets of the flows between
// their ports without showing them to netfilter. Packets that are routed pass
// the hooks, by whatever bridge they come and go: so both ends must be behind
// the same one.
func (s *scan) judgeBridges() error {
	call4, err := bridgeCalls("iptables")
	if err != nil {
		return err
	}
	call6, err := bridgeCalls("ip6tables")
	if err != nil {
		return err
	}
	blind := map[int]*blindness{}
	for _, d := range s.working() {
		b := &blindness{bridge: d, v4: !call4.shows(d.call4), v6: !call6.shows(d.call6)}
		if d.kind == kindBridge && (b.v4 || b.v6) && s.forwards(d) {
			blind[d.index] = b
		}
	}
	if s.everywhere {
		for index := range blind {
			s.reportBridge(blind, index, netip.IPv4Unspecified())
			s.reportBridge(blind, index, netip.IPv6Unspecified())
		}
	}
	if len(blind) == 0 {
		return nil
	}
	addrs := s.ends.addrs
	if err := s.lookUp(addrs[min(len(addrs), maxRoutes):]); err != nil {
		return err
	}
	s.judgeTuples(blind)
	return nil
}

// calls is what a sysctl says of all bridges of a namespace.
type calls int

const (
	absent calls = iota // br_netfilter is not loaded, and what a bridge says itself means nothing
	off                 // unless a bridge says otherwise itself
	on
)

func bridgeCalls(program string) (calls, error) {
	b, err := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-" + program)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return absent, nil
	case err != nil:
		return absent, err
	case strings.TrimSpace(string(b)) == "0":
		return off, nil
	}
	return on, nil
}

// shows tells whether a bridge that says so itself or not shows netfilter what
// it forwards.
func (c calls) shows(itself bool) bool { return c == on || c == off && itself }

// blindness is the families whose packets a bridge does not show, until they
// are reported.
type blindness struct {
	bridge *device
	v4, v6 bool
}

// forwards tells whether a bridge has ports to forward between.
func (s *scan) forwards(bridge *device) bool {
	up := 0
	for _, port := range s.ports[bridge.index] {
		if port.up {
			up++
		}
	}
	return up > 1
}

// behind is the blind bridges that an address may be behind.
type behind struct {
	any     bool // nothing tells which
	bridges []int
}

func (b behind) has(bridge int) bool {
	for _, index := range b.bridges {
		if index == bridge {
			return true
		}
	}
	return b.any
}

// place finds out what blind bridges ends are behind; others are not in it.
func (s *scan) place(blind map[int]*blindness) map[netip.Addr]behind {
	places := map[netip.Addr]behind{}
	for a, w := range s.ways {
		if w.local {
			continue
		}
		// Another table may have the route; a link-local address is any link's.
		b := behind{any: w.none && !s.policy || a.IsLinkLocalUnicast()}
		for _, index := range w.devices {
			if bridge := s.bridgeBelow(index); blind[bridge] != nil {
				b.bridges = append(b.bridges, bridge)
			}
		}
		if b.any || len(b.bridges) > 0 {
			places[a] = b
		}
	}
	return places
}

// bridgeBelow returns the bridge that a device is, or is on top of; 0 for none.
func (s *scan) bridgeBelow(index int) int {
	const deepest = 8 // MAX_NEST_DEV
	for range deepest {
		d := s.devices[index]
		if d == nil {
			return 0
		}
		if d.kind == kindBridge {
			return index
		}
		index = d.lower
	}
	return 0
}

func (s *scan) judgeTuples(blind map[int]*blindness) {
	places := s.place(blind)
	for t := range s.ends.tuples {
		src, known := places[t.Src]
		if !known {
			continue
		}
		dst, known := places[t.Dst]
		if !known {
			continue
		}
		for index := range blind {
			if src.has(index) && dst.has(index) {
				s.reportBridge(blind, index, t.Src)
			}
		}
		if len(blind) == 0 {
			return
		}
	}
}

// reportBridge reports a bridge if it is blind for the family of an address,
// once, since there may be 100,000 such flows.
func (s *scan) reportBridge(blind map[int]*blindness, index int, a netip.Addr) {
	b := blind[index]
	if b == nil {
		return // reported for both
	}
	if a.Is4() && b.v4 {
		b.v4 = false
		s.report(Bridge, b.bridge, "br_netfilter is off for IPv4")
	}
	if a.Is6() && b.v6 {
		b.v6 = false
		s.report(Bridge, b.bridge, "br_netfilter is off for IPv6")
	}
	if !b.v4 && !b.v6 {
		delete(blind, index)
	}
}

// lookAtOpenVSwitch reports its devices: its own flows may do anything with
// packets, routing and NAT included. The datapath itself works while it is
// down, if it has ports.
func (s *scan) lookAtOpenVSwitch() {
	for _, d := range s.concerned {
		if d.kind == kindOpenVSwitch && (d.up || len(s.ports[d.index]) > 0) {
			s.report(OpenVSwitch, d, "")
		}
	}
}
