// Package selector says which flows are meant.
//
// A [Selector] is parsed once and then drives everything: it matches flows in
// user space, narrows a kernel dump, is turned into fence rules by package
// fence, and prints itself.
package selector

import "flowcut/conntrack"

// Selector is a conjunction of conditions on a flow; a condition that is not
// set matches every flow. The zero value matches all flows.
//
// Values may be copied; copies share their lists, which nothing here changes
// after parsing. Any number of goroutines may match at once.
type Selector struct {
	Family conntrack.Family // FamilyBoth matches either; as given, see Families

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

	Zone      Zones // zone of the entry, whichever directions it holds for (nft: ct zone)
	OrigZone  Zones // zone that packets of the original direction are in (nft: ct original zone)
	ReplyZone Zones // zone that packets of the reply direction are in (nft: ct reply zone)

	ID       IDs
	PickedUp Tristate
}

// addrs returns the address conditions with their flags' names.
func (s *Selector) addrs() [5]namedAddrs {
	return [...]namedAddrs{
		{"orig-src", &s.OrigSrc}, {"orig-dst", &s.OrigDst},
		{"reply-src", &s.ReplySrc}, {"reply-dst", &s.ReplyDst}, {"host", &s.Host},
	}
}

type namedAddrs struct {
	name string
	list *Addrs
}

// ports returns the port conditions with their flags' names.
func (s *Selector) ports() [4]namedPorts {
	return [...]namedPorts{
		{"orig-port-src", &s.OrigSrcPort}, {"orig-port-dst", &s.OrigDstPort},
		{"reply-port-src", &s.ReplySrcPort}, {"reply-port-dst", &s.ReplyDstPort},
	}
}

type namedPorts struct {
	name string
	list *Ports
}

// nats returns the conditions on translation with their flags' names.
func (s *Selector) nats() [3]namedNAT {
	return [...]namedNAT{{"dst-nat", &s.DstNAT}, {"src-nat", &s.SrcNAT}, {"any-nat", &s.AnyNAT}}
}

type namedNAT struct {
	name string
	nat  *NAT
}
