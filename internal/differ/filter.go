//go:build linux

package differ

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"flowcut/conntrack"
)

// condition is one way to narrow a command.
type condition struct {
	often    int
	commands string // letters of those that know it
	draw     func(*drawer) []string
}

// conditions are all ways.
var conditions = []condition{
	{6, "LDUE", func(d *drawer) []string { return d.network("src", "mask-src", d.f.Orig.Src) }},
	{6, "LDUE", func(d *drawer) []string { return d.network("dst", "mask-dst", d.f.Orig.Dst) }},
	{3, "LDUE", func(d *drawer) []string { return d.spell("reply-src", d.ip(d.f.Reply.Src)) }},
	{3, "LDUE", func(d *drawer) []string { return d.spell("reply-dst", d.ip(d.f.Reply.Dst)) }},
	{8, "LDUE", (*drawer).protocol},
	{4, "LDE", (*drawer).mark},
	{4, "L", (*drawer).status},
	{3, "D", (*drawer).status},
	{3, "LDUE", (*drawer).label},
	{3, "LDE", func(d *drawer) []string { return d.spell("zone", d.number(uint64(d.f.Zone))) }},
	{1, "LDE", func(d *drawer) []string { return d.spell("orig-zone", d.number(uint64(d.f.OrigZone|d.f.Zone))) }},
	{1, "LDE", func(d *drawer) []string { return d.spell("reply-zone", d.number(uint64(d.f.ReplyZone|d.f.Zone))) }},
	{5, "LDUE", (*drawer).nat},
	{4, "LDUEF", (*drawer).family},
	{2, "DU", func(d *drawer) []string { return d.spell("id", fmt.Sprintf("{id:%d}", d.n)) }},
}

// narrow draws conditions of a command.
func (d *drawer) narrow(command string, most int) (blocks [][]string) {
	var fit []condition
	for _, c := range conditions {
		if strings.Contains(c.commands, command) {
			for range c.often {
				fit = append(fit, c)
			}
		}
	}
	for range d.IntN(most + 1) {
		blocks = append(blocks, pick(d.Rand, fit...).draw(d))
	}
	return blocks
}

// network draws an address with or without a mask.
func (d *drawer) network(name, mask string, a netip.Addr) []string {
	bits := a.BitLen()
	switch d.IntN(5) {
	case 0:
		n := pick(d.Rand, bits, bits-1, bits-3, bits-8, bits/2, 8, 1, 0)
		return d.spell(name, d.ip(a)+"/"+strconv.Itoa(n))
	case 1:
		m := pick(d.Rand, "255.255.255.0", "255.255.255.252", "255.0.255.0", "0.0.0.1", "0.0.0.0")
		if a.Is6() {
			m = pick(d.Rand, "ffff:ffff:ffff:ffff::", "ffff:ffff:ffff::", "::ff", "::")
		}
		return append(d.spell(name, d.ip(a)), d.spell(mask, m)...)
	}
	return d.spell(name, d.ip(a))
}

// protoName writes the protocol.
func (d *drawer) protoName() string {
	p := d.f.Orig.Proto
	name := strings.ToLower(p.String())
	switch d.IntN(8) {
	case 0:
		return strconv.Itoa(int(p))
	case 1:
		return fmt.Sprintf("0x%x", uint8(p))
	case 2:
		return strings.ToUpper(name)
	}
	if p == 50 {
		return pick(d.Rand, "esp", "50")
	}
	return name
}

// protocol draws -p with some of what the protocol has.
func (d *drawer) protocol() []string {
	words := d.spell("protonum", d.protoName())
	for _, o := range d.protoOptions(d.f) {
		if d.one(3) {
			words = append(words, d.spell(o[0], o[1])...)
		}
	}
	return words
}

