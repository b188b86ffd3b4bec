package selector

import (
	"net/netip"
	"slices"
	"strings"

	"flowcut/conntrack"
)

// Addrs is a list of addresses. Set tells whether the condition exists; a set
// list without ranges matches nothing (or everything, when negated).
type Addrs struct {
	Set     bool
	Negated bool
	Ranges  []AddrRange // sorted, disjoint, not adjacent; IPv4 before IPv6; never IPv4-mapped
}

// AddrRange is an inclusive range of addresses of one family.
type AddrRange struct{ From, To netip.Addr }

const hintAddr = "write an address, a CIDR, a range a-b, a list of these, @FILE, @- or @nft:FAMILY/TABLE/SET"

// match reports whether the condition holds for an address.
func (l *Addrs) match(a netip.Addr) bool {
	return !l.Set || l.contains(a) != l.Negated
}

// contains reports whether an address is in the list.
func (l *Addrs) contains(a netip.Addr) bool {
	lo, hi := 0, len(l.Ranges)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if l.Ranges[mid].To.Less(a) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo < len(l.Ranges) && !a.Less(l.Ranges[lo].From)
}

// parseRange reads an address, a CIDR or a range.
func parseRange(s string) (AddrRange, *Error) {
	if strings.Contains(s, "%") {
		return AddrRange{}, wrong(s, "an address in a flow has no zone index", "leave out the % and what follows")
	}
	if strings.Contains(s, "/") {
		return parseCIDR(s)
	}
	from, to, isRange := strings.Cut(s, "-")
	a, err := netip.ParseAddr(from)
	if err != nil {
		return AddrRange{}, wrong(s, "not an address", hintAddr)
	}
	if !isRange {
		a = a.Unmap()
		return AddrRange{a, a}, nil
	}
	b, err := netip.ParseAddr(to)
	if err != nil {
		return AddrRange{}, wrong(s, "not a range of addresses", hintAddr)
	}
	if a.Is4In6() && b.Is4In6() {
		a, b = a.Unmap(), b.Unmap()
	}
	if a.Is4() != b.Is4() {
		return AddrRange{}, wrong(s, "a range of two families", "write one range for IPv4 and one for IPv6")
	}
	if b.Less(a) {
		return AddrRange{}, wrong(s, "the range ends before it begins", "write "+to+"-"+from)
	}
	return AddrRange{a, b}, nil
}

// parseCIDR reads an address and a prefix length; host bits are dropped.
func parseCIDR(s string) (AddrRange, *Error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return AddrRange{}, wrong(s, "not a CIDR", "write ADDRESS/LENGTH, 0 to 32 for IPv4, 0 to 128 for IPv6")
	}
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	p = p.Masked()
	return AddrRange{p.Addr(), lastAddr(p)}, nil
}

// lastAddr returns the highest address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	if p.Addr().Is4() {
		b := p.Addr().As4()
		setHostBits(b[:], p.Bits())
		return netip.AddrFrom4(b)
	}
	b := p.Addr().As16()
	setHostBits(b[:], p.Bits())
	return netip.AddrFrom16(b)
}

func setHostBits(b []byte, bits int) {
	for i := range b {
		switch {
		case bits <= i*8:
			b[i] = 0xff
		case bits < i*8+8:
			b[i] |= 0xff >> (bits - i*8)
		}
	}
}

// mergeRanges sorts ranges and joins those that overlap or touch.
// It works in place and returns nil when there are none.
func mergeRanges(rs []AddrRange) []AddrRange {
	if len(rs) == 0 {
		return nil
	}
	slices.SortFunc(rs, func(a, b AddrRange) int { return a.From.Compare(b.From) })
	out := rs[:1]
	for _, r := range rs[1:] {
		last := &out[len(out)-1]
		next := last.To.Next() // invalid behind the last address of a family
		if !last.To.Less(r.From) || r.From == next {
			if last.To.Less(r.To) {
				last.To = r.To
			}
			continue
		}
		out = append(out, r)
	}
	return out
}

// family returns the family of a range.
func (r AddrRange) family() conntrack.Family {
	if r.From.Is4() {
		return conntrack.FamilyIPv4
	}
	return conntrack.FamilyIPv6
}

// whole reports whether the range holds every address of its family.
func (r AddrRange) whole() bool {
	p, ok := r.Prefix()
	return ok && p.Bits() == 0
}

// Prefix returns the range as a prefix, and whether it is one.
func (r AddrRange) Prefix() (netip.Prefix, bool) {
	if !r.From.IsValid() || r.From.BitLen() != r.To.BitLen() {
		return netip.Prefix{}, false
	}
	bits := commonBits(r.From.AsSlice(), r.To.AsSlice())
	p := netip.PrefixFrom(r.From, bits)
	return p, p.Masked() == p && lastAddr(p) == r.To
}

// commonBits counts the leading bits that two byte strings share.
func commonBits(a, b []byte) int {
	n := 0
	for i := range a {
		for m := byte(0x80); m != 0; m >>= 1 {
			if (a[i]^b[i])&m != 0 {
				return n
			}
			n++
		}
	}
	return n
}

// String returns the shortest form: an address, a CIDR or a range.
func (r AddrRange) String() string {
	if r.From == r.To {
		return r.From.String()
	}
	if p, ok := r.Prefix(); ok {
		return p.String()
	}
	return r.From.String() + "-" + r.To.String()
}

// scopeOf returns what the condition does to a family.
func (l *Addrs) scopeOf(fam conntrack.Family) scope {
	if !l.Set {
		return scopeAll
	}
	sc := scopeNone
	for _, r := range l.Ranges {
		if r.family() == fam {
			sc = scopeSome
			if r.whole() {
				sc = scopeAll
			}
			break // merged: a whole range is its family's only one
		}
	}
	return sc.negate(l.Negated)
}
