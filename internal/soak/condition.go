//go:build linux

package soak

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"flowcut/conntrack"
	"flowcut/selector"
)

// Condition is one flag of a selector: its words, and what it means by what
// the lab knows of a flow.
type Condition struct {
	Words  []string
	holds  func(v *view) bool
	chosen bool // it looks at what the kernel chooses, as a connection is made
}

// condition makes a condition; not negates it.
func condition(not bool, flag, value string, holds func(v *view) bool) Condition {
	word := "--" + flag
	if value != "" {
		word += "=" + value
	}
	if not {
		return Condition{Words: []string{"!", word}, holds: func(v *view) bool { return !holds(v) }}
	}
	return Condition{Words: []string{word}, holds: holds}
}

// picker draws conditions that are true of one flow.
type picker struct {
	*rand.Rand
	x  *site
	of view
}

// conditionKind is a way to make one; nil if the flow has nothing of that kind.
type conditionKind struct {
	often int
	draw  func(picker) *Condition
}

var conditionKinds = []conditionKind{
	{2, picker.family}, {2, picker.proto},
	{2, picker.srcAddr}, {2, picker.dstAddr}, {2, picker.replySrc}, {2, picker.replyDst}, {2, picker.host},
	{4, picker.dstPort}, {2, picker.replyPort}, {2, picker.srcPort}, {1, picker.replyDstPort},
	{4, picker.nat}, {2, picker.status}, {1, picker.state}, {1, picker.pickedUp}, {1, picker.id},
	{3, picker.zone}, {3, picker.mark}, {3, picker.label},
}

// selection draws the selector and what is spared, now that the flows are there.
func (x *site) selection() {
	s := x.s
	if s.Select != nil {
		return
	}
	r := random(s.Seed, 1)
	of := x.flows[0]
	if tracked := slices.IndexFunc(x.flows, func(f *flow) bool { return f.entry != nil }); tracked >= 0 {
		of = x.flows[tracked]
	}
	s.Select, s.All = conditions(picker{r, x, of.view()}, r.IntN(2) == 0)
	if r.IntN(6) == 0 {
		s.Spare, _ = conditions(picker{r, x, x.flows[r.IntN(len(x.flows))].view()}, false)
	}
}

// conditions draws one to four conditions on different fields. all tells that
// they leave out whole families and protocols alone, which is asked for in
// words; it is false unless that may be.
func conditions(p picker, mayBeAll bool) (list []Condition, all bool) {
	for {
		list = nil
		used := map[string]bool{}
		for range 1 + p.IntN(4) {
			c := often(p.Rand, conditionKinds, func(k *conditionKind) int { return k.often }).draw(p)
			if c == nil {
				continue
			}
			name, _, _ := strings.Cut(c.Words[len(c.Words)-1], "=")
			if !used[name] {
				used[name] = true
				list = append(list, *c)
			}
		}
		// Contradictions are refused, and need another draw.
		s, err := selector.Parse(words(list))
		if err == nil && len(list) > 0 && (s.Narrows() || mayBeAll) {
			return list, !s.Narrows()
		}
	}
}

func some(c Condition) *Condition { return &c }

// chosen marks a condition that looks at what the kernel chooses.
func chosen(c Condition) *Condition {
	c.chosen = true
	return &c
}

func (p picker) family() *Condition {
	v6 := p.of.orig.Src.Is6()
	return some(condition(false, "family", map[bool]string{false: "ipv4", true: "ipv6"}[v6],
		func(v *view) bool { return v.orig.Src.Is6() == v6 }))
}

func (p picker) proto() *Condition {
	name, mine := protoName(p.of.orig.Proto), p.of.orig.Proto
	switch p.IntN(3) {
	case 0:
		return some(condition(false, "proto", name, func(v *view) bool { return v.orig.Proto == mine }))
	case 1:
		return some(condition(false, "proto", name+",sctp", func(v *view) bool { return v.orig.Proto == mine }))
	}
	not := conntrack.ProtoUDP
	if mine == not {
		not = conntrack.ProtoTCP
	}
	return some(condition(true, "proto", protoName(not), func(v *view) bool { return v.orig.Proto == not }))
}

