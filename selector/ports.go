package selector

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"flowcut/conntrack"
)

// Ports is a list of ports, host byte order. It matches protocols with ports
// alone: TCP, UDP, UDP-Lite, SCTP and DCCP, also when negated.
type Ports struct {
	Set     bool
	Negated bool
	Ranges  []PortRange // sorted, disjoint, not adjacent
}

// PortRange is an inclusive range of ports.
type PortRange struct{ From, To uint16 }

// match reports whether the condition holds for a port of a protocol.
func (l *Ports) match(proto conntrack.Proto, port uint16) bool {
	return !l.Set || proto.HasPorts() && l.contains(port) != l.Negated
}

// contains reports whether a port is in the list.
func (l *Ports) contains(port uint16) bool {
	lo, hi := 0, len(l.Ranges)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if l.Ranges[mid].To < port {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo < len(l.Ranges) && l.Ranges[lo].From <= port
}

// scope returns what the condition does to flows of protocols with ports.
func (l *Ports) scope() scope {
	switch {
	case !l.Set:
		return scopeAll
	case len(l.Ranges) == 0:
		return scopeNone.negate(l.Negated)
	case l.Ranges[0] == PortRange{0, 0xffff}:
		return scopeAll.negate(l.Negated)
	}
	return scopeSome
}

// parsePorts reads a port or a range of ports.
func parsePorts(s string) (PortRange, *Error) {
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	a, err := parsePort(from)
	if err != nil {
		err.Value = s
		return PortRange{}, err
	}
	b, err := parsePort(to)
	if err != nil {
		err.Value = s
		return PortRange{}, err
	}
	if b < a {
		return PortRange{}, wrong(s, "the range ends before it begins", "write "+to+"-"+from)
	}
	return PortRange{a, b}, nil
}

func parsePort(s string) (uint16, *Error) {
	n, err := parseNumber(s, 0xffff)
	if err != nil && err.Problem == "not a number" {
		err.Problem, err.Hint = "not a port", "write a number from 0 to 65535, a range a-b or a list of these"
	}
	return uint16(n), err
}

// mergePorts sorts ranges and joins those that overlap or touch.
// It works in place and returns nil when there are none.
func mergePorts(rs []PortRange) []PortRange {
	if len(rs) == 0 {
		return nil
	}
	slices.SortFunc(rs, func(a, b PortRange) int { return cmp.Compare(a.From, b.From) })
	out := rs[:1]
	for _, r := range rs[1:] {
		if last := &out[len(out)-1]; spans(last.To, r.From) {
			last.To = max(last.To, r.To)
		} else {
			out = append(out, r)
		}
	}
	return out
}

// String returns a port or a range.
func (r PortRange) String() string {
	from := strconv.Itoa(int(r.From))
	if r.From == r.To {
		return from
	}
	return from + "-" + strconv.Itoa(int(r.To))
}
