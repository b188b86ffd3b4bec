package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/rtnl"
)

// kernel is asked for routes, neighbours and devices.
type kernel struct{ *rtnl.Conn }

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

// route looks up a route as the kernel does for packets.
func (k kernel) route(q query) (rt route, err error) {
	err2 := k.routes([]query{q}, func(_ int, r route, e error) { rt, err = r, e })
	return rt, errors.Join(err, err2)
}

// routes looks up many, with one call.
func (k kernel) routes(list []query, answer func(i int, rt route, err error)) error {
	requests := make([][]byte, len(list))
	for i, q := range list {
		requests[i] = q.request()
	}
	return k.AskAll(unix.RTM_GETROUTE, 0, requests, func(i int, data []byte, err error) {
		var rt route
		if err == nil {
			rt, err = parseRoute(list[i].dst, data)
		}
		if err != nil {
			err = fmt.Errorf("route to %s: %w", list[i].dst, err)
		}
		answer(i, rt, err)
	})
}

func (q query) request() []byte {
	b := rtnl.RouteRequest(q.dst, 0)
	if q.src.IsValid() {
		b[2] = byte(q.src.BitLen()) // rtm_src_len
		b = rtnl.Append(b, unix.RTA_SRC, q.src.AsSlice())
	}
	if q.iif != 0 {
		b = rtnl.AppendUint32(b, unix.RTA_IIF, uint32(q.iif))
	}
	if q.mark != 0 {
		b = rtnl.AppendUint32(b, unix.RTA_MARK, q.mark)
	}
	if q.proto != 0 {
		b = rtnl.Append(b, unix.RTA_IP_PROTO, []byte{byte(q.proto)})
		b = rtnl.Append(b, unix.RTA_SPORT, binary.BigEndian.AppendUint16(nil, q.sport))
		b = rtnl.Append(b, unix.RTA_DPORT, binary.BigEndian.AppendUint16(nil, q.dport))
	}
	return b
}

func parseRoute(dst netip.Addr, data []byte) (route, error) {
	r, err := rtnl.ParseRoute(data)
	if err != nil {
		return route{}, err
	}
	rt := route{hop: r.Hop, local: r.Type == unix.RTN_LOCAL}
	if !rt.hop.IsValid() {
		rt.hop = dst
	}
	if len(r.Devices) > 0 {
		rt.dev = r.Devices[0]
	}
	switch {
	case r.Encap:
		return route{}, errors.New("packets are encapsulated on the way")
	case rt.local:
		return rt, nil
	case r.Type != unix.RTN_UNICAST:
		return route{}, fmt.Errorf("is of type %d, not unicast: %w", r.Type, unix.EHOSTUNREACH)
	case rt.dev == 0:
		return route{}, errors.New("has no device")
	}
	return rt, nil
}

// policy is what a family's routing rules look at besides the destination.
// What is the same for all packets that are asked about is not in it.
type policy struct {
	any                         bool // something
	mark, source, device, ports bool // marks, sources, devices that packets come in by, ports or the protocol
	sources                     []netip.Prefix
}

// policy reads the routing rules.
func (k kernel) policy(family byte) (p policy, err error) {
	rules, err := k.Rules(family)
	for _, r := range rules {
		p.any = p.any || r.TOS != 0 || r.Action != unix.FR_ACT_TO_TBL || len(r.Asks) > 0
		if r.Src.IsValid() {
			p.sources = append(p.sources, r.Src)
		}
		for _, what := range r.Asks {
			p.add(what)
		}
	}
	return p, err
}

// class returns the addresses that rules on sources take for the same: of two
// prefixes that an address is in, one is in the other, so the longest tells.
func (p *policy) class(a netip.Addr) netip.Prefix {
	var class netip.Prefix
	for _, s := range p.sources {
		if s.Contains(a) && s.Bits() >= class.Bits() {
			class = s
		}
	}
	return class
}

