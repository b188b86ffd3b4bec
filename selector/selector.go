// Package selector says which flows are meant.
//
// A [Selector] is parsed once and then drives everything: it matches flows in
// user space, narrows a kernel dump, is turned into fence rules by package
// fence, and prints itself.
package selector

import (
	"net/netip"

	"flowcut/conntrack"
)

// Selector is a conjunction of conditions on a flow; a condition that is not
// set matches every flow. The zero value matches all flows.
type Selector struct {
	Family conntrack.Family // FamilyBoth matches either

	OrigSrc  Addrs // source of the original tuple
	OrigDst  Addrs // destination of the original tuple
	ReplySrc Addrs // source of the reply tuple
	ReplyDst Addrs // destination of the reply tuple
	Host     Addrs // any of the four; negated: none of the four

	Proto Protos

	OrigSrcPort  Ports
	OrigDstPort  Ports
	ReplySrcPort Ports
	ReplyDstPort Ports

	DstNAT NAT // flows whose destination is translated
	SrcNAT NAT // flows whose source is translated
	AnyNAT NAT // either

	Status Statuses
	State  States
	Mark   Marks
	Labels LabelBits

	Zone      Zones // zone of either direction
	OrigZone  Zones
	ReplyZone Zones

	ID       IDs
	PickedUp Tristate
}

// Addrs is a list of addresses. Set tells whether the condition exists; a set
// list without ranges matches nothing (or everything, when negated).
type Addrs struct {
	Set     bool
	Negated bool
	Ranges  []AddrRange // sorted, disjoint, not adjacent; IPv4 before IPv6; never IPv4-mapped
}

// AddrRange is an inclusive range of addresses of one family.
type AddrRange struct{ From, To netip.Addr }

// Ports is a list of ports, host byte order. It matches protocols with ports
// alone: TCP, UDP, UDP-Lite, SCTP and DCCP, also when negated.
type Ports struct {
	Set     bool
	Negated bool
	Ranges  []PortRange // sorted, disjoint, not adjacent
}

// PortRange is an inclusive range of ports.
type PortRange struct{ From, To uint16 }

// Protos is a list of protocols.
type Protos struct {
	Set     bool
	Negated bool
	List    []conntrack.Proto // sorted
}

// NAT is a condition on translation: with no targets, that there is any;
// otherwise that one of the targets is what the flow is translated to.
// For DNAT the target is the source of the reply tuple, for SNAT its destination.
type NAT struct {
	Set     bool
	Negated bool
	Targets []NATTarget
}

// NATTarget is an address range with a port; Port 0 means any.
type NATTarget struct {
	Addrs AddrRange
	Port  uint16
}

// Statuses is a condition on status bits: all of Bits are set and none of Clear.
// Negated: not so.
type Statuses struct {
	Set     bool
	Negated bool
	Bits    conntrack.Status
	Clear   conntrack.Status // UNREPLIED is SEEN_REPLY clear
}

// States is a list of TCP states; it matches TCP alone, also when negated.
type States struct {
	Set     bool
	Negated bool
	List    []conntrack.TCPState
}

// Marks is a list of mark conditions, flow.Mark & Mask == Value.
type Marks struct {
	Set     bool
	Negated bool
	List    []MaskedMark
}

// MaskedMark is one mark condition; without a mask given Mask is all ones.
type MaskedMark struct{ Value, Mask conntrack.Mark }

// LabelBits is a condition on labels: all of Bits are set.
type LabelBits struct {
	Set     bool
	Negated bool
	Bits    conntrack.Labels
}

// Zones is a list of zones.
type Zones struct {
	Set     bool
	Negated bool
	List    []conntrack.Zone // sorted
}

// IDs is a list of entry ids.
type IDs struct {
	Set     bool
	Negated bool
	List    []uint32 // sorted
}

// Tristate is a condition on a yes or no.
type Tristate uint8

// The three states; the zero value is no condition.
const (
	Any Tristate = iota
	Yes
	No
)
