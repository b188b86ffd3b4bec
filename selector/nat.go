package selector

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"flowcut/conntrack"
)

// NAT is a condition on translation: with no targets, that there is any;
// otherwise that one of the targets is what the flow is translated to.
// For DNAT the target is the source of the reply tuple, for SNAT its destination.
//
// Translated means that the kernel set IPS_DST_NAT or IPS_SRC_NAT. A target
// with a port matches protocols with ports alone.
type NAT struct {
	Set      bool
	Negated  bool
	Reversed bool        // made by Mirror: targets are what is translated, in the original tuple
	Targets  []NATTarget // sorted by port, then address; disjoint within a port
}

// NATTarget is an address range with a port; Port 0 means any.
type NATTarget struct {
	Addrs AddrRange
	Port  uint16
}

const hintTarget = "write ADDR, ADDR:PORT or [ADDR6]:PORT, with an address, a CIDR or a range for ADDR"

// parseTarget reads ADDR, ADDR:PORT, [ADDR6] or [ADDR6]:PORT.
func parseTarget(s string) (NATTarget, *Error) {
	addr, port := s, ""
	hasPort := false
	switch {
	case strings.HasPrefix(s, "["):
		inner, rest, ok := strings.Cut(s[1:], "]")
		if !ok {
			return NATTarget{}, wrong(s, "the [ is not closed", hintTarget)
		}
		if !strings.Contains(inner, ":") {
			return NATTarget{}, wrong(s, "brackets without an IPv6 address", hintTarget)
		}
		addr = inner
		if port, hasPort = strings.CutPrefix(rest, ":"); rest != "" && !hasPort {
			return NATTarget{}, wrong(s, "words behind the ]", hintTarget)
		}
	case strings.Count(s, ":") == 1:
		addr, port, hasPort = strings.Cut(s, ":")
	}
	r, err := parseRange(addr)
	if err != nil {
		return NATTarget{}, wrong(s, err.Problem, hintTarget)
	}
	t := NATTarget{Addrs: r}
	if !hasPort {
		return t, nil
	}
	t.Port, err = parsePort(port)
	if err == nil && t.Port == 0 {
		err = wrong(s, "port 0", "leave the port out to mean any")
	}
	if err != nil {
		return NATTarget{}, wrong(s, err.Problem, err.Hint)
	}
	return t, nil
}

// mergeTargets sorts targets and joins those of one port that overlap or
// touch. It works in place and returns nil when there are none.
func mergeTargets(ts []NATTarget) []NATTarget {
	if len(ts) == 0 {
		return nil
	}
	slices.SortFunc(ts, func(a, b NATTarget) int { return cmp.Compare(a.Port, b.Port) })
	var out []NATTarget
	for len(ts) > 0 {
		port := ts[0].Port
		var rs []AddrRange
		for len(ts) > 0 && ts[0].Port == port {
			rs = append(rs, ts[0].Addrs)
			ts = ts[1:]
		}
		for _, r := range mergeRanges(rs) {
			out = append(out, NATTarget{r, port})
		}
	}
	return out
}

// String returns the target as --dst-nat takes it.
func (t NATTarget) String() string {
	if t.Port == 0 {
		return t.Addrs.String()
	}
	port := ":" + strconv.Itoa(int(t.Port))
	if t.Addrs.From.Is4() {
		return t.Addrs.String() + port
	}
	return "[" + t.Addrs.String() + "]" + port
}

// matchDst reports whether the destination is translated, to a target if any are given.
func (n *NAT) matchDst(f *conntrack.Flow) bool {
	if f.Status&conntrack.StatusDstNAT == 0 {
		return false
	}
	if n.Reversed {
		return n.target(f, f.Orig.Dst, f.Orig.DstPort)
	}
	return n.target(f, f.Reply.Src, f.Reply.SrcPort)
}

// matchSrc reports whether the source is translated, to a target if any are given.
func (n *NAT) matchSrc(f *conntrack.Flow) bool {
	if f.Status&conntrack.StatusSrcNAT == 0 {
		return false
	}
	if n.Reversed {
		return n.target(f, f.Orig.Src, f.Orig.SrcPort)
	}
	return n.target(f, f.Reply.Dst, f.Reply.DstPort)
}

// target reports whether an end of the flow is one of the targets.
func (n *NAT) target(f *conntrack.Flow, a netip.Addr, port uint16) bool {
	if len(n.Targets) == 0 || n.find(a, 0) {
		return true
	}
	return port != 0 && f.Orig.Proto.HasPorts() && n.find(a, port)
}

// find looks an address up among the targets of one port.
func (n *NAT) find(a netip.Addr, port uint16) bool {
	lo, hi := 0, len(n.Targets)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		t := &n.Targets[mid]
		if t.Port < port || t.Port == port && t.Addrs.To.Less(a) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo < len(n.Targets) && n.Targets[lo].Port == port && !a.Less(n.Targets[lo].Addrs.From)
}

// scopeOf returns what the condition does to a family.
func (n *NAT) scopeOf(fam conntrack.Family) scope {
	if !n.Set {
		return scopeAll
	}
	if len(n.Targets) == 0 {
		return scopeSome
	}
	sc := scopeNone
	for _, t := range n.Targets {
		if t.Addrs.family() == fam {
			sc = scopeSome
		}
	}
	return sc.negate(n.Negated)
}
