package conntrack8

import (
	"net/netip"

	"flowcut/conntrack"
)

// unknown is the name of what has none.
const unknown = "unknown"

// hasName tells whether conntrack(8) has a name for the protocol.
func hasName(p conntrack.Proto) bool {
	return p.HasPorts() || p == conntrack.ProtoGRE || p == conntrack.ProtoICMP || p == conntrack.ProtoICMPv6
}

// protoName returns the name of a layer 4 protocol.
func protoName(p conntrack.Proto) string {
	if !hasName(p) {
		return unknown
	}
	return p.String()
}

// familyName returns the name of a layer 3 protocol.
func familyName(f conntrack.Family) string {
	switch f {
	case conntrack.FamilyIPv4:
		return "ipv4"
	case conntrack.FamilyIPv6:
		return "ipv6"
	}
	return unknown
}

// stateName returns the name of a flow's state, "" if it has none. A state
// that conntrack(8) does not know is NONE.
func stateName(f *conntrack.Flow) string {
	switch {
	case f.Has&conntrack.AttrTCP != 0:
		if f.TCP.State <= conntrack.TCPSynSent2 {
			return f.TCP.State.String()
		}
	case f.Has&conntrack.AttrSCTP != 0:
		if f.SCTP.State <= conntrack.SCTPHeartbeatAcked {
			return f.SCTP.State.String()
		}
	case f.Has&conntrack.AttrDCCP != 0:
		if f.DCCP.State <= conntrack.DCCPInvalid {
			return f.DCCP.State.String()
		}
	default:
		return ""
	}
	return "NONE"
}

// appendAddr appends an address as inet_ntop(3) does, which writes an IPv6 address
// that holds an IPv4 address in its last bytes and nothing before as ::1.2.3.4.
func appendAddr(b []byte, a netip.Addr) []byte {
	if !a.IsValid() {
		return b
	}
	if v6 := a.As16(); a.Is6() && [12]byte(v6[:12]) == [12]byte{} && v6[12]|v6[13] != 0 {
		b = append(b, "::"...)
		a = netip.AddrFrom4([4]byte(v6[12:]))
	}
	return a.AppendTo(b)
}
