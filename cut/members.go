package cut

import "flowcut/conntrack"

// member is a flow that is cut.
type member struct {
	key     conntrack.Key
	reply   conntrack.Tuple
	open    bool            // TCP with a connection that has not been closed
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
	m := &member{key: f.Key(), reply: f.Reply, open: open(f)}
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

// open tells whether a flow is a TCP connection with sockets that must be
// told. Where the handshake has not been answered there is no connection yet,
// and in TIME_WAIT there is none any more. CLOSE counts as open: it is what the
// fence's resets make of a flow by the time it is listed. Ends that had closed
// before answer that they are dead.
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

// withHandshake tells whether a new flow on a tuple begins with a handshake
// that the ruleset judges, so that its packets alone cannot make it.
func withHandshake(m *member) bool { return m.key.Orig.Proto == conntrack.ProtoTCP }

// unconfirmed counts open members by how many of their ends are not known to
// be dead: none known dead, and ends missing in all.
func (ms *members) unconfirmed() (flows, ends int) {
	for _, m := range ms.list {
		if !m.open {
			continue
		}
		n := 0
		for _, dead := range m.dead {
			if !dead {
				n++
			}
		}
		ends += n
		if n == 2 {
			flows++
		}
	}
	return flows, ends
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
	if m.open {
		state := func(dead bool) End {
			if dead {
				return EndDead
			}
			return EndSilent
		}
		r.Originator, r.Responder = state(m.dead[0]), state(m.dead[1])
	}
	return r
}
