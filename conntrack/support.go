package conntrack

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// Support tells which parts of a [Filter] the running kernel was seen to
// compare rightly. What is false is compared by [Client.Dump] itself. The
// family needs no proof: every kernel from 4.20 on obeys it.
type Support struct {
	TupleIPv4 bool // addresses, protocol, TCP and UDP ports of IPv4 flows; from 5.8
	PortsIPv6 bool // protocol, TCP and UDP ports of IPv6 flows; from 5.8
	AddrIPv6  bool // addresses of IPv6 flows; false on every kernel up to 6.18
	Mark      bool
	Status    bool // from 5.15
	Zone      bool // from 6.8, for other zones than the default one
}

// trustAll is the support that probes pretend.
var trustAll = Support{
	TupleIPv4: true, PortsIPv6: true, AddrIPv6: true, Mark: true, Status: true, Zone: true,
}

// or returns what either has.
func (s Support) or(o Support) Support {
	return Support{
		TupleIPv4: s.TupleIPv4 || o.TupleIPv4,
		PortsIPv6: s.PortsIPv6 || o.PortsIPv6,
		AddrIPv6:  s.AddrIPv6 || o.AddrIPv6,
		Mark:      s.Mark || o.Mark,
		Status:    s.Status || o.Status,
		Zone:      s.Zone || o.Zone,
	}
}

// filterProbe is a probe of the kernel's filters, with what it can show. The
// kernel does not change while the process runs, so each is made at most once,
// by whoever needs it first.
type filterProbe struct {
	shows Support
	once  func() (Support, error)
	made  atomic.Bool
}

// filterProbes are the probes that there are.
var filterProbes = [...]*filterProbe{
	{shows: Support{TupleIPv4: true, Mark: true, Status: true}, once: sync.OnceValues(probeIPv4)},
	{shows: Support{PortsIPv6: true}, once: sync.OnceValues(probePortsIPv6)},
	{shows: Support{AddrIPv6: true}, once: sync.OnceValues(probeAddrIPv6)},
	{shows: Support{Zone: true}, once: sync.OnceValues(probeZone)},
}

// make makes the probe, or tells what it showed.
func (p *filterProbe) make() (Support, error) {
	defer p.made.Store(true)
	return p.once()
}

// probeFlushOnce is probeFlush, made at most once.
var probeFlushOnce = sync.OnceValues(probeFlush)

// ProbeFilter tries the kernel's filters on a few flows in scratch network
// namespaces and tells which can be trusted. It does so once per process and
// remembers; [Client.Dump] probes by itself what it has a use for, and what is
// not known from the source of the kernel.
//
// A probe takes a few milliseconds, more where the tables of the machine are
// full: the kernel keeps all in one.
// Needs CAP_SYS_ADMIN for the namespaces; the error without it is the kernel's
// own, and nothing is trusted then.
func ProbeFilter() (Support, error) {
	var all Support
	for _, p := range filterProbes {
		s, err := p.make()
		if err != nil {
			return Support{}, fmt.Errorf("conntrack: probe the kernel's filter: %w", err)
		}
		all = all.or(s)
	}
	return all, nil
}

// probes returns the probes of what the kernel can compare of x.
func (x *Filter) probes() []*filterProbe {
	var ps []*filterProbe
	for _, p := range filterProbes {
		if len(x.append(nil, x.family(), p.shows)) > 0 {
			ps = append(ps, p)
		}
	}
	return ps
}

// support returns what may be sent of x. A failed probe costs speed alone.
func (x *Filter) support() Support {
	var all Support
	for _, p := range x.probes() {
		if p.known(x) {
			all = all.or(p.shows)
		} else if s, err := p.make(); err == nil {
			all = all.or(s)
		}
	}
	return all
}

// known tells whether what the probe would show of x is known from the source of
// the kernel. From Linux 5.15 to 6.18 ctnetlink_filter_match and what it calls
// compare the same fields in the same way; read were 5.15, 6.1 and 6.18. Marks
// depend on how the kernel was built.
//
// A probe walks through the hash table of all namespaces, which takes as long as
// a filtered dump.
func (p *filterProbe) known(x *Filter) bool {
	v := kernelVersion()
	read := version{5, 15}.compare(v) <= 0 && v.compare(version{6, 18}) <= 0
	return read && x.MarkMask == 0 && !p.shows.AddrIPv6 && !p.shows.Zone
}

// hope returns what may be sent of x if the kernel does all right, and whether
// that needs a probe which was not made yet.
func (x *Filter) hope() (all Support, unproven bool) {
	for _, p := range x.probes() {
		switch {
		case p.known(x):
			all = all.or(p.shows)
		case p.made.Load():
			s, _ := p.make() // nothing if it failed
			all = all.or(s)
		case p.shows.AddrIPv6 && invertsIPv6():
		default:
			all, unproven = all.or(p.shows), true
		}
	}
	return all, unproven
}
