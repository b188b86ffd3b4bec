package top

import (
	"net/netip"
	"strconv"

	"flowcut/conntrack"
	"flowcut/internal/tally"
	"flowcut/selector"
)

// flowSelector returns the selector that means one flow. By ports it is the
// connection that is meant; where the protocol has none, the entry. The zone is asked
// for if there are several, which kernels may lack; zones of the filter stay.
func flowSelector(filter selector.Selector, f *conntrack.Flow, zones int) (selector.Selector, error) {
	o := &f.Orig
	args := []string{"-p", strconv.Itoa(int(o.Proto))}
	if o.HasPorts() {
		args = append(args, "--sport", strconv.Itoa(int(o.SrcPort)), "--dport", strconv.Itoa(int(o.DstPort)))
	} else {
		args = append(args, "--id", strconv.FormatUint(uint64(f.ID), 10))
	}
	if zone := f.Zone | f.OrigZone | f.ReplyZone; zone != 0 || zones > 1 {
		args = append(args, "-w", strconv.Itoa(int(zone)))
	}
	s, err := selector.Parse(args)
	s.OrigSrc, s.OrigDst = only(o.Src), only(o.Dst) // as they are: a parser takes ::ffff:a.b.c.d for IPv4
	if !s.Zone.Set {
		s.Zone = filter.Zone
	}
	s.OrigZone, s.ReplyZone = filter.OrigZone, filter.ReplyZone
	return s, err
}

// groupSelectors returns selectors that together mean the flows of a group among
// those of a filter. Each value of a group is in the filter's list of such values, or
// none of its flows would be there: so it takes the list's place.
func groupSelectors(filter selector.Selector, k tally.Key) ([]selector.Selector, error) {
	s := filter
	switch k.By {
	case tally.Server:
		s.OrigDst = only(k.Addr)
		return []selector.Selector{s}, nil
	case tally.Client:
		s.OrigSrc = only(k.Addr)
		return []selector.Selector{s}, nil
	case tally.NATTarget:
		return natSelectors(filter, k.Addr), nil
	}
	g, err := selector.Parse(k.Args(false))
	switch k.By {
	case tally.Port:
		s.Proto, s.OrigDstPort = g.Proto, g.OrigDstPort
	case tally.Protocol:
		s.Proto = g.Proto
	case tally.Zone:
		s.OrigZone = g.Zone // not --zone, which means the reply's as well
	}
	return []selector.Selector{s}, err
}

// only returns the condition of one address.
func only(a netip.Addr) selector.Addrs {
	return selector.Addrs{Set: true, Ranges: []selector.AddrRange{{From: a, To: a}}}
}

// natSelectors returns two selectors: of the flows with DNAT to a target, and of those
// with SNAT by it and no DNAT. What the filter says of NAT stays.
func natSelectors(filter selector.Selector, a netip.Addr) []selector.Selector {
	at := only(a)
	target := selector.NAT{Set: true, Targets: []selector.NATTarget{{Addrs: at.Ranges[0]}}}
	d, s := filter, filter
	d.ReplySrc, s.ReplyDst = at, at
	if !filter.DstNAT.Set {
		d.DstNAT = target
		s.DstNAT = selector.NAT{Set: true, Negated: true}
	}
	if !filter.SrcNAT.Set {
		s.SrcNAT = target
	}
	out := []selector.Selector{d}
	if !filter.DstNAT.Set || filter.DstNAT.Negated {
		out = append(out, s)
	}
	return out
}
