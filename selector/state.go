package selector

import (
	"slices"

	"flowcut/conntrack"
)

// States is a list of TCP states; it matches TCP alone, also when negated.
//
// An offloaded flow has no state in the table and matches neither way.
type States struct {
	Set     bool
	Negated bool
	List    []conntrack.TCPState // sorted
}

func parseState(s string) (conntrack.TCPState, *Error) {
	st, err := conntrack.ParseTCPState(s)
	if err != nil || st > conntrack.TCPSynSent2 {
		return 0, wrong(s, "unknown TCP state", "write SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE, SYN_SENT2 or NONE")
	}
	return st, nil
}

// match reports whether the condition holds for a flow.
func (l *States) match(f *conntrack.Flow) bool {
	if !l.Set {
		return true
	}
	return f.Orig.Proto == conntrack.ProtoTCP && f.Has&conntrack.AttrTCP != 0 &&
		slices.Contains(l.List, f.TCP.State) != l.Negated
}
