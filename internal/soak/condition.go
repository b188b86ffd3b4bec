//go:build linux

package soak

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"

	"flowcut/conntrack"
	"flowcut/internal/lab"
)

// Condition is one flag of a selector: its words, and what it means by what
// the lab knows of a flow.
type Condition struct {
	Words []string
	holds func(f *flow) bool
	by    bool // it looks at more than family and protocol
}

// flow is what the lab knows of a connection: what its ends call themselves
// and each other, and how the gateway was told to treat it.
type flow struct {
	group       *Group
	end         *lab.End
	orig, reply conntrack.Tuple // as originator and responder send
	mark        uint32
	zone        uint16
}

func (f *flow) tcp() bool { return f.orig.Proto == conntrack.ProtoTCP }

func (f *flow) dnat() bool {
	return f.orig.Dst != f.reply.Src || f.orig.DstPort != f.reply.SrcPort
}

func (f *flow) snat() bool {
	return f.orig.Src != f.reply.Dst || f.orig.SrcPort != f.reply.DstPort
}

// condition makes a condition; not negates it.
func condition(not bool, flag, value string, holds func(f *flow) bool) Condition {
	word := "--" + flag
	if value != "" {
		word += "=" + value
	}
	c := Condition{Words: []string{word}, holds: holds, by: flag != "family" && flag != "proto"}
	if not {
		c.Words = []string{"!", word}
		c.holds = func(f *flow) bool { return !holds(f) }
	}
	return c
}

// meant tells whether all conditions hold for a flow.
func (s *Scenario) meant(f *flow) bool {
	for _, c := range s.Select {
		if !c.holds(f) {
			return false
		}
	}
	return true
}

// picker draws conditions that are true of one flow.
type picker struct {
	*rand.Rand
	of   *flow
	kind *gatewayKind
}

// conditions draws one to four conditions on different fields.
func (p picker) conditions() []Condition {
	draws := []func() Condition{
		p.family, p.proto, p.srcAddr, p.dstAddr, p.replySrc, p.replyDst, p.host,
		p.nat, p.nat, p.status, p.entry, p.dstPort, p.dstPort, p.replyPort, p.srcPort,
	}
	var out []Condition
	used := map[string]bool{}
	for range 1 + p.IntN(4) {
		c := draws[p.IntN(len(draws))]()
		name, _, _ := strings.Cut(c.Words[len(c.Words)-1], "=")
		if used[name] {
			continue
		}
		used[name] = true
		out = append(out, c)
	}
	return out
}

func (p picker) family() Condition {
	v6 := p.of.orig.Src.Is6()
	return condition(false, "family", map[bool]string{false: "ipv4", true: "ipv6"}[v6],
		func(f *flow) bool { return f.orig.Src.Is6() == v6 })
}

func (p picker) proto() Condition {
	name, mine := protoName(p.of.orig.Proto), p.of.orig.Proto
	switch p.IntN(3) {
	case 0:
		return condition(false, "proto", name, func(f *flow) bool { return f.orig.Proto == mine })
	case 1:
		return condition(false, "proto", name+",sctp", func(f *flow) bool { return f.orig.Proto == mine })
	}
	not := conntrack.ProtoUDP
	if mine == not {
		not = conntrack.ProtoTCP
	}
	return condition(true, "proto", protoName(not), func(f *flow) bool { return f.orig.Proto == not })
}

func protoName(p conntrack.Proto) string {
	return map[conntrack.Proto]string{
		conntrack.ProtoTCP: "tcp", conntrack.ProtoUDP: "udp", conntrack.ProtoICMP: "icmp", conntrack.ProtoICMPv6: "icmpv6",
	}[p]
}

func (p picker) srcAddr() Condition {
	return p.addr("orig-src", p.of.orig.Src, func(f *flow) []netip.Addr { return []netip.Addr{f.orig.Src} })
}

