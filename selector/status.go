package selector

import (
	"strings"

	"flowcut/conntrack"
)

// Statuses is a condition on status bits: all of Bits are set and none of Clear.
// Negated: not so.
type Statuses struct {
	Set     bool
	Negated bool
	Bits    conntrack.Status
	Clear   conntrack.Status // UNREPLIED is SEEN_REPLY clear
}

// statusMask are the bits that --status takes, those that differ between the
// entries of a table. CONFIRMED and the _DONE bits are set on every entry, so a
// condition on them would only look like one.
const statusMask = conntrack.StatusExpected | conntrack.StatusSeenReply | conntrack.StatusAssured |
	conntrack.StatusSrcNAT | conntrack.StatusDstNAT | conntrack.StatusSeqAdjust |
	conntrack.StatusFixedTimeout | conntrack.StatusHelper | conntrack.StatusOffload | conntrack.StatusHWOffload

const nameUnreplied = "UNREPLIED"

// add reads one status name into the condition.
func (c *Statuses) add(s string) *Error {
	bits, clear := c.Bits, c.Clear
	if strings.EqualFold(s, nameUnreplied) {
		clear |= conntrack.StatusSeenReply
	} else if bit, err := conntrack.ParseStatus(s); err == nil && bit&^statusMask == 0 {
		bits |= bit
	} else if strings.EqualFold(s, "UNSET") {
		return wrong(s, "no status to look for", "write UNREPLIED, or ! --status ASSURED")
	} else {
		return wrong(s, "unknown status", "write ASSURED, SEEN_REPLY, UNREPLIED, EXPECTED, SRC_NAT, DST_NAT, FIXED_TIMEOUT, SEQ_ADJUST, HELPER, OFFLOAD or HW_OFFLOAD")
	}
	if bits&clear != 0 {
		return wrong(s, "SEEN_REPLY and UNREPLIED exclude each other", "give one of them")
	}
	c.Bits, c.Clear = bits, clear
	return nil
}

// names returns the condition as --status takes it.
func (c *Statuses) names() []string {
	var out []string
	if c.Bits != 0 {
		out = append(out, c.Bits.String())
	}
	if c.Clear&conntrack.StatusSeenReply != 0 {
		out = append(out, nameUnreplied)
	}
	return out
}

// match reports whether the condition holds for the status of a flow.
func (c *Statuses) match(s conntrack.Status) bool {
	return !c.Set || (s&c.Bits == c.Bits && s&c.Clear == 0) != c.Negated
}
