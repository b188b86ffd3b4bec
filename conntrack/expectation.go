package conntrack

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

// Expectation is a flow that a helper expects, such as the data connection of
// an FTP session.
//
// Values may be copied freely, except that one yielded by
// [Client.DumpExpectations] is overwritten by the next step: copy it to keep it.
// Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h, enum ctattr_expect.
type Expectation struct {
	Master Tuple // original tuple of the flow that expects it
	Tuple  Tuple // what is expected, as far as Mask says

	// Mask has the bits of Tuple that count. Only those of Src and SrcPort are
	// the expectation's own: the kernel compares the rest of Tuple in full and
	// sends ones for it. Its Proto is Tuple's.
	Mask Tuple

	// Zone is that of the master. The kernel takes it in requests and never
	// sends it: after a dump it is 0 for every expectation, and only
	// [Client.GetExpectation] fills it in.
	Zone Zone

	Timeout time.Duration // until it expires, whole seconds; all expire, also the permanent
	ID      uint32        // kernel's handle of this entry, in host byte order of the wire's big-endian value
	Class   uint32        // of the helper's expectations; most helpers have 0 alone
	Flags   ExpectFlags
	Helper  string // name of the helper, "" if there is none or the kernel did not say
	Func    string // what is done to the flow when it comes, such as "nat-follow-master"; mostly ""

	// NAT is what the helper has put aside when it translated the
	// expectation: Src and SrcPort are the address and port that the flow is
	// sent on to, each zero if the master's translation tells it; Dst is zero
	// and Proto is the master's. The zero value if nothing is translated.
	NAT      Tuple
	NATReply bool // the expected flow goes in the reply direction of its master; counts with NAT alone
}

// ExpectFlags is the set of NF_CT_EXPECT_ bits of an expectation.
// Source: include/uapi/linux/netfilter/nf_conntrack_common.h.
type ExpectFlags uint32

// Expectation flags.
const (
	ExpectPermanent ExpectFlags = 0x1 // NF_CT_EXPECT_PERMANENT: a flow that comes does not use it up
	ExpectInactive  ExpectFlags = 0x2 // NF_CT_EXPECT_INACTIVE: no flow is matched with it for now
	ExpectUserspace ExpectFlags = 0x4 // NF_CT_EXPECT_USERSPACE: a program made it; in requests the kernel clears it
)

// ExpectationKey names one expectation. A later one of the same tuple mostly has
// another ID; see [Key].
type ExpectationKey struct {
	Tuple Tuple  // what is expected
	Zone  Zone   // of the master, which a dump does not tell
	ID    uint32 // Expectation.ID; 0 for whichever expects Tuple
}

// Key returns what [Client.DeleteExpectations] needs to delete this
// expectation and no other, if Zone is right.
func (e *Expectation) Key() ExpectationKey { return ExpectationKey{e.Tuple, e.Zone, e.ID} }

// String returns the tuple, the zone if there is one, and the ID.
func (k ExpectationKey) String() string {
	return ofTuple(k.Tuple, k.Zone) + " id " + strconv.FormatUint(uint64(k.ID), 10)
}

// Attributes of an expectation, enum ctattr_expect.
const (
	attrExpectMaster   attrType = 1  // CTA_EXPECT_MASTER
	attrExpectTuple    attrType = 2  // CTA_EXPECT_TUPLE
	attrExpectMask     attrType = 3  // CTA_EXPECT_MASK
	attrExpectTimeout  attrType = 4  // CTA_EXPECT_TIMEOUT
	attrExpectID       attrType = 5  // CTA_EXPECT_ID
	attrExpectHelpName attrType = 6  // CTA_EXPECT_HELP_NAME
	attrExpectZone     attrType = 7  // CTA_EXPECT_ZONE
	attrExpectFlags    attrType = 8  // CTA_EXPECT_FLAGS
	attrExpectClass    attrType = 9  // CTA_EXPECT_CLASS
	attrExpectNAT      attrType = 10 // CTA_EXPECT_NAT
	attrExpectFunc     attrType = 11 // CTA_EXPECT_FN
)

// Members of CTA_EXPECT_NAT, enum ctattr_expect_nat.
const (
	attrExpectNATDir   attrType = 1 // CTA_EXPECT_NAT_DIR
	attrExpectNATTuple attrType = 2 // CTA_EXPECT_NAT_TUPLE
)

// parseExpectation reads the attributes of one message into e, whose old value
// is gone afterwards, also on error. The bytes are not kept; a text that is the
// same as in the old value is not copied again.
func parseExpectation(b []byte, e *Expectation) error {
	helper, fn := e.Helper, e.Func
	*e = Expectation{}
	for len(b) > 0 {
		t, v, rest, err := nextAttr(b, "expectation message")
		if err != nil {
			return err
		}
		b = rest
		switch t {
		case attrExpectHelpName:
			e.Helper, err = parseTextAgain(v, "CTA_EXPECT_HELP_NAME", helper)
		case attrExpectFunc:
			e.Func, err = parseTextAgain(v, "CTA_EXPECT_FN", fn)
		case attrExpectNAT:
			err = e.parseNAT(v)
		case attrExpectMaster, attrExpectTuple, attrExpectMask:
			err = e.parseTuple(t, v)
		default:
			err = e.parseNumber(t, v)
		}
		if err != nil {
			return err
		}
	}
	return e.complete()
}

