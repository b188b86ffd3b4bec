package fence

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"flowcut/conntrack"
	"flowcut/internal/nft"
	"flowcut/selector"
)

// A term is a list of conditions that must all hold; terms are alternatives, of
// which one must. Without a term nothing holds; an empty term always does.
type (
	term  = []nft.Statement
	terms = []term
)

// compiler turns a selector into rules for one family.
type compiler struct {
	family  nft.Family
	headers bool   // conditions are on the packet's own header, not on its flow
	prefix  string // of the names of sets, "selector" if empty
	sets    []*nft.Set
	lists   []addrList // that have become sets
	count   bool       // compile only to count: sets need no elements
	tooMany bool       // terms; what was compiled is of no use
}

// exact tells whether rules can say all that the selectors say.
func (cfg *Config) exact() bool {
	ok := len(cfg.Selectors) > 0 && exact(cfg.Selectors)
	for i := range cfg.Except {
		ok = ok && exact(cfg.Except[i:i+1])
	}
	return ok
}

// Sayable tells whether rules can say all that a selector says, see Exact.
func Sayable(s selector.Selector) bool { return exact([]selector.Selector{s}) }

// exact tells whether rules can say all that the selectors say, for good.
func exact(list []selector.Selector) bool {
	unsaid := func(s selector.Selector) bool {
		return s.State.Set || s.ID.Set || s.PickedUp != selector.Any || s.Status.Set || s.Mark.Set || s.Labels.Set
	}
	if slices.ContainsFunc(list, unsaid) {
		return false
	}
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		c := compiler{family: family, count: true}
		if c.any(list); c.tooMany {
			return false
		}
	}
	return true
}

// maxTerms bounds the rules that each packet may have to pass. Long negated
// lists of NAT targets with ports get beyond, and many selectors.
const maxTerms = 64

// any returns the alternatives under which a packet's flow is selected by any
// of a list.
func (c *compiler) any(list []selector.Selector) terms {
	var out terms
	for i := range list {
		out = append(out, c.compile(&list[i])...)
		if c.tooMany = c.tooMany || len(out) > maxTerms; c.tooMany {
			return nil
		}
	}
	return out
}

// compile returns the alternatives under which a packet's flow is selected.
func (c *compiler) compile(s *selector.Selector) terms {
	if !slices.Contains(s.Families(), conntrack.Family(c.family)) {
		return nil // rules say nothing of the family itself
	}
	out := terms{nil}
	for _, cond := range []terms{
		c.addrs(s.OrigSrc, nft.CTSrc(c.family, nft.Original)),
		c.addrs(s.OrigDst, nft.CTDst(c.family, nft.Original)),
		c.addrs(s.ReplySrc, nft.CTSrc(c.family, nft.Reply)),
		c.addrs(s.ReplyDst, nft.CTDst(c.family, nft.Reply)),
		c.host(s.Host, nft.CTSrc(c.family, nft.Original), nft.CTDst(c.family, nft.Original),
			nft.CTSrc(c.family, nft.Reply), nft.CTDst(c.family, nft.Reply)),
		c.protos(s.Proto),
		c.ports(s.OrigSrcPort, nft.CTProtoSrc(nft.Original)),
		c.ports(s.OrigDstPort, nft.CTProtoDst(nft.Original)),
		c.ports(s.ReplySrcPort, nft.CTProtoSrc(nft.Reply)),
		c.ports(s.ReplyDstPort, nft.CTProtoDst(nft.Reply)),
		c.nat(s.DstNAT, true, false),
		c.nat(s.SrcNAT, false, true),
		c.nat(s.AnyNAT, true, true),
		c.zones(s.Zone, nft.CTDirZone(nft.Original), nft.CTDirZone(nft.Reply)),
		c.zones(s.OrigZone, nft.CTDirZone(nft.Original)),
		c.zones(s.ReplyZone, nft.CTDirZone(nft.Reply)),
	} {
		out = c.product(out, cond)
	}
	return out
}

// product joins two lists of alternatives: one of the first and one of the second.
func (c *compiler) product(a, b terms) terms {
	if len(a)*len(b) > maxTerms {
		c.tooMany = true
		return nil
	}
	var out terms
	for _, x := range a {
		for _, y := range b {
			out = append(out, append(append(term(nil), x...), y...))
		}
	}
	return out
}

