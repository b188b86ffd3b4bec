package conntrack

import (
	"fmt"
	"strconv"
	"strings"
)

// Status is the set of IPS_ bits of a flow.
//
// Wire: CTA_STATUS, big-endian uint32.
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

// statusNames names the bits from the lowest up.
var statusNames = [...]string{
	"EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED", "SRC_NAT", "DST_NAT",
	"SEQ_ADJUST", "SRC_NAT_DONE", "DST_NAT_DONE", "DYING", "FIXED_TIMEOUT",
	"TEMPLATE", "NAT_CLASH", "HELPER", "OFFLOAD", "HW_OFFLOAD",
}

// String returns the names of the set bits, lowest first, joined by commas:
// "SEEN_REPLY,ASSURED,CONFIRMED". The names are the kernel's without IPS_; a
// bit that has none is printed as a number such as "0x10000", no bit as "".
func (s Status) String() string {
	return strings.Join(bitNames(uint32(s), statusNames[:]), ",")
}

// ParseStatus reads what [Status.String] prints. Case does not matter.
func ParseStatus(s string) (Status, error) {
	var st Status
	if s == "" {
		return 0, nil
	}
	for name := range strings.SplitSeq(s, ",") {
		bit, ok := bitByName(name, statusNames[:], 32)
		if !ok {
			return 0, fmt.Errorf("conntrack: no such status: %q", name)
		}
		st |= Status(bit)
	}
	return st, nil
}

// bitNames lists the set bits of v by name, lowest first.
func bitNames(v uint32, names []string) []string {
	var list []string
	for i := range 32 {
		switch {
		case v&(1<<i) == 0:
		case i < len(names):
			list = append(list, names[i])
		default:
			list = append(list, fmt.Sprintf("0x%x", uint32(1)<<i))
		}
	}
	return list
}

// bitByName returns the bit called name, or the number that name is if it has
// no more than size bits.
func bitByName(name string, names []string, size int) (uint32, bool) {
	for i, n := range names {
		if strings.EqualFold(n, name) {
			return 1 << i, true
		}
	}
	if len(name) < 3 || name[:2] != "0x" {
		return 0, false
	}
	n, err := strconv.ParseUint(name[2:], 16, size)
	return uint32(n), err == nil
}

// indexName returns names[i], or i as a number if it has no name.
func indexName(i uint8, names []string) string {
	if int(i) < len(names) {
		return names[i]
	}
	return strconv.Itoa(int(i))
}

// nameIndex is the inverse of indexName. Case does not matter.
func nameIndex(s string, names []string) (uint8, bool) {
	for i, n := range names {
		if strings.EqualFold(n, s) {
			return uint8(i), true
		}
	}
	n, err := strconv.ParseUint(s, 10, 8)
	return uint8(n), err == nil
}
