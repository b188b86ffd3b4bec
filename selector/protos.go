package selector

import (
	"slices"
	"strings"

	"flowcut/conntrack"
)

// Protos is a list of protocols.
type Protos struct {
	Set     bool
	Negated bool
	List    []conntrack.Proto // sorted
}

// protoNames are the names that --proto takes beyond conntrack(8)'s.
// Source: IANA, Assigned Internet Protocol Numbers.
var protoNames = []struct {
	name   string
	number conntrack.Proto
}{
	{"ipv6-icmp", conntrack.ProtoICMPv6},
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

func parseProto(s string) (conntrack.Proto, *Error) {
	name := strings.ToLower(s)
	for _, p := range protoNames {
		if name == p.name {
			return p.number, nil
		}
	}
	n, err := parseNumber(s, 255)
	if err == nil || err.Problem != "not a number" {
		return conntrack.Proto(n), err
	}
	p, perr := conntrack.ParseProto(name)
	if perr != nil {
		return 0, wrong(s, "unknown protocol", "write tcp, udp, udplite, sctp, dccp, icmp, icmpv6, gre or a number from 0 to 255")
	}
	return p, nil
}

func protoString(n conntrack.Proto) string {
	name := n.String()
	for _, p := range protoNames {
		if p.number == n && name[0] <= '9' { // a name of conntrack(8)'s goes first
			return p.name
		}
	}
	return name
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