// set declares a set, unless there is an equal one, and returns its name.
func (c *compiler) set(key nft.Type, interval bool, elems []nft.Element) string {
	for _, s := range c.sets {
		if s.Key[0] == key && s.Interval == interval && slices.EqualFunc(s.Elements, elems, equal) {
			return s.Name
		}
	}
	name := fmt.Sprintf("%s%d", cmp.Or(c.prefix, "selector"), len(c.sets))
	c.sets = append(c.sets, &nft.Set{Name: name, Key: []nft.Type{key}, Interval: interval, Elements: elems})
	return name
}

func equal(a, b nft.Element) bool { return a.End == b.End && bytes.Equal(a.Key, b.Key) }

func (c *compiler) addrs(a selector.Addrs, op nft.Operand) terms {
	if !a.Set {
		return terms{nil}
	}
	return c.inList(c.mine(a.Ranges), a.Negated, op)
}

// inList is the condition that an operand is in a list of addresses of the
// compiler's family.
func (c *compiler) inList(ranges []selector.AddrRange, not bool, op nft.Operand) terms {
	switch {
	case len(ranges) == 0 && not:
		return terms{nil}
	case len(ranges) == 0:
		return nil
	case len(ranges) == 1:
		return terms{{inRange(op, ranges[0], not)}}
	case not && c.headers:
		return c.none(len(ranges), func(i int) nft.Statement { return inRange(op, ranges[i], true) })
	}
	var out terms
	for _, set := range c.addrSets(ranges) {
		lookup := nft.Lookup{Key: nft.Key{op}, Not: not, Set: set}
		if not && len(out) > 0 {
			out[0] = append(out[0], lookup)
		} else {
			out = append(out, term{lookup})
		}
	}
	return out
}

// manyRanges is the length from which a list's single addresses have a set of
// their own: the kernel takes them in ten times faster than ranges.
const manyRanges = 1024

// addrSets declares the sets of a list of addresses, unless an equal one has
// them. A long list has two, of which an address is in one if it is in the list.
func (c *compiler) addrSets(ranges []selector.AddrRange) []string {
	for _, l := range c.lists {
		if len(l.ranges) == len(ranges) && (&l.ranges[0] == &ranges[0] || slices.Equal(l.ranges, ranges)) {
			return l.sets
		}
	}
	l := addrList{ranges: ranges}
	rest := ranges
	if len(ranges) > manyRanges {
		var elems []nft.Element
		elems, rest = c.singles(ranges)
		n := len(c.sets)
		l.sets = append(l.sets, c.set(c.family.AddrType(), false, elems))
		if len(c.sets) > n {
			c.sets[n].Size = uint32(len(elems)) // known, it is a table that need not grow
		}
	}
	if len(rest) > 0 {
		l.sets = append(l.sets, c.set(c.family.AddrType(), true, c.intervals(rest)))
	}
	c.lists = append(c.lists, l)
	return l.sets
}

// singles parts a list into elements for its single addresses and the rest.
func (c *compiler) singles(ranges []selector.AddrRange) (elems []nft.Element, rest []selector.AddrRange) {
	if !c.count {
		elems = make([]nft.Element, 0, len(ranges))
	}
	for _, r := range ranges {
		switch {
		case r.From != r.To:
			rest = append(rest, r)
		case !c.count:
			elems = append(elems, nft.Element{Key: r.From.AsSlice()})
		}
	}
	return elems, rest
}

// addrList is a list of addresses and the sets that it has become.
type addrList struct {
	ranges []selector.AddrRange
	sets   []string
}

// mine returns the ranges of the compiler's family.
func (c *compiler) mine(ranges []selector.AddrRange) []selector.AddrRange {
	var out []selector.AddrRange
	for _, r := range ranges {
		if r.From.Is6() == (c.family == nft.IPv6) {
			out = append(out, r)
		}
	}
	return out
}

