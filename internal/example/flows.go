// Package example has flows of every kind, for tests.
package example

import (
	"net/netip"

	"flowcut/conntrack"
)

// Flows returns a flow of each kind, by name.
func Flows() map[string]*conntrack.Flow {
	const (
		dnat, snat     = conntrack.StatusDstNAT, conntrack.StatusSrcNAT
		seen, assured  = conntrack.StatusSeenReply, conntrack.StatusAssured
		tcp, udp, sctp = conntrack.ProtoTCP, conntrack.ProtoUDP, conntrack.ProtoSCTP
		hasTCP         = conntrack.AttrReply | conntrack.AttrTCP
	)
	shaken := conntrack.TCP{State: conntrack.TCPEstablished, OrigFlags: 0x23, ReplyFlags: 0x23, OrigWScale: 7, ReplyWScale: 7}
	adopted := conntrack.TCP{State: conntrack.TCPEstablished, OrigFlags: 0x0a, ReplyFlags: 0x0a}
	return map[string]*conntrack.Flow{
		"dnat": {Has: hasTCP, Status: dnat | seen | assured, TCP: shaken,
			Orig: Ports(tcp, "203.0.113.2:47274", "203.0.113.1:5201"), Reply: Ports(tcp, "192.168.1.100:5201", "203.0.113.2:47274")},
		"dnat6": {Has: hasTCP, Status: dnat | seen | assured, TCP: shaken,
			Orig: Ports(tcp, "[2001:db8::2]:40000", "[2001:db8:1::1]:443"), Reply: Ports(tcp, "[2001:db8:2::1]:8443", "[2001:db8::2]:40000")},
		"zombie": {Has: hasTCP, Status: snat | seen | assured, TCP: adopted,
			Orig: Ports(tcp, "192.168.1.100:80", "203.0.113.2:47275"), Reply: Ports(tcp, "203.0.113.2:47275", "203.0.113.1:8080")},
		"both": {Has: hasTCP | conntrack.AttrMark, Status: dnat | snat | seen | assured, TCP: shaken, Mark: 0x15,
			Orig: Ports(tcp, "192.168.1.6:40000", "203.0.113.1:8443"), Reply: Ports(tcp, "192.168.1.100:443", "192.168.1.1:61000")},
		"masquerade": {Has: conntrack.AttrReply, Status: snat | seen,
			Orig: Ports(udp, "192.168.1.5:5000", "198.51.100.9:53"), Reply: Ports(udp, "198.51.100.9:53", "203.0.113.1:61000")},
		"unreplied": {Orig: Ports(udp, "192.168.1.7:5000", "198.51.100.9:53")},
		"zone":      {Has: conntrack.AttrZone, Zone: 7, Orig: Ports(udp, "192.168.1.7:5000", "198.51.100.9:53")},
		"orig-zone": {Has: conntrack.AttrOrigZone, OrigZone: 8, Orig: Ports(udp, "192.168.1.7:5001", "198.51.100.9:53")},
		"udplite":   {Orig: Ports(conntrack.ProtoUDPLite, "192.168.1.7:5000", "198.51.100.9:53")},
		"sctp": {Has: conntrack.AttrSCTP, SCTP: conntrack.SCTP{State: 4, OrigVTag: 5, ReplyVTag: 6},
			Status: seen, Orig: Ports(sctp, "192.168.1.7:5000", "198.51.100.9:53")},
		"icmp": {Has: conntrack.AttrReply, Status: snat,
			Orig: ICMP(conntrack.ProtoICMP, "192.168.1.6", "198.51.100.9", 8), Reply: ICMP(conntrack.ProtoICMP, "198.51.100.9", "203.0.113.1", 0)},
		"icmpv6": {Orig: ICMP(conntrack.ProtoICMPv6, "2001:db8::1", "2001:db8::2", 128)},
		"gre":    {Orig: Ports(conntrack.ProtoGRE, "192.168.1.6:1", "198.51.100.9:2")},
		"esp":    {Orig: bare(50, "192.168.1.6", "198.51.100.9")},
		"compat": {Orig: bare(200, "::1.2.3.4", "::ffff:1.2.3.4")},
	}
}

// Ports returns a tuple of a protocol with ports; src and dst are "ADDR:PORT".
func Ports(p conntrack.Proto, src, dst string) conntrack.Tuple {
	a, b := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	return conntrack.Tuple{Proto: p, Src: a.Addr(), SrcPort: a.Port(), Dst: b.Addr(), DstPort: b.Port()}
}

func bare(p conntrack.Proto, src, dst string) conntrack.Tuple {
	return conntrack.Tuple{Proto: p, Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst)}
}

// ICMP returns a tuple of ICMP or ICMPv6, of a type; its id is 77.
func ICMP(p conntrack.Proto, src, dst string, kind uint8) conntrack.Tuple {
	t := bare(p, src, dst)
	t.ICMPID, t.ICMPType = 77, kind
	return t
}
