package conntrack

// Support tells which parts of a [Filter] the running kernel was seen to
// compare rightly. What is false is compared by [Client.Dump] itself.
type Support struct {
	TupleIPv4 bool // addresses, protocol, TCP and UDP ports of IPv4 flows
	ProtoIPv6 bool // protocol, TCP and UDP ports of IPv6 flows
	AddrIPv6  bool // addresses of IPv6 flows; false on every kernel up to 6.18
	Mark      bool
	Status    bool // from 5.15
	Zone      bool // from 6.8
}

func filterSupport(x *Filter) Support { return Support{} }

func flushFamilyProbe() (bool, error) { return true, nil }
