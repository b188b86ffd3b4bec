package fence

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"flowcut/conntrack"
	"flowcut/internal/nft"
	"flowcut/selector"
)

// The rules of iptables are made of the same terms as those of nf_tables, so
// that a selector means the same in both. What a term takes from a set becomes
// several rules.

// mostXTRules bounds the rules that a selector may become: each packet passes
// them while the flows are listed.
const mostXTRules = 256

// xtOptions are the options of the match conntrack for the operands of terms, in
// nft(8)'s words.
var xtOptions = map[string]string{
	"ct protocol":           "--ctproto",
	"ct original ip saddr":  "--ctorigsrc",
	"ct original ip6 saddr": "--ctorigsrc",
	"ct original ip daddr":  "--ctorigdst",
	"ct original ip6 daddr": "--ctorigdst",
	"ct reply ip saddr":     "--ctreplsrc",
	"ct reply ip6 saddr":    "--ctreplsrc",
	"ct reply ip daddr":     "--ctrepldst",
	"ct reply ip6 daddr":    "--ctrepldst",
	"ct original proto-src": "--ctorigsrcport",
	"ct original proto-dst": "--ctorigdstport",
	"ct reply proto-src":    "--ctreplsrcport",
	"ct reply proto-dst":    "--ctrepldstport",
}

// xtSay returns the conditions of rules, of which one holds for a packet with a
// flow if any of the selectors means it, and whether rules can say that.
func xtSay(family nft.Family, list []selector.Selector) (rules []string, ok bool) {
	c := compiler{family: family}
	all := c.any(list)
	if c.tooMany {
		return nil, false
	}
	for _, t := range all {
		alternatives := []string{""}
		for _, s := range t {
			more, not, ok := c.xtValues(s)
			if !ok {
				return nil, false
			}
			if alternatives = xtJoin(alternatives, more, not); len(alternatives) > mostXTRules {
				return nil, false
			}
		}
		if rules = append(rules, alternatives...); len(rules) > mostXTRules {
			return nil, false
		}
	}
	return rules, true
}

// xtJoin adds a condition: that one of the matches holds, or, with not, none.
func xtJoin(rules, matches []string, not bool) []string {
	var out []string
	for _, r := range rules {
		if !not {
			for _, m := range matches {
				out = append(out, r+"-m conntrack "+m+" ")
			}
			continue
		}
		for _, m := range matches {
			r += "-m conntrack ! " + m + " "
		}
		out = append(out, r)
	}
	return out
}

// xtValues returns the matches for a statement, see xtJoin.
func (c *compiler) xtValues(s nft.Statement) (matches []string, not, ok bool) {
	switch s := s.(type) {
	case nft.Compare:
		if s.Mask != nil {
			return xtStatus(s)
		}
		matches, ok = xtBetween(s.Op, s.Value, s.Value)
		return matches, s.Not, ok
	case nft.Range:
		matches, ok = xtBetween(s.Op, s.From, s.To)
		return matches, s.Not, ok
	case nft.Lookup:
		i := slices.IndexFunc(c.sets, func(x *nft.Set) bool { return x.Name == s.Set })
		matches, ok = xtSet(s.Key[0], c.sets[i])
		return matches, s.Not, ok
	}
	return nil, false, false
}

// xtStatus says that a bit of NAT is set, or not.
func xtStatus(s nft.Compare) (matches []string, not, ok bool) {
	bit, v := binary.NativeEndian.Uint32(s.Mask), binary.NativeEndian.Uint32(s.Value)
	switch conntrack.Status(bit) {
	case conntrack.StatusDstNAT:
		return []string{"--ctstate DNAT"}, v == 0, true
	case conntrack.StatusSrcNAT:
		return []string{"--ctstate SNAT"}, v == 0, true
	}
	return nil, false, false
}

// xtSet says that an operand is in a set.
func xtSet(op nft.Operand, set *nft.Set) (matches []string, ok bool) {
	if len(set.Elements) > 2*mostXTRules {
		return nil, false
	}
	for i, e := range set.Elements {
		if e.End {
			continue
		}
		to := e.Key
		if set.Interval {
			to = slices.Repeat([]byte{0xff}, len(e.Key)) // the last range has no end
			if i+1 < len(set.Elements) && set.Elements[i+1].End {
				to = before(set.Elements[i+1].Key)
			}
		}
		more, ok := xtBetween(op, e.Key, to)
		if !ok {
			return nil, false
		}
		matches = append(matches, more...)
	}
	return matches, true
}

// before returns the number before one.
func before(n []byte) []byte {
	out := slices.Clone(n)
	for i := len(out) - 1; i >= 0; i-- {
		out[i]--
		if out[i] != 0xff {
			break
		}
	}
	return out
}

// xtBetween says that an operand lies between two values, both included.
func xtBetween(op nft.Operand, from, to []byte) (matches []string, ok bool) {
	option, ok := xtOptions[op.String()]
	switch {
	case !ok:
		return nil, false
	case op.Type() == nft.TypeProto:
		return []string{fmt.Sprint(option, " ", from[0])}, true
	case op.Type() == nft.TypePort:
		return []string{option + " " + xtPortRange(binary.BigEndian.Uint16(from), binary.BigEndian.Uint16(to))}, true
	}
	first, _ := netip.AddrFromSlice(from)
	last, _ := netip.AddrFromSlice(to)
	for _, p := range prefixes(first, last) {
		matches = append(matches, option+" "+p.String())
	}
	return matches, true
}

// prefixes returns the prefixes that a range of addresses consists of.
func prefixes(first, last netip.Addr) (out []netip.Prefix) {
	for {
		p := netip.PrefixFrom(first, first.BitLen())
		for p.Bits() > 0 {
			wider := netip.PrefixFrom(first, p.Bits()-1)
			if wider.Masked().Addr() != first || lastOf(wider).Compare(last) > 0 {
				break
			}
			p = wider
		}
		out = append(out, p)
		end := lastOf(p)
		if end.Compare(last) >= 0 {
			return out
		}
		first = end.Next()
	}
}

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
