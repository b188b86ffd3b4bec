package rtnl

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Family returns the address family of an address, AF_INET or AF_INET6.
func Family(a netip.Addr) byte {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// RouteRequest begins an RTM_GETROUTE for packets to an address: struct rtmsg
// with flags, RTM_F_*, and the address.
func RouteRequest(dst netip.Addr, flags uint32) []byte {
	b := make([]byte, unix.SizeofRtMsg, 128)
	b[0], b[1] = Family(dst), byte(dst.BitLen()) // rtm_family, rtm_dst_len
	binary.NativeEndian.PutUint32(b[8:], flags)
	return Append(b, unix.RTA_DST, dst.AsSlice())
}

// Route is where packets go.
type Route struct {
	Type    byte // RTN_*
	Devices []int
	Hop     netip.Addr // the neighbour that gets them; zero: whom they are for
	Encap   bool       // they are encapsulated on the way
}

// ParseRoute reads an answer to RTM_GETROUTE. It has several devices where
// RTM_F_FIB_MATCH was asked for and the route has several next hops.
func ParseRoute(data []byte) (r Route, err error) {
	fixed, err := Parse(data, unix.SizeofRtMsg, func(ad *Attr) {
		switch ad.Type() {
		case unix.RTA_OIF:
			r.Devices = append(r.Devices, int(ad.Uint32()))
		case unix.RTA_GATEWAY:
			r.Hop, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.RTA_VIA: // struct rtvia: family, address
			if via := ad.Bytes(); len(via) > 2 {
				r.Hop, _ = netip.AddrFromSlice(via[2:])
			}
		case unix.RTA_ENCAP:
			r.Encap = true
		case unix.RTA_MULTIPATH:
			ad.Do(func(b []byte) error {
				hops, err := parseHops(b)
				r.Devices = append(r.Devices, hops...)
				return err
			})
		}
	})
	if err != nil {
		return Route{}, err
	}
	r.Type = fixed[7] // rtm_type
	return r, nil
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

// Rule is one that chooses the table of routes: struct fib_rule_hdr.
type Rule struct {
	Family          byte
	TOS             byte
	Action          byte // FR_ACT_*
	Priority, Table uint32
	Src             netip.Prefix // zero: any
	Asks            []uint16     // what it asks about packets, FRA_*
}

// Rules lists the rules of a family, AF_UNSPEC for all. A kernel without rules
// has none.
func (c *Conn) Rules(family byte) ([]Rule, error) {
	header := make([]byte, unix.SizeofRtMsg) // struct fib_rule_hdr is as long
	header[0] = family
	msgs, err := c.Dump(unix.RTM_GETRULE, header)
	if err != nil && !Missing(err) {
		return nil, fmt.Errorf("list the routing rules: %w", err)
	}
	rules := make([]Rule, len(msgs))
	for i, m := range msgs {
		if rules[i], err = parseRule(m); err != nil {
			return nil, fmt.Errorf("list the routing rules: %w", err)
		}
	}
	return rules, nil
}

func parseRule(data []byte) (r Rule, err error) {
	var src netip.Addr
	fixed, err := Parse(data, unix.SizeofRtMsg, func(ad *Attr) {
		if ad.Type() == unix.FRA_SRC {
			src, _ = netip.AddrFromSlice(ad.Bytes())
		}
		switch typ := ad.Type(); typ {
		case unix.FRA_PRIORITY:
			r.Priority = ad.Uint32()
		case unix.FRA_TABLE:
			r.Table = ad.Uint32()
		case unix.FRA_PROTOCOL, unix.FRA_PAD, unix.FRA_SUPPRESS_PREFIXLEN, unix.FRA_SUPPRESS_IFGROUP:
		default:
			r.Asks = append(r.Asks, typ)
		}
	})
	if err != nil {
		return Rule{}, err
	}
	r.Family, r.TOS, r.Action = fixed[0], fixed[3], fixed[7]
	r.Src, _ = src.Prefix(int(fixed[2])) // src_len
	return r, nil
}

// Usual tells whether a rule is one that every host has.
func (r Rule) Usual() bool {
	type rule struct{ priority, table uint32 }
	return r.TOS == 0 && r.Action == unix.FR_ACT_TO_TBL && len(r.Asks) == 0 && slices.Contains([]rule{
		{0, unix.RT_TABLE_LOCAL}, {32766, unix.RT_TABLE_MAIN}, {32767, unix.RT_TABLE_DEFAULT},
	}, rule{r.Priority, r.Table})
}
