package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"flowcut/conntrack"
)

// rtnl asks the kernel for routes, neighbours and devices.
type rtnl struct{ nl *netlink.Conn }

func openRTNL() (rtnl, error) {
	nl, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return rtnl{}, fmt.Errorf("probe: open rtnetlink: %w", err)
	}
	_ = nl.SetOption(netlink.ExtendedAcknowledge, true) // detail only
	return rtnl{nl}, nil
}

func (r rtnl) close() error { return r.nl.Close() }

// ask sends a message: the header of its kind, then attributes.
func (r rtnl) ask(kind netlink.HeaderType, flags netlink.HeaderFlags, header []byte, attrs func(*netlink.AttributeEncoder)) ([]netlink.Message, error) {
	e := netlink.NewAttributeEncoder()
	if attrs != nil {
		attrs(e)
	}
	b, err := e.Encode()
	if err != nil {
		return nil, err
	}
	return r.nl.Execute(netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request | flags},
		Data:   append(header, b...),
	})
}

// query is what a route is looked up by; what is zero does not matter.
type query struct {
	dst, src     netip.Addr
	iif          int // the device that the packet comes in by; 0: made by this host
	mark         uint32
	proto        conntrack.Proto // 0: without ports
	sport, dport uint16
}

// route is where packets go.
type route struct {
	dev   int
	hop   netip.Addr // the neighbour that gets them
	local bool       // this host is where they go
}

// route looks up a route as the kernel does for packets: struct rtmsg.
func (r rtnl) route(q query) (route, error) {
	header := make([]byte, unix.SizeofRtMsg)
	header[0], header[1] = family(q.dst), byte(q.dst.BitLen()) // rtm_family, rtm_dst_len
	if q.src.IsValid() {
		header[2] = byte(q.src.BitLen()) // rtm_src_len
	}
	msgs, err := r.ask(unix.RTM_GETROUTE, 0, header, func(e *netlink.AttributeEncoder) {
		e.Bytes(unix.RTA_DST, q.dst.AsSlice())
		if q.src.IsValid() {
			e.Bytes(unix.RTA_SRC, q.src.AsSlice())
		}
		if q.iif != 0 {
			e.Uint32(unix.RTA_IIF, uint32(q.iif))
		}
		if q.mark != 0 {
			e.Uint32(unix.RTA_MARK, q.mark)
		}
		if q.proto != 0 {
			e.Uint8(unix.RTA_IP_PROTO, uint8(q.proto))
			e.Bytes(unix.RTA_SPORT, binary.BigEndian.AppendUint16(nil, q.sport))
			e.Bytes(unix.RTA_DPORT, binary.BigEndian.AppendUint16(nil, q.dport))
		}
	})
	if err == nil && len(msgs) == 0 {
		err = errors.New("no answer")
	}
	if err != nil {
		return route{}, fmt.Errorf("route to %s: %w", q.dst, err)
	}
	return parseRoute(q.dst, msgs[0].Data)
}

func parseRoute(dst netip.Addr, b []byte) (route, error) {
	rt := route{hop: dst}
	d, err := attributes(b, unix.SizeofRtMsg)
	if err != nil {
		return route{}, fmt.Errorf("route to %s: %w", dst, err)
	}
	for d.Next() {
		switch d.Type() {
		case unix.RTA_OIF:
			rt.dev = int(d.Uint32())
		case unix.RTA_GATEWAY:
			rt.hop, _ = netip.AddrFromSlice(d.Bytes())
		case unix.RTA_ENCAP:
			return route{}, fmt.Errorf("route to %s: packets are encapsulated on the way", dst)
		case unix.RTA_VIA: // struct rtvia: family, address
			if via := d.Bytes(); len(via) > 2 {
				rt.hop, _ = netip.AddrFromSlice(via[2:])
			}
		}
	}
	if err := d.Err(); err != nil {
		return route{}, fmt.Errorf("route to %s: %w", dst, err)
	}
	switch kind := b[7]; kind { // rtm_type
	case unix.RTN_LOCAL:
		return route{dev: rt.dev, local: true}, nil
	case unix.RTN_UNICAST:
		if rt.dev == 0 || !rt.hop.IsValid() {
			return route{}, fmt.Errorf("route to %s: has no next hop", dst)
		}
		return rt, nil
	default:
		return route{}, fmt.Errorf("route to %s: is of type %d, not unicast: %w", dst, kind, unix.EHOSTUNREACH)
	}
}