// complete refuses an expectation that lacks what the kernel always sends.
func (e *Expectation) complete() error {
	switch (Tuple{}) {
	case e.Master:
		return errors.New("expectation message: no CTA_EXPECT_MASTER")
	case e.Tuple:
		return errors.New("expectation message: no CTA_EXPECT_TUPLE")
	case e.Mask:
		return errors.New("expectation message: no CTA_EXPECT_MASK")
	}
	return nil
}

// parseTuple reads one of the three tuples.
func (e *Expectation) parseTuple(t attrType, v []byte) (err error) {
	switch t {
	case attrExpectMaster:
		e.Master, _, _, err = parseTuple(v, "CTA_EXPECT_MASTER")
	case attrExpectTuple:
		e.Tuple, _, _, err = parseTuple(v, "CTA_EXPECT_TUPLE")
	case attrExpectMask:
		e.Mask, _, _, err = parseTuple(v, "CTA_EXPECT_MASK")
	}
	return err
}

// parseNumber reads an attribute that is a number.
func (e *Expectation) parseNumber(t attrType, v []byte) (err error) {
	var n uint32
	var z uint16
	switch t {
	case attrExpectTimeout:
		n, err = parseUint32(v, "CTA_EXPECT_TIMEOUT")
		e.Timeout = time.Duration(n) * time.Second
	case attrExpectID:
		e.ID, err = parseUint32(v, "CTA_EXPECT_ID")
	case attrExpectZone:
		z, err = parseUint16(v, "CTA_EXPECT_ZONE")
		e.Zone = Zone(z)
	case attrExpectFlags:
		n, err = parseUint32(v, "CTA_EXPECT_FLAGS")
		e.Flags = ExpectFlags(n)
	case attrExpectClass:
		e.Class, err = parseUint32(v, "CTA_EXPECT_CLASS")
	}
	return err
}

// parseNAT reads CTA_EXPECT_NAT.
func (e *Expectation) parseNAT(b []byte) error {
	for len(b) > 0 {
		t, v, rest, err := nextAttr(b, "CTA_EXPECT_NAT")
		if err != nil {
			return err
		}
		b = rest
		switch t {
		case attrExpectNATDir:
			var dir uint32
			if dir, err = parseUint32(v, "CTA_EXPECT_NAT_DIR"); err == nil && dir > 1 {
				err = fmt.Errorf("CTA_EXPECT_NAT_DIR: %d is out of range", dir)
			}
			e.NATReply = dir == 1 // IP_CT_DIR_REPLY
		case attrExpectNATTuple:
			e.NAT, _, _, err = parseTuple(v, "CTA_EXPECT_NAT_TUPLE")
		}
		if err != nil {
			return err
		}
	}
	if e.NAT == (Tuple{}) {
		return errors.New("CTA_EXPECT_NAT: no CTA_EXPECT_NAT_TUPLE")
	}
	return nil
}

// appendExpectation appends every attribute of e, as the kernel would send it.
func appendExpectation(b []byte, e *Expectation) ([]byte, error) {
	b, err := e.appendTuples(b)
	if err != nil {
		return nil, err
	}
	b = appendUint32(b, attrExpectID, e.ID)
	return e.appendRest(b)
}

// appendTuples appends the master's tuple, the tuple and its mask.
func (e *Expectation) appendTuples(b []byte) ([]byte, error) {
	for _, t := range [...]struct {
		typ  attrType
		name string
		t    *Tuple
	}{
		{attrExpectMaster, "master tuple", &e.Master},
		{attrExpectTuple, "tuple", &e.Tuple},
		{attrExpectMask, "mask", &e.Mask},
	} {
		if err := t.t.validateWhole(); err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
		b = appendTuple(b, t.typ, t.t, 0, false)
	}
	return b, nil
}

// appendRest appends what requests to make an expectation hold besides its
// tuples.
func (e *Expectation) appendRest(b []byte) ([]byte, error) {
	s := e.Timeout / time.Second
	if s < 0 || s > math.MaxUint32 {
		return nil, fmt.Errorf("timeout out of range: %v", e.Timeout)
	}
	if n := max(len(e.Helper), len(e.Func)); n > maxText {
		return nil, fmt.Errorf("text of %d bytes, at most %d fit", n, maxText)
	}
	b = appendUint32(b, attrExpectTimeout, uint32(s))
	b = appendUint16(b, attrExpectZone, uint16(e.Zone))
	b = appendUint32(b, attrExpectFlags, uint32(e.Flags))
	b = appendUint32(b, attrExpectClass, e.Class)
	if e.Helper != "" {
		b = appendString(b, attrExpectHelpName, e.Helper)
	}
	if e.Func != "" {
		b = appendString(b, attrExpectFunc, e.Func)
	}
	return e.appendNAT(b)
}

// appendNAT appends CTA_EXPECT_NAT if there is a translation.
func (e *Expectation) appendNAT(b []byte) ([]byte, error) {
	if e.NAT == (Tuple{}) {
		return b, nil
	}
	if err := e.NAT.validateWhole(); err != nil {
		return nil, fmt.Errorf("translation: %w", err)
	}
	var dir uint32 // IP_CT_DIR_ORIGINAL
	if e.NATReply {
		dir = 1 // IP_CT_DIR_REPLY
	}
	b, nest := beginNest(b, attrExpectNAT)
	b = appendUint32(b, attrExpectNATDir, dir)
	b = appendTuple(b, attrExpectNATTuple, &e.NAT, 0, false)
	return endNest(b, nest), nil
}