func inRange(op nft.Operand, r selector.AddrRange, not bool) nft.Statement {
	if r.From == r.To {
		return nft.Compare{Op: op, Not: not, Value: r.From.AsSlice()}
	}
	return nft.Range{Op: op, Not: not, From: r.From.AsSlice(), To: r.To.AsSlice()}
}

// intervals writes ranges as an interval set has them: a start, and an end
// that is the first address behind, which the last range may lack.
func (c *compiler) intervals(ranges []selector.AddrRange) []nft.Element {
	if c.count {
		return nil
	}
	out := make([]nft.Element, 0, 2*len(ranges))
	for _, r := range ranges {
		out = append(out, nft.Element{Key: r.From.AsSlice()})
		if end := r.To.Next(); end != (netip.Addr{}) {
			out = append(out, nft.Element{Key: end.AsSlice(), End: true})
		}
	}
	return out
}

// host is the condition that any of the operands is in a list; negated: none.
func (c *compiler) host(a selector.Addrs, ops ...nft.Operand) terms {
	out := terms{nil}
	if !a.Set {
		return out
	}
	ranges := c.mine(a.Ranges)
	if a.Negated {
		for _, op := range ops {
			out = c.product(out, c.inList(ranges, true, op))
		}
		return out
	}
	out = nil
	for _, op := range ops {
		out = append(out, c.inList(ranges, false, op)...)
	}
	return out
}

func (c *compiler) protos(p selector.Protos) terms {
	if !p.Set {
		return terms{nil}
	}
	return c.protoList(p.List, p.Negated)
}

func (c *compiler) protoList(list []conntrack.Proto, not bool) terms {
	op := nft.CTProto
	if c.headers {
		op = nft.MetaL4Proto
	}
	if len(list) == 1 {
		return terms{{nft.Compare{Op: op, Not: not, Value: []byte{byte(list[0])}}}}
	}
	var elems []nft.Element
	for _, p := range list {
		elems = append(elems, nft.Element{Key: []byte{byte(p)}})
	}
	return terms{{nft.Lookup{Key: nft.Key{op}, Not: not, Set: c.set(nft.TypeProto, false, elems)}}}
}

// withPorts are the protocols that ports apply to.
var withPorts = []conntrack.Proto{
	conntrack.ProtoTCP, conntrack.ProtoUDP, conntrack.ProtoDCCP, conntrack.ProtoSCTP, conntrack.ProtoUDPLite,
}

func (c *compiler) ports(p selector.Ports, op nft.Operand) terms {
	if !p.Set {
		return terms{nil}
	}
	return c.product(c.protoList(withPorts, false), c.portRanges(p, op))
}

func (c *compiler) portRanges(p selector.Ports, op nft.Operand) terms {
	if len(p.Ranges) == 1 {
		return terms{{portRange(op, p.Ranges[0], p.Negated)}}
	}
	if p.Negated && c.headers {
		return c.none(len(p.Ranges), func(i int) nft.Statement { return portRange(op, p.Ranges[i], true) })
	}
	var elems []nft.Element
	for _, r := range p.Ranges {
		elems = append(elems, nft.Element{Key: nft.Port(r.From)})
		if r.To != 0xffff {
			elems = append(elems, nft.Element{Key: nft.Port(r.To + 1), End: true})
		}
	}
	return terms{{nft.Lookup{Key: nft.Key{op}, Not: p.Negated, Set: c.set(nft.TypePort, true, elems)}}}
}

func portRange(op nft.Operand, r selector.PortRange, not bool) nft.Statement {
	if r.From == r.To {
		return nft.Compare{Op: op, Not: not, Value: nft.Port(r.From)}
	}
	return nft.Range{Op: op, Not: not, From: nft.Port(r.From), To: nft.Port(r.To)}
}

// nat is the condition that the destination, the source, or either is translated.
func (c *compiler) nat(n selector.NAT, dst, src bool) terms {
	if !n.Set {
		return terms{nil}
	}
	var kinds []natKind
	if dst {
		kinds = append(kinds, c.dnat(n.Reversed))
	}
	if src {
		kinds = append(kinds, c.snat(n.Reversed))
	}
	out := terms{nil}
	if !n.Negated {
		out = nil
	}
	for _, k := range kinds {
		if n.Negated {
			out = c.product(out, c.notTranslated(n, k))
		} else {
			out = append(out, c.translated(n, k)...)
		}
	}
	return out
}

