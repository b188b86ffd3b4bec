package conntrack

import "net/netip"

// tuple makes a tuple with ports.
func tuple(p Proto, src, dst string) Tuple {
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	return Tuple{Src: s.Addr(), Dst: d.Addr(), Proto: p, SrcPort: s.Port(), DstPort: d.Port()}
}

// portless makes a tuple of a protocol without ports.
func portless(p Proto, src, dst string) Tuple {
	return Tuple{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Proto: p}
}

// icmp makes an ICMP or ICMPv6 tuple.
func icmp(p Proto, src, dst string, typ uint8, id uint16) Tuple {
	t := portless(p, src, dst)
	t.ICMPType, t.ICMPID = typ, id
	return t
}
