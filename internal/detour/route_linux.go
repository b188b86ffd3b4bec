package detour

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// maxRoutes is how many addresses are looked up at most: each look-up takes
// the kernel about 2 µs.
const maxRoutes = 256

// way is where packets to an address go.
type way struct {
	devices []int // more than one where routes have several next hops
	local   bool  // it is an address of this host
	none    bool  // no route at all
	unclear bool  // the route does not name a device
}

// follow looks up the ways to all ends and takes in the devices on them.
func (s *scan) follow() error {
	looked := s.ends.addrs[:min(len(s.ends.addrs), maxRoutes)]
	if err := s.lookUp(looked); err != nil {
		return err
	}
	var err error
	if s.policy, err = s.hasPolicy(); err != nil {
		return err
	}
	all := s.policy || len(looked) < len(s.ends.addrs)
	for _, a := range looked {
		w := s.ways[a]
		if w.local {
			s.concernLoopback()
			continue
		}
		all = all || w.none || w.unclear
		for _, index := range w.devices {
			s.concern(index)
		}
	}
	if all {
		s.concernAll()
	}
	return nil
}

// lookUp asks for the routes in batches that fit into the receive queue.
func (s *scan) lookUp(addrs []netip.Addr) error {
	const batch = 64
	for some := range slices.Chunk(addrs, batch) {
		var requests []byte
		for _, a := range some {
			requests = s.rt.request(requests, unix.RTM_GETROUTE, 0, routeRequest(a))
		}
		if err := s.rt.send(requests); err != nil {
			return fmt.Errorf("ask for %d routes: %w", len(some), err)
		}
		for _, a := range some { // answered in order
			w, err := s.answer()
			if err != nil {
				return fmt.Errorf("look up the route to %s: %w", a, err)
			}
			if a.IsLinkLocalUnicast() || a.IsMulticast() {
				w.unclear = true // which device is not in the address
			}
			s.ways[a] = w
		}
	}
	return nil
}

// routeRequest is struct rtmsg and the address.
func routeRequest(a netip.Addr) []byte {
	b := make([]byte, unix.SizeofRtMsg, unix.SizeofRtMsg+unix.SizeofRtAttr+16)
	b[0] = unix.AF_INET
	if a.Is6() {
		b[0] = unix.AF_INET6
	}
	b[1] = byte(a.BitLen())
	// The route itself, not the one next hop of several that it would take.
	binary.NativeEndian.PutUint32(b[8:], unix.RTM_F_FIB_MATCH)
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+a.BitLen()/8))
	b = binary.NativeEndian.AppendUint16(b, unix.RTA_DST)
	return append(b, a.AsSlice()...)
}

// answer reads the answer to one request.
func (s *scan) answer() (w way, err error) {
	msgs, err := s.rt.receive()
	if err != nil {
		return w, err
	}
	for _, m := range msgs {
		if m.Header.Type != unix.NLMSG_ERROR {
			return parseRoute(m.Data)
		}
		err = failure(m)
	}
	switch {
	case errors.Is(err, unix.ENETUNREACH):
		return way{none: true}, nil
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES), missing(err):
		// Routes of the types unreachable, prohibit, blackhole; a kernel without the family.
		return way{unclear: true}, nil
	}
	return w, err
}

func parseRoute(data []byte) (w way, err error) {
	fixed, attributes, err := split(data, unix.SizeofRtMsg)
	if err != nil {
		return w, err
	}
	typ := fixed[7]
	err = each(attributes, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.RTA_OIF:
			w.devices = append(w.devices, int(ad.Uint32()))
		case unix.RTA_MULTIPATH:
			ad.Do(func(b []byte) error {
				hops, err := parseHops(b)
				w.devices = append(w.devices, hops...)
				return err
			})
		}
	})
	switch typ {
	case unix.RTN_LOCAL:
		return way{local: true}, err
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT:
		return way{unclear: true}, err
	}
	w.unclear = len(w.devices) == 0
	return w, err
}

// parseHops returns the devices of struct rtnexthop, one behind the other.
func parseHops(b []byte) (devices []int, err error) {
	const size = unix.SizeofRtNexthop
	for len(b) > 0 {
		n := 0
		if len(b) >= size {
			n = int(binary.NativeEndian.Uint16(b))
		}
		if n < size || n > len(b) {
			return devices, fmt.Errorf("a next hop of %d bytes in %d", n, len(b))
		}
		devices = append(devices, int(binary.NativeEndian.Uint32(b[4:])))
		b = b[min(len(b), (n+3)&^3):]
	}
	return devices, nil
}

// hasPolicy tells whether rules other than those every host has choose routes.
func (s *scan) hasPolicy() (bool, error) {
	msgs, err := s.rt.dump(unix.RTM_GETRULE, make([]byte, unix.SizeofRtMsg)) // struct fib_rule_hdr is as long
	if err != nil && !missing(err) {
		return false, fmt.Errorf("list the rules of policy routing: %w", err)
	}
	for _, m := range msgs {
		usual, err := parseRule(m)
		if err != nil {
			return false, fmt.Errorf("list the rules of policy routing: %w", err)
		}
		if !usual {
			return true, nil
		}
	}
	return false, nil
}

// parseRule tells whether a rule is one that each host has, or of a family
// that is not asked about.
func parseRule(data []byte) (usual bool, err error) {
	fixed, attributes, err := split(data, unix.SizeofRtMsg)
	if err != nil {
		return false, err
	}
	family, action := fixed[0], fixed[7]
	if family != unix.AF_INET && family != unix.AF_INET6 {
		return true, nil
	}
	var priority, table uint32
	usual = action == unix.FR_ACT_TO_TBL
	err = each(attributes, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.FRA_PRIORITY:
			priority = ad.Uint32()
		case unix.FRA_TABLE:
			table = ad.Uint32()
		case unix.FRA_SRC, unix.FRA_DST, unix.FRA_IIFNAME, unix.FRA_OIFNAME, unix.FRA_FWMARK, unix.FRA_TUN_ID,
			unix.FRA_IP_PROTO, unix.FRA_SPORT_RANGE, unix.FRA_DPORT_RANGE, unix.FRA_UID_RANGE, unix.FRA_L3MDEV:
			usual = false
		}
	})
	type rule struct{ priority, table uint32 }
	return usual && slices.Contains([]rule{
		{0, unix.RT_TABLE_LOCAL}, {32766, unix.RT_TABLE_MAIN}, {32767, unix.RT_TABLE_DEFAULT},
	}, rule{priority, table}), err
}