// policy is what a family's routing rules look at besides the destination.
type policy struct {
	any   bool // something
	ports bool // ports, or the protocol
}

// policy reads the routing rules: struct fib_rule_hdr, enum FRA_*.
func (r rtnl) policy(six bool) (policy, error) {
	header := make([]byte, unix.SizeofRtMsg)
	header[0] = unix.AF_INET
	if six {
		header[0] = unix.AF_INET6
	}
	msgs, err := r.ask(unix.RTM_GETRULE, netlink.Dump, header, nil)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return policy{}, nil // a kernel without rules
	}
	if err != nil {
		return policy{}, fmt.Errorf("read the routing rules: %w", err)
	}
	const toTable = 1 // FR_ACT_TO_TBL
	var p policy
	for _, m := range msgs {
		d, err := attributes(m.Data, unix.SizeofRtMsg)
		if err != nil {
			return policy{}, fmt.Errorf("read the routing rules: %w", err)
		}
		if m.Data[3] != 0 || m.Data[7] != toTable { // tos, action
			p.any = true
		}
		for d.Next() {
			switch d.Type() {
			case unix.FRA_TABLE, unix.FRA_PRIORITY, unix.FRA_PROTOCOL, unix.FRA_PAD,
				unix.FRA_SUPPRESS_PREFIXLEN, unix.FRA_SUPPRESS_IFGROUP:
			case unix.FRA_IP_PROTO, unix.FRA_SPORT_RANGE, unix.FRA_DPORT_RANGE:
				p.any, p.ports = true, true
			default:
				p.any = true
			}
		}
		if err := d.Err(); err != nil {
			return policy{}, fmt.Errorf("read the routing rules: %w", err)
		}
	}
	return p, nil
}

// neighbour is what the kernel knows of one: struct ndmsg.
type neighbour struct {
	state uint16 // NUD_*
	addr  []byte
}

// NUD_VALID: the address may be used.
const nudValid = unix.NUD_PERMANENT | unix.NUD_NOARP | unix.NUD_REACHABLE | unix.NUD_PROBE | unix.NUD_STALE | unix.NUD_DELAY

func (r rtnl) neighbour(dev int, hop netip.Addr) (neighbour, error) {
	header := neighbourHeader(dev, hop)
	msgs, err := r.ask(unix.RTM_GETNEIGH, 0, header, func(e *netlink.AttributeEncoder) { e.Bytes(unix.NDA_DST, hop.AsSlice()) })
	if errors.Is(err, unix.ENOENT) || err == nil && len(msgs) == 0 {
		return neighbour{}, nil
	}
	if err != nil {
		return neighbour{}, fmt.Errorf("look for neighbour %s: %w", hop, err)
	}
	n, _, err := parseNeighbour(msgs[0].Data)
	return n, err
}

func parseNeighbour(b []byte) (n neighbour, ip netip.Addr, err error) {
	d, err := attributes(b, unix.SizeofNdMsg)
	if err != nil {
		return n, ip, fmt.Errorf("read a neighbour: %w", err)
	}
	n.state = binary.NativeEndian.Uint16(b[8:])
	for d.Next() {
		switch d.Type() {
		case unix.NDA_LLADDR:
			n.addr = d.Bytes()
		case unix.NDA_DST:
			ip, _ = netip.AddrFromSlice(d.Bytes())
		}
	}
	return n, ip, d.Err()
}

