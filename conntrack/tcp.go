package conntrack

import (
	"fmt"
	"strings"
)

// TCP is the state of a TCP flow.
//
// Wire: CTA_PROTOINFO_TCP; a flags attribute is struct nf_ct_tcp_flags, the
// bits and a mask of those that a request changes.
// Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h, enum ctattr_protoinfo_tcp.
type TCP struct {
	State       TCPState
	OrigWScale  uint8 // shift count of the originator's window
	ReplyWScale uint8
	OrigFlags   TCPFlags
	ReplyFlags  TCPFlags
}

// Members of CTA_PROTOINFO_TCP, enum ctattr_protoinfo_tcp.
const (
	attrTCPState       attrType = 1 // CTA_PROTOINFO_TCP_STATE
	attrTCPOrigWScale  attrType = 2 // CTA_PROTOINFO_TCP_WSCALE_ORIGINAL
	attrTCPReplyWScale attrType = 3 // CTA_PROTOINFO_TCP_WSCALE_REPLY
	attrTCPOrigFlags   attrType = 4 // CTA_PROTOINFO_TCP_FLAGS_ORIGINAL
	attrTCPReplyFlags  attrType = 5 // CTA_PROTOINFO_TCP_FLAGS_REPLY
)

// TCPState is the kernel's state of a TCP flow.
// Source: include/uapi/linux/netfilter/nf_conntrack_tcp.h, enum tcp_conntrack.
type TCPState uint8

// TCP states.
const (
	TCPNone        TCPState = 0 // TCP_CONNTRACK_NONE
	TCPSynSent     TCPState = 1 // TCP_CONNTRACK_SYN_SENT
	TCPSynRecv     TCPState = 2 // TCP_CONNTRACK_SYN_RECV
	TCPEstablished TCPState = 3 // TCP_CONNTRACK_ESTABLISHED
	TCPFinWait     TCPState = 4 // TCP_CONNTRACK_FIN_WAIT
	TCPCloseWait   TCPState = 5 // TCP_CONNTRACK_CLOSE_WAIT
	TCPLastAck     TCPState = 6 // TCP_CONNTRACK_LAST_ACK
	TCPTimeWait    TCPState = 7 // TCP_CONNTRACK_TIME_WAIT
	TCPClose       TCPState = 8 // TCP_CONNTRACK_CLOSE
	TCPSynSent2    TCPState = 9 // TCP_CONNTRACK_SYN_SENT2, LISTEN's old value
)

var tcpStateNames = [...]string{
	"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT",
	"LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2",
}

// String returns the name that conntrack(8) uses, such as "SYN_SENT", or the
// number of a state that has none.
func (s TCPState) String() string { return indexName(uint8(s), tcpStateNames[:]) }

// ParseTCPState reads what [TCPState.String] prints. Case does not matter;
// "LISTEN", an old name, is SYN_SENT2.
func ParseTCPState(s string) (TCPState, error) {
	if strings.EqualFold(s, "LISTEN") {
		return TCPSynSent2, nil
	}
	n, ok := nameIndex(s, tcpStateNames[:])
	if !ok {
		return 0, fmt.Errorf("conntrack: no such TCP state: %q", s)
	}
	return TCPState(n), nil
}

// TCPFlags is the set of IP_CT_TCP_FLAG_ bits of one direction.
// Source: include/uapi/linux/netfilter/nf_conntrack_tcp.h.
type TCPFlags uint8

// TCP flags.
const (
	TCPWindowScale      TCPFlags = 0x01 // IP_CT_TCP_FLAG_WINDOW_SCALE
	TCPSackPerm         TCPFlags = 0x02 // IP_CT_TCP_FLAG_SACK_PERM
	TCPCloseInit        TCPFlags = 0x04 // IP_CT_TCP_FLAG_CLOSE_INIT
	TCPBeLiberal        TCPFlags = 0x08 // IP_CT_TCP_FLAG_BE_LIBERAL
	TCPDataUnacked      TCPFlags = 0x10 // IP_CT_TCP_FLAG_DATA_UNACKNOWLEDGED
	TCPMaxAckSet        TCPFlags = 0x20 // IP_CT_TCP_FLAG_MAXACK_SET
	TCPChallengeAck     TCPFlags = 0x40 // IP_CT_EXP_CHALLENGE_ACK
	TCPSimultaneousOpen TCPFlags = 0x80 // IP_CT_TCP_SIMULTANEOUS_OPEN
)

var tcpFlagNames = [...]string{
	"WINDOW_SCALE", "SACK_PERM", "CLOSE_INIT", "BE_LIBERAL", "DATA_UNACKNOWLEDGED",
	"MAXACK_SET", "CHALLENGE_ACK", "SIMULTANEOUS_OPEN",
}

// String returns the names of the set bits, lowest first, joined by commas.
func (f TCPFlags) String() string {
	return strings.Join(bitNames(uint32(f), tcpFlagNames[:]), ",")
}

// parse reads CTA_PROTOINFO_TCP.
func (t *TCP) parse(b []byte) error {
	for len(b) > 0 {
		typ, v, rest, err := nextAttr(b, "CTA_PROTOINFO_TCP")
		if err != nil {
			return err
		}
		b = rest
		var n uint8
		switch typ {
		case attrTCPState:
			n, err = parseUint8(v, "CTA_PROTOINFO_TCP_STATE")
			t.State = TCPState(n)
		case attrTCPOrigWScale:
			t.OrigWScale, err = parseUint8(v, "CTA_PROTOINFO_TCP_WSCALE_ORIGINAL")
		case attrTCPReplyWScale:
			t.ReplyWScale, err = parseUint8(v, "CTA_PROTOINFO_TCP_WSCALE_REPLY")
		case attrTCPOrigFlags:
			t.OrigFlags, err = parseTCPFlags(v, "CTA_PROTOINFO_TCP_FLAGS_ORIGINAL")
		case attrTCPReplyFlags:
			t.ReplyFlags, err = parseTCPFlags(v, "CTA_PROTOINFO_TCP_FLAGS_REPLY")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// parseTCPFlags reads struct nf_ct_tcp_flags.
func parseTCPFlags(v []byte, name string) (TCPFlags, error) {
	if len(v) != 2 {
		return 0, lengthError(name, len(v), 2)
	}
	return TCPFlags(v[0]), nil
}

// append appends CTA_PROTOINFO_TCP.
func (t *TCP) append(b []byte) []byte {
	b, nest := beginNest(b, attrProtoinfoTCP)
	b = appendUint8(b, attrTCPState, uint8(t.State))
	b = appendUint8(b, attrTCPOrigWScale, t.OrigWScale)
	b = appendUint8(b, attrTCPReplyWScale, t.ReplyWScale)
	// A full mask: the kernel takes all bits as they are here.
	b = append(appendAttrHeader(b, attrTCPOrigFlags, 2), uint8(t.OrigFlags), 0xff, 0, 0)
	b = append(appendAttrHeader(b, attrTCPReplyFlags, 2), uint8(t.ReplyFlags), 0xff, 0, 0)
	return endNest(b, nest)
}
