package cut

import (
	"time"

	"flowcut/conntrack"
)

// member is a flow that is cut.
type member struct {
	key     conntrack.Key
	reply   conntrack.Tuple
	zone    conntrack.Zone // of either direction: an entry has one
	mark    conntrack.Mark
	master  conntrack.Tuple // original tuple of the flow that expected it, zero without one
	why     why
	shared  bool         // there is a flow of another zone on one of its tuples: answers cannot be told apart
	offload bool         // a flowtable forwards it past the hooks
	tcp     bool         // its ends are asked for a sign of death
	open    bool         // and it must be given, see certain
	closed  bool         // but the gateway takes it for closed
	free    bool         // not under the guard: the ruleset judges its next packet
	deleted bool         // asked the kernel to
	gone    bool         // had no entry any more by then
	remains bool         // still has one at the end
	dead    [2]bool      // originator and responder: somebody answered for them
	died    [2]time.Time // when that was heard
	alive   [2]bool      // and they have gone on sending since
	told    [2]bool      // a reset of ours left for them: they had spoken
	reset   [2]bool      // one of those that we send ourselves

	adopted   bool            // looks picked up: which end began it is not known
	asked     bool            // a SYN of ours left for it past all rules
	unreached [2]bool         // a port unreachable of ours left past all rules
	flow      *conntrack.Flow // with Options.Flows alone
}

// why says why a flow is cut.
type why uint8

const (
	selected why = iota // the selector means it, or it is on a cut tuple
	mirrored            // conntrack adopted it in the other direction after an earlier deletion
	related             // a cut flow expected it
)

// end returns the tuple that an end sends: 0 the originator, 1 the responder.
func (m *member) end(i int) conntrack.Tuple {
	if i == 0 {
		return m.key.Orig
	}
	return m.reply
}

// members are the flows that are cut, found by their entry and by what their
// ends send.
type members struct {
	list []*member
	keys map[conntrack.Key]*member
	ends map[conntrack.Tuple]endRef
}

// endRef names one end of a member, and the ends of others on the same tuple:
// of flows in other zones, and of earlier ones.
type endRef struct {
	m    *member
	i    int
	more *endRef
}

// in returns the end that is in a zone.
func (e *endRef) in(zone conntrack.Zone) (*endRef, bool) {
	for ; e != nil; e = e.more {
		if e.m != nil && e.m.zone == zone {
			return e, true
		}
	}
	return nil, false
}

// newMember makes a member of an entry.
func newMember(f *conntrack.Flow, keep bool) *member {
	m := &member{
		key: f.Key(), reply: f.Reply, zone: f.Zone | f.OrigZone | f.ReplyZone, mark: f.Mark,
		tcp: f.Orig.Proto == conntrack.ProtoTCP, offload: f.Status&(conntrack.StatusOffload|conntrack.StatusHWOffload) != 0,
	}
	if f.Has&conntrack.AttrMaster != 0 {
		m.master = f.Master
	}
	if m.tcp {
		m.open, m.closed = open(f.TCP.State)
		m.adopted = f.PickedUp()
		if f.Has&conntrack.AttrTCP == 0 { // the kernel does not say, as of one that is offloaded
			m.open = true
		}
	}
	if keep {
		m.flow = f.Clone()
	}
	return m
}

func (ms *members) add(m *member) {
	if ms.ends == nil {
		ms.keys, ms.ends = map[conntrack.Key]*member{}, map[conntrack.Tuple]endRef{}
	}
	ms.list = append(ms.list, m)
	ms.keys[m.key] = m
	for i := range 2 {
		ref := endRef{m: m, i: i}
		if old, ok := ms.ends[m.end(i)]; ok && old.m != m {
			ref.more = &old
			if old.m.zone != m.zone {
				old.m.shared, m.shared = true, true
			}
		}
		ms.ends[m.end(i)] = ref
	}
}

// open tells whether a TCP flow can be a connection that lives, and whether
// the gateway takes it for closed all the same. Where the handshake has not
// been answered there is none yet. CLOSE is what the fence's resets make of a
// flow by the time it is listed. TIME_WAIT is the gateway's opinion: a client
// can bring it about with segments that get no further.
func open(s conntrack.TCPState) (open, closed bool) {
	switch s {
	case conntrack.TCPNone, conntrack.TCPSynSent, conntrack.TCPSynSent2:
		return false, false
	case conntrack.TCPTimeWait:
		return true, true
	}
	return true, false
}

// certain tells whether the connection is gone for good. An end is dead by its
// answer to a probe, but a host on the way that has taken its place, or has
// lost track of it, answers likewise. So one end's answer counts if it had
// spoken on the connection before, and was reset; or if both ends answer; or
// if the gateway had seen the connection close.
func (m *member) certain() bool {
	switch {
	case m.shared:
		return false
	case m.dead[0] && m.dead[1]:
		return true
	case m.closed:
		return m.dead[0] || m.dead[1]
	}
	return m.dead[0] && m.told[0] || m.dead[1] && m.told[1]
}

// shared counts the flows that have a tuple in common with one in another zone.
func (ms *members) shared() (n int) {
	for _, m := range ms.list {
		if m.shared {
			n++
		}
	}
	return n
}

// revived counts the ends that were taken for dead and went on.
func (ms *members) revived() (n int) {
	for _, m := range ms.list {
		for _, alive := range m.alive {
			if alive {
				n++
			}
		}
	}
	return n
}

// offloaded counts the flows that a flowtable forwards.
func (ms *members) offloaded() (n int) {
	for _, m := range ms.list {
		if m.offload {
			n++
		}
	}
	return n
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
	flows      int // open flows that are not certain
	ends       int // ends of open flows
	halfOpen   int // flows whose handshake was not answered, not certain
	otherEnds  int // ends of those
	lonelyDead int // flows of which one end is dead and has not been told
}

func (ms *members) unconfirmed() (n unconfirmed) {
	for _, m := range ms.list {
		if !m.tcp {
			continue
		}
		flows, ends := &n.flows, &n.ends
		if !m.open {
			flows, ends = &n.halfOpen, &n.otherEnds
		}
		for i, dead := range m.dead {
			if !dead {
				*ends++
			} else if !m.dead[1-i] && !m.told[i] {
				n.lonelyDead++
			}
		}
		if !m.certain() {
			*flows++
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
