package selector

import (
	"slices"
	"strconv"
	"strings"

	"flowcut/conntrack"
)

// Protos is a list of protocols.
type Protos struct {
	Set     bool
	Negated bool
	List    []conntrack.Proto // sorted
}

// protoNames are the names that --proto takes; the first of a number is the
// one it prints. Source: IANA's protocol numbers, conntrack(8)'s names.
var protoNames = []struct {
	name   string
	number conntrack.Proto
}{
	{"tcp", conntrack.ProtoTCP},
	{"udp", conntrack.ProtoUDP},
	{"udplite", conntrack.ProtoUDPLite},
	{"sctp", conntrack.ProtoSCTP},
	{"dccp", conntrack.ProtoDCCP},
	{"icmp", conntrack.ProtoICMP},
	{"icmpv6", conntrack.ProtoICMPv6},
	{"ipv6-icmp", conntrack.ProtoICMPv6},
	{"gre", conntrack.ProtoGRE},
	{"igmp", 2},
	{"ipip", 4},
	{"ipv6", 41},
	{"esp", 50},
	{"ah", 51},
	{"ospf", 89},
	{"pim", 103},
	{"vrrp", 112},
	{"l2tp", 115},
}

// hasPorts reports whether flows of a protocol have ports.
func hasPorts(p conntrack.Proto) bool {
	switch p {
	case conntrack.ProtoTCP, conntrack.ProtoUDP, conntrack.ProtoUDPLite, conntrack.ProtoSCTP, conntrack.ProtoDCCP:
		return true
	}
	return false
}

func parseProto(s string) (conntrack.Proto, *Error) {
	for _, p := range protoNames {
		if strings.EqualFold(s, p.name) {
			return p.number, nil
		}
	}
	n, err := parseNumber(s, 255)
	if err != nil && err.Problem == "not a number" {
		return 0, wrong(s, "unknown protocol", "write tcp, udp, udplite, sctp, dccp, icmp, icmpv6, gre or a number from 0 to 255")
	}
	return conntrack.Proto(n), err
}

func protoString(n conntrack.Proto) string {
	for _, p := range protoNames {
		if p.number == n {
			return p.name
		}
	}
	return strconv.Itoa(int(n))
}

// match reports whether the condition holds for a protocol.
func (l *Protos) match(p conntrack.Proto) bool {
	return !l.Set || slices.Contains(l.List, p) != l.Negated
}

// any reports whether the condition holds for a protocol of which ok is true.
func (l *Protos) any(ok func(conntrack.Proto) bool) bool {
	for p := range 256 {
		if l.match(conntrack.Proto(p)) && ok(conntrack.Proto(p)) {
			return true
		}
	}
	return false
}