// natKind is one kind of translation: its status bit and the end of a tuple
// that targets are compared with.
type natKind struct {
	status conntrack.Status
	addr   nft.Operand
	port   nft.Operand
}

func (c *compiler) dnat(reversed bool) natKind {
	if reversed {
		return natKind{conntrack.StatusDstNAT, nft.CTDst(c.family, nft.Original), nft.CTProtoDst(nft.Original)}
	}
	return natKind{conntrack.StatusDstNAT, nft.CTSrc(c.family, nft.Reply), nft.CTProtoSrc(nft.Reply)}
}

func (c *compiler) snat(reversed bool) natKind {
	if reversed {
		return natKind{conntrack.StatusSrcNAT, nft.CTSrc(c.family, nft.Original), nft.CTProtoSrc(nft.Original)}
	}
	return natKind{conntrack.StatusSrcNAT, nft.CTDst(c.family, nft.Reply), nft.CTProtoDst(nft.Reply)}
}

func (k natKind) bit(set bool) nft.Statement {
	v := uint32(0)
	if set {
		v = uint32(k.status)
	}
	return nft.Bits(nft.CTStatus, uint32(k.status), v)
}

// targets splits the NAT's targets of the compiler's family into those without
// a port, which are one list of addresses, and the others.
func (c *compiler) targets(n selector.NAT) (plain selector.Addrs, ported []selector.NATTarget) {
	plain = selector.Addrs{Set: true, Negated: n.Negated}
	for _, t := range n.Targets {
		switch {
		case len(c.mine([]selector.AddrRange{t.Addrs})) == 0:
		case t.Port == 0:
			plain.Ranges = append(plain.Ranges, t.Addrs)
		default:
			ported = append(ported, t)
		}
	}
	return plain, ported
}

func (c *compiler) translated(n selector.NAT, k natKind) terms {
	if len(n.Targets) == 0 {
		return terms{{k.bit(true)}}
	}
	plain, ported := c.targets(n)
	out := c.product(terms{{k.bit(true)}}, c.addrs(plain, k.addr))
	for _, t := range ported {
		hit := terms{{k.bit(true), inRange(k.addr, t.Addrs, false)}}
		hit = c.product(hit, c.protoList(withPorts, false))
		out = append(out, c.product(hit, terms{{nft.Equal(k.port, nft.Port(t.Port))}})...)
	}
	c.tooMany = c.tooMany || len(out) > maxTerms
	return out
}

// notTranslated is the opposite of translated: no translation, or one to
// something that is none of the targets.
func (c *compiler) notTranslated(n selector.NAT, k natKind) terms {
	if len(n.Targets) == 0 {
		return terms{{k.bit(false)}}
	}
	plain, ported := c.targets(n)
	other := c.product(terms{{k.bit(true)}}, c.addrs(plain, k.addr))
	for _, t := range ported {
		miss := terms{{inRange(k.addr, t.Addrs, true)}, {nft.Compare{Op: k.port, Not: true, Value: nft.Port(t.Port)}}}
		other = c.product(other, append(miss, c.protoList(withPorts, true)...))
	}
	return append(terms{{k.bit(false)}}, other...)
}

// zones holds when the flow's zone is in the list. An entry has one zone,
// which holds for both directions or for one; the other is then zero.
func (c *compiler) zones(z selector.Zones, ops ...nft.Operand) terms {
	if !z.Set {
		return terms{nil}
	}
	var out terms
	if z.Negated {
		out = terms{nil}
	}
	for _, zone := range z.List {
		// Zone 0 needs zero in all directions, another one it in any; negated
		// it is the other way round.
		var each terms
		var together term
		for _, op := range ops {
			is := nft.Compare{Op: op, Not: z.Negated, Value: nft.U16(uint16(zone))}
			each = append(each, term{is})
			together = append(together, is)
		}
		hit := each
		if (zone == 0) != z.Negated {
			hit = terms{together}
		}
		if z.Negated {
			out = c.product(out, hit)
		} else {
			out = append(out, hit...)
		}
	}
	return out
}
