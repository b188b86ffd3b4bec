package selector

import (
	"slices"
	"strings"

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

// stateNames are the states that --state takes, by conntrack(8)'s names; the
// first of a number is the one it prints.
var stateNames = []struct {
	name  string
	state conntrack.TCPState
}{
	{"NONE", conntrack.TCPNone},
	{"SYN_SENT", conntrack.TCPSynSent},
	{"SYN_RECV", conntrack.TCPSynRecv},
	{"ESTABLISHED", conntrack.TCPEstablished},
	{"FIN_WAIT", conntrack.TCPFinWait},
	{"CLOSE_WAIT", conntrack.TCPCloseWait},
	{"LAST_ACK", conntrack.TCPLastAck},
	{"TIME_WAIT", conntrack.TCPTimeWait},
	{"CLOSE", conntrack.TCPClose},
	{"SYN_SENT2", conntrack.TCPSynSent2},
	{"LISTEN", conntrack.TCPSynSent2},
}

func parseState(s string) (conntrack.TCPState, *Error) {
	for _, n := range stateNames {
		if strings.EqualFold(s, n.name) {
			return n.state, nil
		}
	}
	return 0, wrong(s, "unknown TCP state", "write SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE, SYN_SENT2 or NONE")
}

func stateString(st conntrack.TCPState) string {
	for _, n := range stateNames {
		if n.state == st {
			return n.name
		}
	}
	return "NONE"
}

// match reports whether the condition holds for a flow.
func (l *States) match(f *conntrack.Flow) bool {
	if !l.Set {
		return true
	}
	return f.Orig.Proto == conntrack.ProtoTCP && f.Has&conntrack.AttrTCP != 0 &&
		slices.Contains(l.List, f.TCP.State) != l.Negated
}
