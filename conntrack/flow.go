// Package conntrack reads and changes the kernel's connection tracking table
// over ctnetlink.
//
// A [Flow] is one entry of the table. A [Client] talks to the table of one
// network namespace: it dumps, gets, creates, updates and deletes entries.
package conntrack

import (
	"net/netip"
	"time"
)

// Attr tells which attributes of a Flow are present, one bit each.
//
// The kernel leaves out what a flow does not have; a zero field without its
// bit means "not sent", with its bit it means zero.
type Attr uint32

// The attributes of a Flow. Each names the CTA_ attribute it stands for.
const (
	AttrOrig          Attr = 1 << iota // CTA_TUPLE_ORIG
	AttrReply                          // CTA_TUPLE_REPLY
	AttrZone                           // CTA_ZONE
	AttrOrigZone                       // CTA_TUPLE_ZONE in CTA_TUPLE_ORIG
	AttrReplyZone                      // CTA_TUPLE_ZONE in CTA_TUPLE_REPLY
	AttrStatus                         // CTA_STATUS
	AttrTimeout                        // CTA_TIMEOUT
	AttrMark                           // CTA_MARK
	AttrLabels                         // CTA_LABELS
	AttrOrigCounters                   // CTA_COUNTERS_ORIG
	AttrReplyCounters                  // CTA_COUNTERS_REPLY
	AttrStart                          // CTA_TIMESTAMP_START
	AttrStop                           // CTA_TIMESTAMP_STOP
	AttrTCP                            // CTA_PROTOINFO_TCP
	AttrSCTP                           // CTA_PROTOINFO_SCTP
	AttrDCCP                           // CTA_PROTOINFO_DCCP
	AttrHelper                         // CTA_HELP
	AttrSecCtx                         // CTA_SECCTX
	AttrSecMark                        // CTA_SECMARK, obsolete
	AttrMaster                         // CTA_TUPLE_MASTER
	AttrOrigSeqAdj                     // CTA_SEQ_ADJ_ORIG
	AttrReplySeqAdj                    // CTA_SEQ_ADJ_REPLY
	AttrSynproxy                       // CTA_SYNPROXY
	AttrID                             // CTA_ID
	AttrUse                            // CTA_USE
)

// Flow is one entry of the connection tracking table.
//
// The zero value has no attribute. Values may be copied freely, except that
// a Flow yielded by [Client.Dump] is overwritten by the next step: keep a
// [Flow.Clone].
type Flow struct {
	Has Attr // which of the fields below the kernel sent

	Orig  Tuple // as the originator sends
	Reply Tuple // as the responder sends, before NAT is undone

	Zone      Zone // both directions, 0 is the default zone
	OrigZone  Zone // original direction alone
	ReplyZone Zone // reply direction alone

	Status  Status
	Timeout time.Duration // until the entry expires, whole seconds; absent for offloaded flows
	Mark    Mark
	Labels  Labels

	OrigCounters  Counters
	ReplyCounters Counters

	Start time.Time // needs net.netfilter.nf_conntrack_timestamp=1 when the flow began
	Stop  time.Time // in destroy events alone

	TCP  TCP
	SCTP SCTP
	DCCP DCCP

	Helper   string // name of the helper, such as "ftp"
	HelpInfo []byte // CTA_HELP_INFO, a helper's own bytes, owned by the Flow
	SecCtx   string // security context of SELinux or the like
	SecMark  uint32 // obsolete, kernels before 2.6.36

	Master      Tuple // original tuple of the flow that expected this one
	OrigSeqAdj  SeqAdj
	ReplySeqAdj SeqAdj
	Synproxy    Synproxy
	ID          uint32 // kernel's handle of this entry, in host byte order of the wire's big-endian value
	Use         uint32 // references held on the entry
}

// Zone is a conntrack zone; flows in different zones may have equal tuples.
type Zone uint16

// Mark is the connection mark, ctmark.
type Mark uint32

// Labels is the 128-bit label set, bit 0 is the lowest bit of the first byte.
type Labels [16]byte

// Tuple identifies one direction of a flow.
//
// Ports are host byte order. Which of the fields after Proto apply follows
// from Proto: ports for TCP, UDP, UDP-Lite, SCTP and DCCP; the same two
// fields hold the keys of GRE; ICMP and ICMPv6 use the ICMP fields alone;
// any other protocol uses none. Tuples are comparable with ==.
type Tuple struct {
	Src, Dst netip.Addr
	Proto    Proto
	SrcPort  uint16 // port, or GRE key
	DstPort  uint16 // port, or GRE key
	ICMPID   uint16
	ICMPType uint8
	ICMPCode uint8
}

// Proto is an IP protocol number.
type Proto uint8

// Protocols that connection tracking knows by name.
const (
	ProtoICMP    Proto = 1   // IPPROTO_ICMP
	ProtoTCP     Proto = 6   // IPPROTO_TCP
	ProtoUDP     Proto = 17  // IPPROTO_UDP
	ProtoDCCP    Proto = 33  // IPPROTO_DCCP
	ProtoGRE     Proto = 47  // IPPROTO_GRE
	ProtoICMPv6  Proto = 58  // IPPROTO_ICMPV6
	ProtoSCTP    Proto = 132 // IPPROTO_SCTP
	ProtoUDPLite Proto = 136 // IPPROTO_UDPLITE
)

