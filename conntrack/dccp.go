package conntrack

import "fmt"

// DCCP is the state of a DCCP flow; kernels from 6.16 on have none.
//
// Wire: CTA_PROTOINFO_DCCP.
// Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h, enum ctattr_protoinfo_dccp.
type DCCP struct {
	State        DCCPState
	Role         uint8  // of the originator: 0 client, 1 server
	HandshakeSeq uint64 // sequence number of the handshake, 48 bits
}

// Members of CTA_PROTOINFO_DCCP, enum ctattr_protoinfo_dccp.
const (
	attrDCCPState        attrType = 1 // CTA_PROTOINFO_DCCP_STATE
	attrDCCPRole         attrType = 2 // CTA_PROTOINFO_DCCP_ROLE
	attrDCCPHandshakeSeq attrType = 3 // CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ
)

// DCCPState is the kernel's state of a DCCP flow.
// Source: include/linux/netfilter/nf_conntrack_dccp.h before 6.16, enum ct_dccp_states.
type DCCPState uint8

// DCCP states.
const (
	DCCPNone     DCCPState = 0 // CT_DCCP_NONE
	DCCPRequest  DCCPState = 1 // CT_DCCP_REQUEST
	DCCPRespond  DCCPState = 2 // CT_DCCP_RESPOND
	DCCPPartOpen DCCPState = 3 // CT_DCCP_PARTOPEN
	DCCPOpen     DCCPState = 4 // CT_DCCP_OPEN
	DCCPCloseReq DCCPState = 5 // CT_DCCP_CLOSEREQ
	DCCPClosing  DCCPState = 6 // CT_DCCP_CLOSING
	DCCPTimeWait DCCPState = 7 // CT_DCCP_TIMEWAIT
	DCCPIgnore   DCCPState = 8 // CT_DCCP_IGNORE
	DCCPInvalid  DCCPState = 9 // CT_DCCP_INVALID
)

var dccpStateNames = [...]string{
	"NONE", "REQUEST", "RESPOND", "PARTOPEN", "OPEN", "CLOSEREQ", "CLOSING",
	"TIMEWAIT", "IGNORE", "INVALID",
}

// String returns the name that conntrack(8) uses, such as "PARTOPEN", or the
// number of a state that has none.
func (s DCCPState) String() string { return indexName(uint8(s), dccpStateNames[:]) }

// ParseDCCPState reads what [DCCPState.String] prints. Case does not matter.
func ParseDCCPState(s string) (DCCPState, error) {
	n, ok := nameIndex(s, dccpStateNames[:])
	if !ok {
		return 0, fmt.Errorf("conntrack: no such DCCP state: %q", s)
	}
	return DCCPState(n), nil
}

// parse reads CTA_PROTOINFO_DCCP.
func (d *DCCP) parse(b []byte) error {
	for len(b) > 0 {
		t, v, rest, err := nextAttr(b, "CTA_PROTOINFO_DCCP")
		if err != nil {
			return err
		}
		b = rest
		var n uint8
		switch t {
		case attrDCCPState:
			n, err = parseUint8(v, "CTA_PROTOINFO_DCCP_STATE")
			d.State = DCCPState(n)
		case attrDCCPRole:
			d.Role, err = parseUint8(v, "CTA_PROTOINFO_DCCP_ROLE")
		case attrDCCPHandshakeSeq:
			d.HandshakeSeq, err = parseUint64(v, "CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// append appends CTA_PROTOINFO_DCCP.
func (d *DCCP) append(b []byte) []byte {
	b, nest := beginNest(b, attrProtoinfoDCCP)
	b = appendUint8(b, attrDCCPState, uint8(d.State))
	b = appendUint8(b, attrDCCPRole, d.Role)
	b = appendUint64(b, attrDCCPHandshakeSeq, d.HandshakeSeq)
	return endNest(b, nest)
}