// resolve makes the kernel find a neighbour's address, or try out the one that
// it has, as a packet would. Needs CAP_NET_ADMIN.
func (r rtnl) resolve(dev int, hop netip.Addr) error {
	header := neighbourHeader(dev, hop)
	header[10] = unix.NTF_USE // ndm_flags
	_, err := r.ask(unix.RTM_NEWNEIGH, netlink.Create|netlink.Acknowledge, header,
		func(e *netlink.AttributeEncoder) { e.Bytes(unix.NDA_DST, hop.AsSlice()) })
	if err != nil {
		return fmt.Errorf("ask for neighbour %s: %w", hop, err)
	}
	return nil
}

func neighbourHeader(dev int, hop netip.Addr) []byte {
	b := make([]byte, unix.SizeofNdMsg)
	b[0] = family(hop)
	binary.NativeEndian.PutUint32(b[4:], uint32(dev)) // ndm_ifindex
	return b
}

// device is what sending by one needs to know: struct ifinfomsg.
type device struct {
	kind  uint16 // ARPHRD_*
	flags uint32 // IFF_*
	addr  []byte
}

func (r rtnl) device(index int) (device, error) {
	header := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(header[4:], uint32(index)) // ifi_index
	msgs, err := r.ask(unix.RTM_GETLINK, 0, header, nil)
	if err == nil && len(msgs) == 0 {
		err = unix.ENODEV
	}
	if err != nil {
		return device{}, fmt.Errorf("look at device %d: %w", index, err)
	}
	b := msgs[0].Data
	d, err := attributes(b, unix.SizeofIfInfomsg)
	if err != nil {
		return device{}, fmt.Errorf("look at device %d: %w", index, err)
	}
	dev := device{kind: binary.NativeEndian.Uint16(b[2:]), flags: binary.NativeEndian.Uint32(b[8:])}
	for d.Next() {
		if d.Type() == unix.IFLA_ADDRESS {
			dev.addr = d.Bytes()
		}
	}
	return dev, d.Err()
}

// linkLocal returns which devices have link-local neighbours, and which have
// each address of this host.
func (r rtnl) linkLocal() (neighbours, own map[netip.Addr][]int, err error) {
	neighbours, own = map[netip.Addr][]int{}, map[netip.Addr][]int{}
	header := make([]byte, unix.SizeofNdMsg)
	header[0] = unix.AF_INET6
	msgs, err := r.ask(unix.RTM_GETNEIGH, netlink.Dump, header, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("list neighbours: %w", err)
	}
	for _, m := range msgs {
		_, ip, err := parseNeighbour(m.Data)
		if err != nil {
			return nil, nil, err
		}
		if ip.IsLinkLocalUnicast() {
			neighbours[ip] = append(neighbours[ip], int(binary.NativeEndian.Uint32(m.Data[4:])))
		}
	}
	header = make([]byte, unix.SizeofIfAddrmsg)
	header[0] = unix.AF_INET6
	if msgs, err = r.ask(unix.RTM_GETADDR, netlink.Dump, header, nil); err != nil {
		return nil, nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, m := range msgs {
		d, err := attributes(m.Data, unix.SizeofIfAddrmsg)
		if err != nil {
			return nil, nil, fmt.Errorf("list addresses: %w", err)
		}
		for d.Next() {
			if ip, ok := netip.AddrFromSlice(d.Bytes()); ok && d.Type() == unix.IFA_ADDRESS {
				own[ip] = append(own[ip], int(binary.NativeEndian.Uint32(m.Data[4:]))) // ifa_index
			}
		}
		if err := d.Err(); err != nil {
			return nil, nil, fmt.Errorf("list addresses: %w", err)
		}
	}
	return neighbours, own, nil
}

// attributes returns those behind a message's header.
func attributes(b []byte, header int) (*netlink.AttributeDecoder, error) {
	if len(b) < header {
		return nil, fmt.Errorf("a message of %d bytes, less than its header of %d", len(b), header)
	}
	return netlink.NewAttributeDecoder(b[header:])
}

func family(a netip.Addr) byte {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}
