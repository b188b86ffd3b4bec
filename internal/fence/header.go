package fence

import (
	"slices"

	"flowcut/conntrack"
	"flowcut/internal/nft"
	"flowcut/selector"
)

// Header turns what a selector says of addresses, protocols and ports into
// conditions on the headers of packets, for those that no flow is known of: sent
// are alternatives for what its originators send, returned for the answers, of
// which some may be the same. Nothing is translated. The sets that they look into
// have names that begin with prefix; ok is false if there would be too many
// alternatives. What else the selector says is left out: refuse it before.
func Header(f nft.Family, s selector.Selector, prefix string) (sent, returned [][]nft.Statement, sets []*nft.Set, ok bool) {
	c := compiler{family: f, headers: true, prefix: prefix}
	if !slices.Contains(s.Families(), conntrack.Family(f)) {
		return nil, nil, nil, true
	}
	src, dst := nft.Src(f), nft.Dst(f)
	sent = c.header(&s, src, dst, nft.SrcPort, nft.DstPort)
	returned = c.header(&s, dst, src, nft.DstPort, nft.SrcPort)
	return sent, returned, c.sets, !c.tooMany
}

// header returns the alternatives, given where a packet has what is its
// originator's and its responder's.
func (c *compiler) header(s *selector.Selector, src, dst, srcPort, dstPort nft.Operand) terms {
	out := c.protos(s.Proto)
	if ports := s.OrigSrcPort.Set || s.OrigDstPort.Set; ports && (!s.Proto.Set || s.Proto.Negated) {
		out = c.product(out, c.protoList(withPorts, false))
	}
	for _, cond := range []terms{
		c.addrs(s.OrigSrc, src),
		c.addrs(s.OrigDst, dst),
		c.host(s.Host, src, dst),
		c.portsOf(s.OrigSrcPort, srcPort),
		c.portsOf(s.OrigDstPort, dstPort),
	} {
		out = c.product(out, cond)
	}
	return out
}

// portsOf is the condition on a port of a protocol that is known to have ports.
func (c *compiler) portsOf(p selector.Ports, op nft.Operand) terms {
	if !p.Set {
		return terms{nil}
	}
	return c.portRanges(p, op)
}

// none is the condition that none of n holds, without a set: its ranges are found
// a moment after the rules of the same batch are in force, and until then all
// packets would be meant.
func (c *compiler) none(n int, not func(i int) nft.Statement) terms {
	if c.tooMany = c.tooMany || n > maxTerms; c.tooMany {
		return nil
	}
	out := make(term, n)
	for i := range out {
		out[i] = not(i)
	}
	return terms{out}
}