func (p picker) dstAddr() Condition {
	return p.addr("orig-dst", p.of.orig.Dst, func(f *flow) []netip.Addr { return []netip.Addr{f.orig.Dst} })
}

func (p picker) replySrc() Condition {
	return p.addr("reply-src", p.of.reply.Src, func(f *flow) []netip.Addr { return []netip.Addr{f.reply.Src} })
}

func (p picker) replyDst() Condition {
	return p.addr("reply-dst", p.of.reply.Dst, func(f *flow) []netip.Addr { return []netip.Addr{f.reply.Dst} })
}

func (p picker) host() Condition {
	all := func(f *flow) []netip.Addr {
		return []netip.Addr{f.orig.Src, f.orig.Dst, f.reply.Src, f.reply.Dst}
	}
	return p.addr("host", all(p.of)[p.IntN(4)], all)
}

// addr draws a list of addresses that a is in, or a negated one that none of
// the flow's is in.
func (p picker) addr(flag string, a netip.Addr, of func(*flow) []netip.Addr) Condition {
	not := p.IntN(4) == 0
	var list addrList
	if not {
		for _, other := range everybody() {
			if !has(of(p.of), other) && p.IntN(4) == 0 {
				list = append(list, single(other))
			}
		}
		list = append(list, single(netip.MustParseAddr("192.0.2.77")))
	} else {
		list = append(list, p.around(a))
		for p.IntN(3) == 0 {
			list = append(list, p.around(everybody()[p.IntN(len(everybody()))]))
		}
	}
	return condition(not, flag, list.String(), func(f *flow) bool {
		for _, x := range of(f) {
			if list.has(x) {
				return true
			}
		}
		return false
	})
}

func has(list []netip.Addr, a netip.Addr) bool {
	for _, x := range list {
		if x == a {
			return true
		}
	}
	return false
}

// addrs is an address, a prefix or a range, as it is written.
type addrs struct {
	first, last netip.Addr
	text        string
}

func single(a netip.Addr) addrs { return addrs{a, a, a.String()} }

// around draws a way to write a.
func (p picker) around(a netip.Addr) addrs {
	switch p.IntN(4) {
	case 0:
		bits := a.BitLen() - 1 - p.IntN(8)
		x := netip.PrefixFrom(a, bits).Masked()
		last := x.Addr()
		for x.Contains(last.Next()) {
			last = last.Next()
		}
		return addrs{x.Addr(), last, x.String()}
	case 1:
		last := a
		for range p.IntN(4) {
			last = last.Next()
		}
		return addrs{a, last, a.String() + "-" + last.String()}
	}
	return single(a)
}

type addrList []addrs

func (l addrList) has(a netip.Addr) bool {
	for _, x := range l {
		if x.first.Is6() == a.Is6() && x.first.Compare(a) <= 0 && a.Compare(x.last) <= 0 {
			return true
		}
	}
	return false
}

func (l addrList) String() string {
	var texts []string
	for _, x := range l {
		texts = append(texts, x.text)
	}
	return strings.Join(texts, ",")
}

func (p picker) dstPort() Condition {
	return p.port("orig-port-dst", p.of.orig.DstPort, func(f *flow) uint16 { return f.orig.DstPort })
}

func (p picker) replyPort() Condition {
	return p.port("reply-port-src", p.of.reply.SrcPort, func(f *flow) uint16 { return f.reply.SrcPort })
}

// srcPort means some of the connections of a group whose source ports are
// known before they are made.
func (p picker) srcPort() Condition {
	g := p.of.group
	if g.First == 0 {
		return p.dstPort()
	}
	from := g.First
	to := from + uint16(p.IntN(g.Count))
	return condition(false, "orig-port-src", fmt.Sprintf("%d-%d", from, to),
		func(f *flow) bool { return f.orig.HasPorts() && from <= f.orig.SrcPort && f.orig.SrcPort <= to })
}

