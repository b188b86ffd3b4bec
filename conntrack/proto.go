package conntrack

import (
	"fmt"
	"strconv"
)

// Proto is an IP protocol number.
type Proto uint8

// Protocols that connection tracking knows by name.
const (
	ProtoICMP    Proto = 1   // IPPROTO_ICMP
	ProtoTCP     Proto = 6   // IPPROTO_TCP
	ProtoUDP     Proto = 17  // IPPROTO_UDP
	ProtoDCCP    Proto = 33  // IPPROTO_DCCP
	ProtoGRE     Proto = 47  // IPPROTO_GRE
	ProtoICMPv6  Proto = 58  // IPPROTO_ICMPV6
	ProtoSCTP    Proto = 132 // IPPROTO_SCTP
	ProtoUDPLite Proto = 136 // IPPROTO_UDPLITE
)

// HasPorts tells whether flows of the protocol have ports: TCP, UDP,
// UDP-Lite, SCTP and DCCP.
func (p Proto) HasPorts() bool {
	switch p {
	case ProtoTCP, ProtoUDP, ProtoUDPLite, ProtoSCTP, ProtoDCCP:
		return true
	}
	return false
}

// String returns the name that conntrack(8) uses, such as "udplite", or the
// number for protocols that have none there.
func (p Proto) String() string {
	switch p {
	case ProtoICMP:
		return "icmp"
	case ProtoTCP:
		return "tcp"
	case ProtoUDP:
		return "udp"
	case ProtoDCCP:
		return "dccp"
	case ProtoGRE:
		return "gre"
	case ProtoICMPv6:
		return "icmpv6"
	case ProtoSCTP:
		return "sctp"
	case ProtoUDPLite:
		return "udplite"
	}
	return strconv.Itoa(int(p))
}

// ParseProto reads a protocol by the name that [Proto.String] prints or by its
// number from 0 to 255.
func ParseProto(s string) (Proto, error) {
	for _, p := range []Proto{ProtoICMP, ProtoTCP, ProtoUDP, ProtoDCCP, ProtoGRE,
		ProtoICMPv6, ProtoSCTP, ProtoUDPLite} {
		if s == p.String() {
			return p, nil
		}
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil {
		return 0, fmt.Errorf("conntrack: no such protocol: %q", s)
	}
	return Proto(n), nil
}

// Family is an address family; the zero value means both.
type Family uint8

// Address families, with the kernel's values.
const (
	FamilyBoth Family = 0  // AF_UNSPEC
	FamilyIPv4 Family = 2  // AF_INET
	FamilyIPv6 Family = 10 // AF_INET6
)

// String returns "ipv4", "ipv6", "both", or the number of any other family.
func (f Family) String() string {
	switch f {
	case FamilyBoth:
		return "both"
	case FamilyIPv4:
		return "ipv4"
	case FamilyIPv6:
		return "ipv6"
	}
	return strconv.Itoa(int(f))
}

// ParseFamily reads "ipv4", "ipv6" or "both".
func ParseFamily(s string) (Family, error) {
	for _, f := range []Family{FamilyBoth, FamilyIPv4, FamilyIPv6} {
		if s == f.String() {
			return f, nil
		}
	}
	return 0, fmt.Errorf("conntrack: no such family: %q", s)
}