func exactly(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func (p *policy) add(what uint16) {
	const ( // enum FRA_*, since Linux 6.11
		dscp = iota + unix.FRA_DPORT_RANGE + 1
		flowLabel
		flowLabelMask
		sourcePortMask
		destinationPortMask
		dscpMask
	)
	switch what {
	case unix.FRA_DST, unix.FRA_GOTO, unix.FRA_FLOW, unix.FRA_OIFNAME, unix.FRA_TUN_ID, unix.FRA_UID_RANGE,
		dscp, dscpMask, flowLabel, flowLabelMask:
	case unix.FRA_FWMARK, unix.FRA_FWMASK:
		p.mark = true
	case unix.FRA_SRC:
		p.source = true
	case unix.FRA_IIFNAME, unix.FRA_L3MDEV:
		p.device = true
	case unix.FRA_IP_PROTO, unix.FRA_SPORT_RANGE, unix.FRA_DPORT_RANGE, sourcePortMask, destinationPortMask:
		p.ports = true
	default: // of a kernel that knows more
		p.mark, p.source, p.device, p.ports = true, true, true, true
	}
}

// neighbour is what the kernel knows of one: struct ndmsg.
type neighbour struct {
	state uint16 // NUD_*
	addr  []byte
}

// NUD_VALID: the address may be used.
const nudValid = unix.NUD_PERMANENT | unix.NUD_NOARP | unix.NUD_REACHABLE | unix.NUD_PROBE | unix.NUD_STALE | unix.NUD_DELAY

func (k kernel) neighbour(dev int, hop netip.Addr) (neighbour, error) {
	data, err := k.Ask(unix.RTM_GETNEIGH, 0, neighbourRequest(dev, hop, 0))
	if errors.Is(err, unix.ENOENT) {
		return neighbour{}, nil
	}
	if err != nil {
		return neighbour{}, fmt.Errorf("look for neighbour %s: %w", hop, err)
	}
	n, _, err := parseNeighbour(data)
	return n, err
}

func parseNeighbour(b []byte) (n neighbour, ip netip.Addr, err error) {
	fixed, err := rtnl.Parse(b, unix.SizeofNdMsg, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case unix.NDA_LLADDR:
			n.addr = ad.Bytes()
		case unix.NDA_DST:
			ip, _ = netip.AddrFromSlice(ad.Bytes())
		}
	})
	if err != nil {
		return n, ip, fmt.Errorf("read a neighbour: %w", err)
	}
	n.state = binary.NativeEndian.Uint16(fixed[8:])
	return n, ip, nil
}

// resolve makes the kernel find a neighbour's address, or try out the one that
// it has, as a packet would. Needs CAP_NET_ADMIN.
func (k kernel) resolve(dev int, hop netip.Addr) error {
	_, err := k.Ask(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_ACK, neighbourRequest(dev, hop, unix.NTF_USE))
	if err != nil {
		return fmt.Errorf("ask for neighbour %s: %w", hop, err)
	}
	return nil
}

func neighbourRequest(dev int, hop netip.Addr, flags byte) []byte {
	b := make([]byte, unix.SizeofNdMsg, 64)
	b[0] = rtnl.Family(hop)
	binary.NativeEndian.PutUint32(b[4:], uint32(dev)) // ndm_ifindex
	b[10] = flags                                     // ndm_flags
	return rtnl.Append(b, unix.NDA_DST, hop.AsSlice())
}

// device is what sending by one needs to know: struct ifinfomsg.
type device struct {
	kind  uint16 // ARPHRD_*
	flags uint32 // IFF_*
	addr  []byte
}

func (k kernel) device(index int) (d device, err error) {
	header := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(header[4:], uint32(index)) // ifi_index
	data, err := k.Ask(unix.RTM_GETLINK, 0, header)
	if err != nil {
		return d, fmt.Errorf("look at device %d: %w", index, err)
	}
	if d, err = parseDevice(data); err != nil {
		return d, fmt.Errorf("look at device %d: %w", index, err)
	}
	return d, nil
}

func parseDevice(data []byte) (d device, err error) {
	fixed, err := rtnl.Parse(data, unix.SizeofIfInfomsg, func(ad *rtnl.Attr) {
		if ad.Type() == unix.IFLA_ADDRESS {
			d.addr = ad.Bytes()
		}
	})
	if err != nil {
		return device{}, err
	}
	d.kind, d.flags = binary.NativeEndian.Uint16(fixed[2:]), binary.NativeEndian.Uint32(fixed[8:])
	return d, nil
}

// linkLocal returns which devices have link-local neighbours, and which have
// each address of this host.
func (k kernel) linkLocal() (neighbours, own map[netip.Addr][]int, err error) {
	neighbours, own = map[netip.Addr][]int{}, map[netip.Addr][]int{}
	header := make([]byte, unix.SizeofNdMsg)
	header[0] = unix.AF_INET6
	msgs, err := k.Dump(unix.RTM_GETNEIGH, header)
	if err != nil {
		return nil, nil, fmt.Errorf("list neighbours: %w", err)
	}
	for _, m := range msgs {
		_, ip, err := parseNeighbour(m)
		if err != nil {
			return nil, nil, err
		}
		if ip.IsLinkLocalUnicast() {
			neighbours[ip] = append(neighbours[ip], int(binary.NativeEndian.Uint32(m[4:])))
		}
	}
	header = make([]byte, unix.SizeofIfAddrmsg)
	header[0] = unix.AF_INET6
	if msgs, err = k.Dump(unix.RTM_GETADDR, header); err != nil {
		return nil, nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, m := range msgs {
		_, err := rtnl.Parse(m, unix.SizeofIfAddrmsg, func(ad *rtnl.Attr) {
			if ip, ok := netip.AddrFromSlice(ad.Bytes()); ok && ad.Type() == unix.IFA_ADDRESS {
				own[ip] = append(own[ip], int(binary.NativeEndian.Uint32(m[4:]))) // ifa_index
			}
		})
		if err != nil {
			return nil, nil, fmt.Errorf("list addresses: %w", err)
		}
	}
	return neighbours, own, nil
}