// port draws a list of ports that n is in, or a negated one without it.
func (p picker) port(flag string, n uint16, of func(*flow) uint16) Condition {
	if !p.of.orig.HasPorts() {
		return p.proto()
	}
	from, to := n, n
	text := fmt.Sprint(n)
	if p.IntN(3) == 0 {
		from, to = n-uint16(p.IntN(3)), n+uint16(p.IntN(3))
		text = fmt.Sprintf("%d-%d,9", from, to) // nobody uses port 9
	}
	in := func(f *flow) bool { return from <= of(f) && of(f) <= to }
	if p.IntN(5) == 0 { // another one, negated
		other := n + 1
		c := condition(true, flag, fmt.Sprint(other), nil)
		c.holds = func(f *flow) bool { return f.orig.HasPorts() && of(f) != other }
		return c
	}
	return condition(false, flag, text, func(f *flow) bool { return f.orig.HasPorts() && in(f) })
}

// nat draws a condition on translation.
func (p picker) nat() Condition {
	f := p.of
	byDst := func(f *flow) (bool, netip.Addr, uint16) { return f.dnat(), f.reply.Src, f.reply.SrcPort }
	bySrc := func(f *flow) (bool, netip.Addr, uint16) { return f.snat(), f.reply.Dst, f.reply.DstPort }
	type way = func(*flow) (bool, netip.Addr, uint16)
	draw := []struct {
		flag string
		ways []way
	}{{"dst-nat", []way{byDst}}, {"src-nat", []way{bySrc}}, {"any-nat", []way{byDst, bySrc}}}[p.IntN(3)]
	translated := func(f *flow, a netip.Addr, port uint16) bool {
		for _, w := range draw.ways {
			is, to, toPort := w(f)
			if is && (!a.IsValid() || a == to) && (port == 0 || f.orig.HasPorts() && port == toPort) {
				return true
			}
		}
		return false
	}
	if !translated(f, netip.Addr{}, 0) {
		return condition(true, draw.flag, "", func(f *flow) bool { return translated(f, netip.Addr{}, 0) })
	}
	to, port, text := netip.Addr{}, uint16(0), ""
	if p.IntN(2) == 0 {
		for _, w := range draw.ways {
			if is, a, n := w(f); is && !to.IsValid() {
				to, port, text = a, n, a.String()
			}
		}
		if draw.flag == "dst-nat" && f.orig.HasPorts() && p.IntN(2) == 0 {
			text = netip.AddrPortFrom(to, port).String()
		} else {
			port = 0
		}
	}
	return condition(false, draw.flag, text, func(f *flow) bool { return translated(f, to, port) })
}

// status draws a status or a TCP state.
func (p picker) status() Condition {
	f := p.of
	switch p.IntN(4) {
	case 0:
		return condition(!f.dnat(), "status", "DST_NAT", (*flow).dnat)
	case 1:
		return condition(!f.snat(), "status", "SRC_NAT", (*flow).snat)
	case 2:
		if f.tcp() {
			return condition(false, "state", "ESTABLISHED", (*flow).tcp)
		}
	}
	return condition(false, "status", "SEEN_REPLY", func(*flow) bool { return true })
}

// entry draws what the gateway's rules write into entries.
func (p picker) entry() Condition {
	f := p.of
	switch {
	case p.kind.zones && f.zone != 0:
		zone := f.zone
		return condition(false, "zone", fmt.Sprint(zone), func(f *flow) bool { return f.zone == zone })
	case p.kind.zones:
		return condition(true, "zone", fmt.Sprint(zoned), func(f *flow) bool { return f.zone == zoned })
	case p.kind.marks && f.mark != 0:
		mark := f.mark
		return condition(false, "mark", fmt.Sprintf("%#x/0xff", mark), func(f *flow) bool { return f.mark&0xff == mark })
	case p.kind.marks:
		return condition(true, "mark", fmt.Sprintf("%#x", markOf[1]), func(f *flow) bool { return f.mark == markOf[1] })
	}
	return p.dstPort()
}
