// Package bypass takes packets out of connection tracking by rules of its own,
// until a time is over or somebody takes the rules away: the cure for a table that
// one service fills. It needs no process meanwhile: what is to end has an element
// in a set that the kernel lets expire.
package bypass

import (
	"fmt"
	"slices"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/fence"
	"flowcut/internal/nft"
	"flowcut/selector"
)

// Name is that of the tables, of family ip and ip6. A table inet would need no
// second one, but its sets cannot hold addresses of both families.
const Name = "flowcut-bypass"

// Bypass is packets that are not tracked: those that the originators of a
// selection send, and the answers to them, whoever they come from or go to: what
// is forwarded, taken in and sent.
type Bypass struct {
	Number   int
	Selector selector.Selector
	Families []conntrack.Family
	Stays    bool          // until it is removed
	Left     time.Duration // until it ends by itself; 0 when it stays, or is over
	Sent     nft.Count     // packets of originators; or all, where a condition holds for both directions alike
	Returned nft.Count     // answers
}

// Over tells that its time is over: its rules do nothing any more.
func (b *Bypass) Over() bool { return !b.Stays && b.Left == 0 }

// Has tells whether its rules are in a chain, as "ip flowcut-bypass bypass1".
func (b *Bypass) Has(chain string) bool {
	return slices.ContainsFunc(b.Families, func(f conntrack.Family) bool {
		return chain == fmt.Sprintf("%s %s %s", nft.Family(f), Name, numbered(chainRules, b.Number))
	})
}

// Check refuses selections that cannot be said of packets that are not tracked,
// and those that leave nothing out. Errors are of type *selector.Error.
func Check(s *selector.Selector) error {
	const (
		untranslated = "nothing translates packets that are not tracked"
		flowless     = "packets that are not tracked have no flow, which is what has it"
		leave        = "leave it out"
	)
	for _, c := range []struct {
		set                 bool
		flag, problem, hint string
	}{
		{s.ReplySrc.Set, "reply-src", untranslated, "write --orig-dst, which means the answers' source, too"},
		{s.ReplyDst.Set, "reply-dst", untranslated, "write --orig-src, which means the answers' destination, too"},
		{s.ReplySrcPort.Set, "reply-port-src", untranslated, "write --orig-port-dst, which means the answers' source, too"},
		{s.ReplyDstPort.Set, "reply-port-dst", untranslated, "write --orig-port-src, which means the answers' destination, too"},
		{s.DstNAT.Set, "dst-nat", untranslated, leave},
		{s.SrcNAT.Set, "src-nat", untranslated, leave},
		{s.AnyNAT.Set, "any-nat", untranslated, leave},
		{s.Status.Set, "status", flowless, leave},
		{s.State.Set, "state", flowless, leave},
		{s.Mark.Set, "mark", flowless, leave},
		{s.Labels.Set, "label", flowless, leave},
		{s.Zone.Set, "zone", flowless, leave},
		{s.OrigZone.Set, "orig-zone", flowless, leave},
		{s.ReplyZone.Set, "reply-zone", flowless, leave},
		{s.ID.Set, "id", flowless, leave},
		{s.PickedUp != selector.Any, "picked-up", flowless, leave},
	} {
		if c.set {
			return &selector.Error{Flag: c.flag, Problem: c.problem, Hint: c.hint}
		}
	}
	switch {
	case s.Empty():
		return &selector.Error{Problem: "no packet can match", Hint: "look whether a list is empty"}
	case !s.Narrows():
		return &selector.Error{Problem: "nothing narrows the selection", Hint: "give an address or a port: whole protocols would not be tracked any more"}
	}
	for _, f := range s.Families() { // a negated address means all of the other family
		if one := *s; len(s.Families()) > 1 {
			if one.Family = f; !one.Narrows() {
				return &selector.Error{Problem: fmt.Sprintf("nothing narrows the selection in %s", f), Hint: "give --family for the other one: whole protocols would not be tracked any more"}
			}
		}
	}
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		if _, _, _, ok := fence.Header(family, *s, ""); !ok {
			return &selector.Error{Problem: "too many alternatives for rules that each packet meets", Hint: "give fewer ranges, or add several"}
		}
	}
	return nil
}

// meant tells by their headers which packets are meant.
type meant struct{ selector selector.Selector }

// packet tells whether a packet with a tuple is.
func (m *meant) packet(t conntrack.Tuple) bool {
	sent := conntrack.Flow{Orig: t, Reply: t.Invert()}
	answer := conntrack.Flow{Orig: sent.Reply, Reply: t}
	return m.selector.Match(&sent) || m.selector.Match(&answer)
}

// flow tells whether packets of a flow are, as they come in: before translation.
// A flow that is translated may be meant in one direction alone.
func (m *meant) flow(f *conntrack.Flow) bool {
	return m.packet(f.Orig) || f.Reply != f.Orig.Invert() && m.packet(f.Reply)
}

// families are those of nf_tables that a selection can mean.
func families(s *selector.Selector) []nft.Family {
	var out []nft.Family
	for _, f := range s.Families() {
		out = append(out, nft.Family(f))
	}
	slices.Sort(out)
	return out
}
