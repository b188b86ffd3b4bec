package cut

import (
	"iter"

	"flowcut/conntrack"
)

// member is a flow that is cut.
type member struct {
	key      conntrack.Key
	reply    conntrack.Tuple
	zone     conntrack.Zone // of either direction: an entry has one
	oneWay   bool           // and it is that of one direction alone
	mark     conntrack.Mark
	master   *conntrack.Tuple // original tuple of the flow that expected it
	why      why
	shared   bool      // there is a flow of another zone on one of its tuples: answers cannot be told apart
	offload  offload   // what forwarded it past the hooks when it was listed
	tcp      bool      // its ends are asked for a sign of death
	open     bool      // and it must be given, see certain
	closed   bool      // but the gateway takes it for closed
	free     bool      // not under the guard: the ruleset judges its next packet
	crowd    bool      // one of too many: under the coarse guard, and not asked
	deleted  bool      // asked the kernel to
	gone     bool      // had no entry any more by then
	unheard  bool      // those that listen to events may not have heard of its end
	released bool      // what it was offloaded to has let go of it, that is seen
	remains  bool      // still has one at the end
	dead     [2]bool   // originator and responder: somebody answered for them
	died     [2]Millis // when that was heard, since Options.Start
	alive    [2]bool   // and they have gone on sending since
	told     [2]bool   // a reset of ours left for them: they had spoken
	reset    [2]bool   // one of those that we send ourselves

	adopted   bool            // looks picked up: which end began it is not known
	asked     bool            // a SYN of ours left for it past all rules
	unreached [2]bool         // a port unreachable of ours left past all rules
	flow      *conntrack.Flow // with Options.Flows alone

	wants    wants
	returned uint32 // how often an entry came back

	listed uint32   // the last listing that has turned it up
	next   [2]endID // the end that had each end's tuple before
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

// memberList is a list of members.
type memberList []*member

// members are the flows that are cut, found by what their ends send.
type members struct {
	list memberList
	ends map[wire]endID // the newest end on a tuple; the others follow by member.next
}

// endID names an end: twice the place of its member in the list, plus 1, plus 1
// for the responder. 0 names none.
type endID uint32

// end is an end of a member.
type end struct {
	m *member
	i int // 0 the originator, 1 the responder
}

// wire is a tuple without pointers, which a map of millions needs.
type wire struct {
	src, dst     [16]byte
	sport, dport uint16
	icmp         uint16
	typ, code    uint8
	proto        conntrack.Proto
	six          bool
}

func wireOf(t conntrack.Tuple) wire {
	return wire{
		src: t.Src.As16(), dst: t.Dst.As16(), sport: t.SrcPort, dport: t.DstPort,
		icmp: t.ICMPID, typ: t.ICMPType, code: t.ICMPCode, proto: t.Proto, six: t.Src.Is6(),
	}
}

// get returns the end of a name, and whether it names one.
func (ms *members) get(id endID) (e end, ok bool) {
	if id == 0 {
		return end{}, false
	}
	return end{ms.list[(id-1)/2], int((id - 1) % 2)}, true
}

// on returns the ends that send a tuple, the newest first: there are several
// where flows of other zones, or earlier flows, are cut, too.
func (ms *members) on(t conntrack.Tuple) iter.Seq[end] {
	return func(yield func(end) bool) {
		e, ok := ms.get(ms.ends[wireOf(t)])
		for ok && yield(e) {
			e, ok = ms.get(e.m.next[e.i])
		}
	}
}

// newest returns the newest end that sends a tuple.
func (ms *members) newest(t conntrack.Tuple) (end, bool) { return ms.get(ms.ends[wireOf(t)]) }

// in returns the newest end that sends a tuple in a zone.
func (ms *members) in(t conntrack.Tuple, zone conntrack.Zone) (end, bool) {
	for e := range ms.on(t) {
		if e.m.zone == zone {
			return e, true
		}
	}
	return end{}, false
}

// of returns the member that an entry belongs to, nil if it is none's.
func (ms *members) of(k conntrack.Key) *member {
	for e := range ms.on(k.Orig) {
		if e.i == 0 && e.m.key == k {
			return e.m
		}
	}
	return nil
}

// newMember makes a member of an entry.
func newMember(f *conntrack.Flow, keep bool) *member {
	m := &member{
		key: f.Key(), reply: f.Reply, zone: f.Zone | f.OrigZone | f.ReplyZone, mark: f.Mark,
		oneWay: f.OrigZone|f.ReplyZone != 0,
		tcp:    f.Orig.Proto == conntrack.ProtoTCP, offload: offloadOf(f.Status),
	}
	if f.Has&conntrack.AttrMaster != 0 {
		master := f.Master
		m.master = &master
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

// bare returns the flow as far as its tuples and zones go.
func (m *member) bare() *conntrack.Flow {
	f := &conntrack.Flow{Has: conntrack.AttrReply, Orig: m.key.Orig, Reply: m.reply}
	switch {
	case !m.oneWay:
		f.Has, f.Zone = f.Has|conntrack.AttrZone, m.zone
	case m.key.Zone != 0:
		f.Has, f.OrigZone = f.Has|conntrack.AttrOrigZone, m.zone
	default:
		f.Has, f.ReplyZone = f.Has|conntrack.AttrReplyZone, m.zone
	}
	return f
}

// watched tells whether an entry on the member's tuples is its own, or has come
// back: there may be one of another flow where the guard lets the tuples go.
func (m *member) watched() bool { return !m.free || !m.deleted }

func (ms *members) add(m *member) {
	if ms.ends == nil {
		ms.ends = map[wire]endID{}
	}
	ms.list = append(ms.list, m)
	for i := range 2 {
		w := wireOf(m.end(i))
		if m.next[i] = ms.ends[w]; m.next[i] != 0 {
			if old, _ := ms.get(m.next[i]); old.m.zone != m.zone {
				old.m.shared, m.shared = true, true
			}
		}
		ms.ends[w] = endID(2*len(ms.list) - 1 + i)
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
func (ms memberList) shared() (n int) {
	for _, m := range ms {
		if m.shared {
			n++
		}
	}
	return n
}

// held tells whether there are flows without a handshake.
func (ms memberList) held() bool {
	for _, m := range ms {
		if !m.tcp {
			return true
		}
	}
	return false
}

// revived counts the ends that were taken for dead and went on.
func (ms memberList) revived() (n int) {
	for _, m := range ms {
		for _, alive := range m.alive {
			if alive {
				n++
			}
		}
	}
	return n
}

// unheard counts the flows whose end may not have been heard of.
func (ms memberList) unheard() (n int) {
	for _, m := range ms {
		if m.unheard {
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

func (ms memberList) unconfirmed() (n unconfirmed) {
	for _, m := range ms {
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
