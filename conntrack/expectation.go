package conntrack

import "time"

// Expectation is a flow that a helper expects, such as the data connection of
// an FTP session.
//
// Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h, enum ctattr_expect.
type Expectation struct {
	Master Tuple // original tuple of the flow that expects it
	Tuple  Tuple // what is expected, as far as Mask says
	Mask   Tuple // the bits of Tuple that count: addresses and ports; its Proto is Tuple's

	Zone    Zone          // of the master
	Timeout time.Duration // until it expires, whole seconds; 0 for one that does not
	ID      uint32        // kernel's handle of this entry
	Class   uint32        // of the helper's expectations, most have 0 alone
	Flags   ExpectFlags
	Helper  string // name of the helper, "" if the kernel did not say
	Func    string // what the helper does when the flow comes, such as "nat-follow-master"; mostly ""

	// NAT is what the expected flow is translated to: the zero value if
	// nothing is; see NATReply.
	NAT      Tuple
	NATReply bool // NAT is of the reply direction
}

// ExpectFlags is the set of NF_CT_EXPECT_ bits of an expectation.
// Source: include/uapi/linux/netfilter/nf_conntrack_common.h.
type ExpectFlags uint32

// Expectation flags.
const (
	ExpectPermanent ExpectFlags = 0x1 // NF_CT_EXPECT_PERMANENT
	ExpectInactive  ExpectFlags = 0x2 // NF_CT_EXPECT_INACTIVE
	ExpectUserspace ExpectFlags = 0x4 // NF_CT_EXPECT_USERSPACE
)