// protoOptions are all options that the protocol brings, as the flow has them.
func (d *drawer) protoOptions(f *conntrack.Flow) (list [][2]string) {
	port := func(name string, n uint16) {
		if d.one(20) {
			n++
		}
		list = append(list, [2]string{name, strconv.Itoa(int(n))})
	}
	switch {
	case f.Orig.HasPorts():
		port("sport", f.Orig.SrcPort)
		port("dport", f.Orig.DstPort)
		port("reply-port-src", f.Reply.SrcPort)
		port("reply-port-dst", f.Reply.DstPort)
	case f.Orig.Proto == conntrack.ProtoICMP:
		port("icmp-type", uint16(f.Orig.ICMPType))
		port("icmp-code", uint16(f.Orig.ICMPCode))
		port("icmp-id", f.Orig.ICMPID)
	case f.Orig.Proto == conntrack.ProtoICMPv6:
		port("icmpv6-type", uint16(f.Orig.ICMPType))
		port("icmpv6-code", uint16(f.Orig.ICMPCode))
		port("icmpv6-id", f.Orig.ICMPID)
	case f.Orig.Proto == conntrack.ProtoGRE:
		port("srckey", f.Orig.SrcPort)
		port("dstkey", f.Orig.DstPort)
		port("reply-key-src", f.Reply.SrcPort)
		port("reply-key-dst", f.Reply.DstPort)
	}
	switch f.Orig.Proto {
	case conntrack.ProtoTCP:
		list = append(list, [2]string{"state", f.TCP.State.String()})
	case conntrack.ProtoSCTP:
		list = append(list, [2]string{"state", f.SCTP.State.String()})
	}
	return list
}

// mark draws -m, with a mask or not.
func (d *drawer) mark() []string {
	m := uint64(d.f.Mark)
	v := d.number(m)
	if d.one(2) {
		mask := pick[uint64](d.Rand, 0xff, 0xffffffff, 1, 0, 0xffff, 5, 0x104)
		v = d.number(m&mask) + "/" + d.number(mask)
		if d.one(6) {
			v = d.number(m) + "/" + d.number(mask)
		}
	}
	return d.spell("mark", v)
}

// status draws -u.
func (d *drawer) status() []string {
	all := []string{
		"ASSURED", "SEEN_REPLY", "ASSURED", "SEEN_REPLY", "FIXED_TIMEOUT", "EXPECTED", "UNSET", "UNREPLIED",
		"!ASSURED", "!SEEN_REPLY", "!FIXED_TIMEOUT", "assured", "seen_reply", "A", "see", "F", "OFFLOAD", "HW_OFFLOAD", "!a",
	}
	var list []string
	for range 1 + d.IntN(5)/4 {
		list = append(list, pick(d.Rand, all...))
	}
	return d.spell("status", strings.Join(list, ","))
}

// label draws -l.
func (d *drawer) label() []string {
	var list []string
	for _, l := range labelNames {
		if d.f.Labels.Test(l.bit) {
			list = append(list, l.name)
		}
	}
	if len(list) == 0 || d.one(5) {
		list = append(list, pick(d.Rand, labelNames...).name)
	}
	return d.spell("label", strings.Join(list, ","))
}

// nat draws -n, -g or -j with what the flow's translation is.
func (d *drawer) nat() []string {
	name := pick(d.Rand, "src-nat", "dst-nat", "dst-nat", "any-nat")
	a, port := d.f.Reply.Src, d.f.Reply.SrcPort
	if name == "src-nat" || name == "any-nat" && d.f.Status&conntrack.StatusSrcNAT != 0 {
		a, port = d.f.Reply.Dst, d.f.Reply.DstPort
	}
	words := d.spellFlag(name)
	switch d.IntN(5) {
	case 0:
		return words
	case 1:
		if a.Is6() {
			return append(words, "["+d.ip(a)+"]:"+strconv.Itoa(int(port)))
		}
		return append(words, d.ip(a)+":"+strconv.Itoa(int(port)))
	case 2:
		if d.one(3) {
			return d.spell(name, d.ip(a))
		}
	}
	return append(words, d.ip(a))
}

// spellFlag writes an option without its argument.
func (d *drawer) spellFlag(name string) []string {
	for _, l := range longs {
		if l.name == name && isLetter(l.short) && d.one(2) {
			return []string{"-" + string(l.short)}
		}
	}
	return []string{"--" + name}
}

// family draws -f.
func (d *drawer) family() []string {
	f := d.f.Orig.Family().String()
	if d.one(8) {
		f += "x"
	}
	return d.spell("family", f)
}

// output draws -o of those that a command knows.
func (d *drawer) output(known ...string) []string {
	list := []string{pick(d.Rand, known...)}
	if d.one(2) {
		list = append(list, pick(d.Rand, known...))
	}
	if d.one(4) {
		list = []string{"save"}
	}
	for i, o := range list {
		switch d.IntN(6) {
		case 0:
			list[i] = strings.ToUpper(o)
		case 1:
			list[i] = o[:1+d.IntN(len(o)-1)]
		}
	}
	if d.one(4) {
		var words []string
		for _, o := range list {
			words = append(words, d.spell("output", o)...)
		}
		return words
	}
	return d.spell("output", strings.Join(list, ","))
}
