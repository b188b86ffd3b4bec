package conntrack

import (
	"fmt"
	"sync"
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

// The kernel does not change while the process runs, so each probe is made at
// most once, by whoever needs it first.
var (
	probeIPv4Once  = sync.OnceValues(probeIPv4)
	probeIPv6Once  = sync.OnceValues(probeIPv6)
	probeFlushOnce = sync.OnceValues(probeFlush)
)

// ProbeFilter tries the kernel's filters on a few flows in a scratch network
// namespace and tells which can be trusted. It does so once per process and
// remembers; [Client.Dump] probes by itself what it has a use for.
//
// Needs CAP_SYS_ADMIN for the namespace; the error without it is the kernel's
// own, and nothing is trusted then.
func ProbeFilter() (Support, error) {
	s, err := probeIPv4Once()
	if err != nil {
		return Support{}, fmt.Errorf("conntrack: probe the kernel's filter: %w", err)
	}
	six, err := probeIPv6Once()
	if err != nil {
		return Support{}, fmt.Errorf("conntrack: probe the kernel's filter: %w", err)
	}
	s.PortsIPv6, s.AddrIPv6 = six.PortsIPv6, six.AddrIPv6
	return s, nil
}

// support returns what may be sent of x, probing as little as that takes. A
// failed probe costs speed alone.
func (x *Filter) support() Support {
	var sup Support
	four := Support{TupleIPv4: true, Mark: true, Status: true, Zone: true}
	if len(x.append(nil, x.family(), four)) > 0 {
		sup, _ = probeIPv4Once()
	}
	if len(x.append(nil, x.family(), Support{PortsIPv6: true, AddrIPv6: true})) > 0 {
		six, _ := probeIPv6Once()
		sup.PortsIPv6, sup.AddrIPv6 = six.PortsIPv6, six.AddrIPv6
	}
	return sup
}