// Family is an address family; the zero value means both.
type Family uint8

// Address families, with the kernel's values.
const (
	FamilyBoth Family = 0  // AF_UNSPEC
	FamilyIPv4 Family = 2  // AF_INET
	FamilyIPv6 Family = 10 // AF_INET6
)

// Counters holds what one direction of a flow has carried.
//
// Both are zero unless net.netfilter.nf_conntrack_acct was 1 when the flow began.
// Wire: CTA_COUNTERS_ORIG or CTA_COUNTERS_REPLY, nested big-endian uint64.
// Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h, enum ctattr_counters.
type Counters struct {
	Packets uint64
	Bytes   uint64 // IP header included
}

// Status is the set of IPS_ bits of a flow.
// Source: include/uapi/linux/netfilter/nf_conntrack_common.h, enum ip_conntrack_status.
type Status uint32

// Status bits.
const (
	StatusExpected     Status = 1 << 0  // IPS_EXPECTED
	StatusSeenReply    Status = 1 << 1  // IPS_SEEN_REPLY
	StatusAssured      Status = 1 << 2  // IPS_ASSURED
	StatusConfirmed    Status = 1 << 3  // IPS_CONFIRMED
	StatusSrcNAT       Status = 1 << 4  // IPS_SRC_NAT
	StatusDstNAT       Status = 1 << 5  // IPS_DST_NAT
	StatusSeqAdjust    Status = 1 << 6  // IPS_SEQ_ADJUST
	StatusSrcNATDone   Status = 1 << 7  // IPS_SRC_NAT_DONE
	StatusDstNATDone   Status = 1 << 8  // IPS_DST_NAT_DONE
	StatusDying        Status = 1 << 9  // IPS_DYING
	StatusFixedTimeout Status = 1 << 10 // IPS_FIXED_TIMEOUT
	StatusTemplate     Status = 1 << 11 // IPS_TEMPLATE
	StatusNATClash     Status = 1 << 12 // IPS_NAT_CLASH, untracked in old kernels
	StatusHelper       Status = 1 << 13 // IPS_HELPER
	StatusOffload      Status = 1 << 14 // IPS_OFFLOAD
	StatusHWOffload    Status = 1 << 15 // IPS_HW_OFFLOAD
)

// TCP is the state of a TCP flow.
type TCP struct {
	State       TCPState
	OrigWScale  uint8 // shift count of the originator's window
	ReplyWScale uint8
	OrigFlags   TCPFlags
	ReplyFlags  TCPFlags
}

// TCPState is the kernel's state of a TCP flow.
// Source: include/uapi/linux/netfilter/nf_conntrack_tcp.h, enum tcp_conntrack.
type TCPState uint8

// TCP states.
const (
	TCPNone        TCPState = 0 // TCP_CONNTRACK_NONE
	TCPSynSent     TCPState = 1
	TCPSynRecv     TCPState = 2
	TCPEstablished TCPState = 3
	TCPFinWait     TCPState = 4
	TCPCloseWait   TCPState = 5
	TCPLastAck     TCPState = 6
	TCPTimeWait    TCPState = 7
	TCPClose       TCPState = 8
	TCPSynSent2    TCPState = 9 // TCP_CONNTRACK_LISTEN's old value
)

// TCPFlags is the set of IP_CT_TCP_FLAG_ bits of one direction.
type TCPFlags uint8

// TCP flags.
const (
	TCPWindowScale TCPFlags = 0x01 // IP_CT_TCP_FLAG_WINDOW_SCALE
	TCPSackPerm    TCPFlags = 0x02 // IP_CT_TCP_FLAG_SACK_PERM
	TCPCloseInit   TCPFlags = 0x04 // IP_CT_TCP_FLAG_CLOSE_INIT
	TCPBeLiberal   TCPFlags = 0x08 // IP_CT_TCP_FLAG_BE_LIBERAL
	TCPDataUnacked TCPFlags = 0x10 // IP_CT_TCP_FLAG_DATA_UNACKNOWLEDGED
	TCPMaxAckSet   TCPFlags = 0x20 // IP_CT_TCP_FLAG_MAXACK_SET
)

// SCTP is the state of an SCTP flow.
type SCTP struct {
	State     SCTPState
	OrigVTag  uint32
	ReplyVTag uint32
}

// SCTPState is the kernel's state of an SCTP flow, enum sctp_conntrack.
type SCTPState uint8

// DCCP is the state of a DCCP flow; kernels from 6.16 on have none.
type DCCP struct {
	State        DCCPState
	Role         uint8 // 0 client, 1 server
	HandshakeSeq uint64
}

// DCCPState is the kernel's state of a DCCP flow, enum ct_dccp_states.
type DCCPState uint8

// SeqAdj is the shift that NAT applies to the sequence numbers of one direction.
type SeqAdj struct {
	CorrectionPos uint32
	OffsetBefore  int32
	OffsetAfter   int32
}

// Synproxy is the state that the SYNPROXY target keeps with a flow.
type Synproxy struct {
	ISN   uint32
	ITS   uint32
	TSOff uint32
}
