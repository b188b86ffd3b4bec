package conntrack

import "fmt"

// SCTP is the state of an SCTP flow.
//
// Wire: CTA_PROTOINFO_SCTP.
// Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h, enum ctattr_protoinfo_sctp.
type SCTP struct {
	State     SCTPState
	OrigVTag  uint32 // verification tag that the originator sends, host byte order
	ReplyVTag uint32
}

// Members of CTA_PROTOINFO_SCTP, enum ctattr_protoinfo_sctp.
const (
	attrSCTPState     attrType = 1 // CTA_PROTOINFO_SCTP_STATE
	attrSCTPOrigVTag  attrType = 2 // CTA_PROTOINFO_SCTP_VTAG_ORIGINAL
	attrSCTPReplyVTag attrType = 3 // CTA_PROTOINFO_SCTP_VTAG_REPLY
)

// SCTPState is the kernel's state of an SCTP flow.
// Source: include/uapi/linux/netfilter/nf_conntrack_sctp.h, enum sctp_conntrack.
type SCTPState uint8

// SCTP states.
const (
	SCTPNone            SCTPState = 0 // SCTP_CONNTRACK_NONE
	SCTPClosed          SCTPState = 1 // SCTP_CONNTRACK_CLOSED
	SCTPCookieWait      SCTPState = 2 // SCTP_CONNTRACK_COOKIE_WAIT
	SCTPCookieEchoed    SCTPState = 3 // SCTP_CONNTRACK_COOKIE_ECHOED
	SCTPEstablished     SCTPState = 4 // SCTP_CONNTRACK_ESTABLISHED
	SCTPShutdownSent    SCTPState = 5 // SCTP_CONNTRACK_SHUTDOWN_SENT
	SCTPShutdownRecd    SCTPState = 6 // SCTP_CONNTRACK_SHUTDOWN_RECD
	SCTPShutdownAckSent SCTPState = 7 // SCTP_CONNTRACK_SHUTDOWN_ACK_SENT
	SCTPHeartbeatSent   SCTPState = 8 // SCTP_CONNTRACK_HEARTBEAT_SENT
	SCTPHeartbeatAcked  SCTPState = 9 // SCTP_CONNTRACK_HEARTBEAT_ACKED, old kernels
)

var sctpStateNames = [...]string{
	"NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT",
	"SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT", "HEARTBEAT_ACKED",
}

// String returns the name that conntrack(8) uses, such as "COOKIE_WAIT", or
// the number of a state that has none.
func (s SCTPState) String() string { return indexName(uint8(s), sctpStateNames[:]) }

// ParseSCTPState reads what [SCTPState.String] prints. Case does not matter.
func ParseSCTPState(s string) (SCTPState, error) {
	n, ok := nameIndex(s, sctpStateNames[:])
	if !ok {
		return 0, fmt.Errorf("conntrack: no such SCTP state: %q", s)
	}
	return SCTPState(n), nil
}

// parse reads CTA_PROTOINFO_SCTP.
func (s *SCTP) parse(b []byte) error {
	for len(b) > 0 {
		t, v, rest, err := nextAttr(b, "CTA_PROTOINFO_SCTP")
		if err != nil {
			return err
		}
		b = rest
		var n uint8
		switch t {
		case attrSCTPState:
			n, err = parseUint8(v, "CTA_PROTOINFO_SCTP_STATE")
			s.State = SCTPState(n)
		case attrSCTPOrigVTag:
			s.OrigVTag, err = parseUint32(v, "CTA_PROTOINFO_SCTP_VTAG_ORIGINAL")
		case attrSCTPReplyVTag:
			s.ReplyVTag, err = parseUint32(v, "CTA_PROTOINFO_SCTP_VTAG_REPLY")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// append appends CTA_PROTOINFO_SCTP.
func (s *SCTP) append(b []byte) []byte {
	b, nest := beginNest(b, attrProtoinfoSCTP)
	b = appendUint8(b, attrSCTPState, uint8(s.State))
	b = appendUint32(b, attrSCTPOrigVTag, s.OrigVTag)
	b = appendUint32(b, attrSCTPReplyVTag, s.ReplyVTag)
	return endNest(b, nest)
}
