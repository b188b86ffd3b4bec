package cut

import "flowcut/conntrack"

// member is a flow that is cut.
type member struct {
	key     conntrack.Key
	reply   conntrack.Tuple
	tcp     bool            // its ends are asked for a sign of death
	open    bool            // and one must give it
	free    bool            // not under the guard: the ruleset judges its next packet
	deleted bool            // asked the kernel to
	gone    bool            // had no entry any more by then
	remains bool            // still has one at the end
	dead    [2]bool         // originator and responder
	flow    *conntrack.Flow // with Options.Flows alone
}

// end returns the tuple that an end sends: 0 the originator, 1 the responder.
func (m *member) end(i int) conntrack.Tuple {
	if i == 0 {
		return m.key.Orig
	}
	return m.reply
}

// members are the flows that are cut, found by what their ends send.
type members struct {
	list []*member
	ends map[conntrack.Tuple]endRef
}

// endRef names one end of a member.
type endRef struct {
	m *member
	i int
}

// newMember makes a member of an entry.
func newMember(f *conntrack.Flow, keep bool) *member {
	m := &member{key: f.Key(), reply: f.Reply, tcp: f.Orig.Proto == conntrack.ProtoTCP, open: open(f)}
	if keep {
		m.flow = f.Clone()
	}
	return m
}

func (ms *members) add(m *member) {
	if ms.ends == nil {
		ms.ends = map[conntrack.Tuple]endRef{}
	}
	ms.list = append(ms.list, m)
	for i := range 2 {
		ms.ends[m.end(i)] = endRef{m, i}
	}
}

// open tells whether a flow is a TCP connection, by all that the gateway knows:
// where the handshake has not been answered there is none yet, and in TIME_WAIT
// there is none any more. CLOSE counts as open: it is what the fence's resets
// make of a flow by the time it is listed. Ends that had closed before answer
// that they are dead.
func open(f *conntrack.Flow) bool {
	if f.Orig.Proto != conntrack.ProtoTCP {
		return false
	}
	switch f.TCP.State {
	case conntrack.TCPNone, conntrack.TCPSynSent, conntrack.TCPSynSent2, conntrack.TCPTimeWait:
		return false
	}
	return true
}

// tuples returns what both ends of members send.
func tuples(list []*member) []conntrack.Tuple {
	out := make([]conntrack.Tuple, 0, 2*len(list))
	for _, m := range list {
		out = append(out, m.key.Orig, m.reply)
	}
	return out
}

// unconfirmed counts what is not known to be dead.
type unconfirmed struct {
	flows  int // open flows with neither end
	ends   int // ends of open flows
	others int // ends of TCP flows that are not open
}

func (ms *members) unconfirmed() (n unconfirmed) {
	for _, m := range ms.list {
		missing := 0
		for _, dead := range m.dead {
			if !dead {
				missing++
			}
		}
		switch {
		case !m.tcp:
		case !m.open:
			n.others += missing
		default:
			n.ends += missing
			if missing == 2 {
				n.flows++
			}
		}
	}
	return n
}

// outcome says what became of the member's entry.
func (m *member) outcome() Outcome {
	switch {
	case m.remains:
		return Remaining
	case m.gone || !m.deleted:
		return Vanished
	}
	return Deleted
}

// report is the member's line in the receipt.
func (m *member) report() FlowReport {
	r := FlowReport{Flow: m.flow, Outcome: m.outcome()}
	for i, e := range []*End{&r.Originator, &r.Responder} {
		switch {
		case m.dead[i]:
			*e = EndDead
		case m.open:
			*e = EndSilent
		}
	}
	return r
}