func protoName(p conntrack.Proto) string {
	return map[conntrack.Proto]string{
		conntrack.ProtoTCP: "tcp", conntrack.ProtoUDP: "udp", conntrack.ProtoICMP: "icmp", conntrack.ProtoICMPv6: "icmpv6",
	}[p]
}

func (p picker) dstPort() *Condition {
	return p.port("orig-port-dst", func(v *view) uint16 { return v.orig.DstPort })
}

func (p picker) replyPort() *Condition {
	return p.port("reply-port-src", func(v *view) uint16 { return v.reply.SrcPort })
}

func (p picker) replyDstPort() *Condition {
	c := p.port("reply-port-dst", func(v *view) uint16 { return v.reply.DstPort })
	if c != nil {
		c.chosen = true
	}
	return c
}

// srcPort means some of the connections of a group whose source ports are in a row.
func (p picker) srcPort() *Condition {
	if !p.of.orig.HasPorts() {
		return nil
	}
	from := p.of.orig.SrcPort
	to := from + uint16(p.IntN(20))
	return chosen(condition(false, "orig-port-src", fmt.Sprintf("%d-%d", from, max(from, to)),
		func(v *view) bool {
			return v.orig.HasPorts() && from <= v.orig.SrcPort && v.orig.SrcPort <= max(from, to)
		}))
}

// port draws a list of ports that the flow's is in, or a negated one without it.
func (p picker) port(flag string, of func(*view) uint16) *Condition {
	if !p.of.orig.HasPorts() {
		return nil
	}
	n := of(&p.of)
	from, to := n, n
	text := fmt.Sprint(n)
	if p.IntN(3) == 0 && n < 1<<16-3 {
		from, to = n-uint16(p.IntN(3)), n+uint16(p.IntN(3))
		text = fmt.Sprintf("%d-%d,9", from, to) // nobody uses port 9
	}
	if p.IntN(5) == 0 { // another one, negated
		other := n ^ 1
		return some(Condition{Words: []string{"!", fmt.Sprintf("--%s=%d", flag, other)},
			holds: func(v *view) bool { return v.orig.HasPorts() && of(v) != other }})
	}
	return some(condition(false, flag, text, func(v *view) bool { return v.orig.HasPorts() && from <= of(v) && of(v) <= to }))
}

// translation is a kind of it: whether a flow is translated so, and to what.
type translation = func(*view) (bool, netip.Addr, uint16)

func byDst(v *view) (bool, netip.Addr, uint16) { return v.dnat(), v.reply.Src, v.reply.SrcPort }

func bySrc(v *view) (bool, netip.Addr, uint16) { return v.snat(), v.reply.Dst, v.reply.DstPort }

// nat draws a condition on translation.
func (p picker) nat() *Condition {
	draw := pick(p.Rand,
		struct {
			flag string
			ways []translation
		}{"dst-nat", []translation{byDst}},
		struct {
			flag string
			ways []translation
		}{"src-nat", []translation{bySrc}},
		struct {
			flag string
			ways []translation
		}{"any-nat", []translation{byDst, bySrc}})
	translated := func(v *view, a netip.Addr, port uint16) bool {
		return slices.ContainsFunc(draw.ways, func(w translation) bool {
			is, to, toPort := w(v)
			return is && (!a.IsValid() || a == to) && (port == 0 || v.orig.HasPorts() && port == toPort)
		})
	}
	if !translated(&p.of, netip.Addr{}, 0) {
		return some(condition(true, draw.flag, "", func(v *view) bool { return translated(v, netip.Addr{}, 0) }))
	}
	if p.IntN(2) == 0 {
		return some(condition(false, draw.flag, "", func(v *view) bool { return translated(v, netip.Addr{}, 0) }))
	}
	i := slices.IndexFunc(draw.ways, func(w translation) bool { is, _, _ := w(&p.of); return is })
	_, to, port := draw.ways[i](&p.of)
	text := to.String()
	if p.of.orig.HasPorts() && p.IntN(2) == 0 {
		text = netip.AddrPortFrom(to, port).String()
	} else {
		port = 0
	}
	return some(condition(false, draw.flag, text, func(v *view) bool { return translated(v, to, port) }))
}

func (p picker) status() *Condition {
	switch p.IntN(3) {
	case 0:
		return some(condition(!p.of.dnat(), "status", "DST_NAT", (*view).dnat))
	case 1:
		return some(condition(!p.of.snat(), "status", "SRC_NAT", (*view).snat))
	}
	return some(condition(false, "status", "SEEN_REPLY", func(*view) bool { return true }))
}

func (p picker) state() *Condition {
	if !p.of.tcp() {
		return nil
	}
	return some(condition(false, "state", pick(p.Rand, "ESTABLISHED", "ESTABLISHED,SYN_SENT2"), (*view).tcp))
}

func (p picker) pickedUp() *Condition {
	want := p.of.pickedUp
	return chosen(condition(false, "picked-up", map[bool]string{true: "yes", false: "no"}[want],
		func(v *view) bool { return v.pickedUp == want }))
}

// id means entries one by one, or leaves some out.
func (p picker) id() *Condition {
	if p.of.id == 0 {
		return nil
	}
	not := p.IntN(4) == 0
	ids := map[uint32]bool{}
	var texts []string
	for _, f := range p.x.flows {
		id := f.view().id
		if mine := id == p.of.id; id != 0 && !ids[id] && mine != not && (mine || p.IntN(3) == 0) {
			ids[id] = true
			texts = append(texts, fmt.Sprint(id))
		}
	}
	if len(texts) == 0 {
		return nil
	}
	return chosen(condition(not, "id", strings.Join(texts, ","), func(v *view) bool { return ids[v.id] }))
}

func (p picker) zone() *Condition {
	type zoneOf = func(*view) uint16
	flag := pick(p.Rand, "zone", "orig-zone", "reply-zone")
	of := map[string]zoneOf{
		"zone":       func(v *view) uint16 { return v.zones[0] | v.zones[1] },
		"orig-zone":  func(v *view) uint16 { return v.zones[0] },
		"reply-zone": func(v *view) uint16 { return v.zones[1] },
	}[flag]
	mine := of(&p.of)
	if mine == 0 && p.IntN(4) > 0 {
		const nobodys = 9
		other := pick[uint16](p.Rand, 1, 2, nobodys)
		return some(condition(true, flag, fmt.Sprint(other), func(v *view) bool { return of(v) == other }))
	}
	return some(condition(false, flag, fmt.Sprint(mine), func(v *view) bool { return of(v) == mine }))
}

func (p picker) mark() *Condition {
	mine := p.of.mark
	switch {
	case p.IntN(2) == 0:
		const mask = 0xf0
		return some(condition(false, "mark", fmt.Sprintf("%#x/%#x", mine&mask, mask), func(v *view) bool { return v.mark&mask == mine&mask }))
	case mine == 0:
		other := pick(p.Rand, markOf[0], markOf[1], 2)
		return some(condition(true, "mark", fmt.Sprintf("%#x", other), func(v *view) bool { return v.mark == other }))
	}
	return some(condition(false, "mark", fmt.Sprintf("%#x", mine), func(v *view) bool { return v.mark == mine }))
}

func (p picker) label() *Condition {
	if mine := p.of.label; mine != 0 {
		return some(condition(false, "label", fmt.Sprint(mine), func(v *view) bool { return v.label == mine }))
	}
	other := labelOf[1]
	return some(condition(true, "label", fmt.Sprint(other), func(v *view) bool { return v.label == other }))
}
