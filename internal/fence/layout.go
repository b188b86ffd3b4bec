package fence

import (
	"slices"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/nft"
	"flowcut/selector"
)

// Tag is the priority (skb->priority, SO_PRIORITY) of the segments that we send
// to the ends. It lets them through every fence of every flowcut, also when two
// cut the same flows. Packets from the wire never carry it.
const Tag = 0x666c6f77

// Names of the sets. Flows are keyed by ID and original tuple, so that a packet
// of another flow on the same tuple is not taken for theirs; ends by the tuple
// that they send.
const (
	setCut         = "cut"         // both tuples of each cut flow
	setSeen        = "seen"        // flows that began behind the fence
	setBorn        = "born"        // those of them that the ruleset let through
	setLeaked      = "leaked"      // selected tuples that passed all the same
	setDead        = "dead"        // ends that said that their connection is gone
	setReset       = "reset"       // ends that a reset left for
	setUnreachable = "unreachable" // ends that a port unreachable left for
	setResetCut    = "reset_cut"   // the same, from the guard on, with room for all ends
	setUnreachCut  = "unreachable_cut"
	setKnock       = "knock"  // ends that the guard turned away
	setSpoke       = "spoke"  // ends that were stopped, with the number that a reset for them must have
	setShared      = "shared" // tuples that a flow in another zone has, too
	setSpare       = "spare"  // flows that are left alone
)

// Sizes and lifetimes of the sets that packets fill.
const (
	setSize = 1 << 17
	seenFor = time.Second // a first packet passes all hooks, or waits in a queue and is sent again
)

// Comments of the rules whose counters are read.
const (
	countStopped = "flowcut: stopped"
	countGuarded = "flowcut: turned away"
	countLate    = "flowcut: stopped late"
	countRefused = "flowcut: new, but no room"
	countLeaked  = "flowcut: leaked"
	countLeakCut = "flowcut: leaked on a cut tuple"
	countUntrack = "flowcut: not tracked"
)

// Chains that are filled and emptied while the fence stands.
const (
	chainSelected     = "selected"
	chainLateSelected = "late_selected"
	chainLeakSelected = "leak_selected"
	chainAnswers      = "answers"
	chainTold         = "told"
	chainSpoke        = "spoke"
	chainKnockFlow    = "knock_flow"
	chainKnockPacket  = "knock_packet"
)

// Priorities: just behind conntrack (-200), and just before its confirmation
// (INT_MAX): a new hook comes before those of equal priority.
const (
	prioRaw    = -300
	prioNote   = -199
	prioStop   = -198
	prioLate   = 1<<31 - 2
	prioBehind = 1<<31 - 1
)

// layout builds the table of one family.
type layout struct {
	compiler
	silent   bool
	bridges  bool // call these rules, see pastHooks
	without  Part
	numbers  Numbers
	remember time.Duration // how long sets know when a packet came
	spare    []nft.Element // of the set of flows that are left alone
	selected terms         // under which a flow is meant; none if rules cannot tell
	except   terms         // under which a flow is left alone
}

// table lays the table out. With exact, the rules know the selectors; otherwise
// only tuples that come in with the guard.
func (l *layout) table(name string, meant, except []selector.Selector, exact bool) *nft.Table {
	if exact {
		l.selected = l.any(meant)
		for i := range except {
			l.except = append(l.except, l.compile(&except[i])...)
		}
	}
	tuples := l.flow().Types()
	dynamic := func(name string, key []nft.Type, timeout time.Duration) *nft.Set {
		return &nft.Set{Name: name, Key: key, Dynamic: true, Size: setSize, Timeout: timeout}
	}
	return &nft.Table{
		Family: l.family, Name: name, Owned: true,
		Sets: append(l.sets,
			&nft.Set{Name: setCut, Key: tuples},
			dynamic(setSeen, l.entry().Types(), seenFor), dynamic(setBorn, l.entry().Types(), 0),
			dynamic(setLeaked, tuples, l.remember), dynamic(setReset, tuples, 0), dynamic(setUnreachable, tuples, 0),
			&nft.Set{Name: setSpare, Key: tuples, Elements: l.spare}),
		Chains: []*nft.Chain{
			{Name: "stop", Rules: l.stop(countStopped)},
			{Name: "guard", Rules: l.stop(countGuarded)},
			{Name: chainSpoke},
			{Name: chainKnockFlow},
			{Name: chainKnockPacket},
			{Name: "guard_flow", Rules: rules(nft.Jump(chainKnockFlow), nft.Goto("guard"))},
			{Name: "guard_packet", Rules: rules(nft.Jump(chainKnockPacket), nft.Goto("guard"))},
			{Name: "cut", Rules: l.cut()},
			{Name: chainSelected, Rules: l.each(l.fenced(), nft.Goto("stop"))},
			{Name: chainAnswers},
			{Name: "late", Rules: l.late()},
			{Name: chainLateSelected, Rules: l.each(l.fenced(), nft.Goto("late"))},
			{Name: chainCoarse},
			{Name: chainTold},
			{Name: "leak", Rules: l.leak(countLeaked)},
			{Name: "leak_cut", Rules: l.leak(countLeakCut)},
			{Name: chainLeakSelected, Rules: l.each(l.selected, nft.Goto("leak"))},
			{Name: "kick", Hook: hook(nft.Output, prioRaw), Rules: []nft.Rule{nft.NewRule("", ours, nft.Notrack)}},
			{Name: "note", Hook: hook(nft.Prerouting, prioNote), Rules: l.note()},
			{Name: "note_out", Hook: hook(nft.Output, prioNote), Rules: l.noteOut()},
			{Name: "pre", Hook: hook(nft.Prerouting, prioStop), Rules: l.pre()},
			{Name: "out", Hook: hook(nft.Output, prioStop), Rules: l.out()},
			{Name: "late_in", Hook: hook(nft.Input, prioLate), Rules: l.before("late", chainLateSelected)},
			{Name: "late_post", Hook: hook(nft.Postrouting, prioLate),
				Rules: append(l.tellings(), l.before("late", chainLateSelected)...)},
			{Name: "behind_in", Hook: hook(nft.Input, prioBehind), Rules: l.before("leak_cut", chainLeakSelected)},
			{Name: "behind_post", Hook: hook(nft.Postrouting, prioBehind), Rules: l.before("leak_cut", chainLeakSelected)},
		},
	}
}

func hook(num uint32, prio int32) *nft.Hook {
	return &nft.Hook{Type: "filter", Num: num, Priority: prio}
}

// rules makes a rule of each statement.
func rules(s ...nft.Statement) []nft.Rule {
	var out []nft.Rule
	for _, s := range s {
		out = append(out, nft.NewRule("", s))
	}
	return out
}

// rule joins conditions and what is done when they hold.
func rule(parts ...any) nft.Rule { return nft.NewRule("", flat(parts)...) }

func flat(parts []any) []nft.Statement {
	var out []nft.Statement
	for _, p := range parts {
		switch p := p.(type) {
		case nft.Statement:
			out = append(out, p)
		case []nft.Statement:
			out = append(out, p...)
		}
	}
	return out
}

// Conditions used in many rules.
var (
	ours        = nft.Equal(nft.MetaPriority, nft.U32(Tag))
	confirmed   = nft.Bits(nft.CTStatus, uint32(conntrack.StatusConfirmed), uint32(conntrack.StatusConfirmed))
	unconfirmed = nft.Bits(nft.CTStatus, uint32(conntrack.StatusConfirmed), 0)
	tcp         = nft.Equal(nft.MetaL4Proto, []byte{byte(conntrack.ProtoTCP)})
	notTCP      = nft.Compare{Op: nft.MetaL4Proto, Not: true, Value: []byte{byte(conntrack.ProtoTCP)}}
	related     = nft.AnyBit(nft.CTState, 1<<2)      // NF_CT_STATE_BIT(IP_CT_RELATED)
	noFlow      = nft.AnyBit(nft.CTState, 1<<0|1<<6) // invalid, untracked
	untracked   = nft.AnyBit(nft.CTState, 1<<6)      // NF_CT_STATE_UNTRACKED_BIT
	tracked     = nft.Bits(nft.CTState, 1<<6, 0)
	hasFlow     = nft.Bits(nft.CTState, 1<<0|1<<6, 0)
)

// TCP flag bits.
const (
	fin = 0x01
	syn = 0x02
	rst = 0x04
	ack = 0x10
)

func flags(mask, v byte) nft.Compare {
	return nft.Compare{Op: nft.TCPFlags, Mask: []byte{mask}, Value: []byte{v}}
}

// pastHooks holds for packets whose resets no hook sees: what came in by a
// bridge the kernel answers by the port, as long as bridges call these rules
// (nf_send_reset). Resets are not answered.
var pastHooks = []nft.Statement{flags(rst, 0), nft.Equal(nft.MetaIIFKind, nft.Name("bridge"))}

var (
	resets  = flags(rst, rst)
	pureSYN = flags(fin|syn|rst|ack, syn)
	notSYN  = nft.Compare{Op: nft.TCPFlags, Mask: pureSYN.Mask, Not: true, Value: pureSYN.Value}
)

// flow is the key of a packet's flow: its original tuple.
func (l *layout) flow() nft.Key {
	return nft.Key{nft.CTProto, nft.CTSrc(l.family, nft.Original), nft.CTProtoSrc(nft.Original),
		nft.CTDst(l.family, nft.Original), nft.CTProtoDst(nft.Original)}
}

// entry is the key of the very entry, of which there can be another later. The
// protocol would be a sixth part, and nft(8) can list no more than five; entries
// of two protocols with the same addresses, numbers and ID are a matter of 2^-32.
func (l *layout) entry() nft.Key { return append(nft.Key{nft.CTID}, l.flow()[1:]...) }

// turned is the flow's reply tuple, turned round: what a socket of this host
// takes for its peer and itself, whatever NAT does on the way.
func (l *layout) turned() nft.Key {
	return nft.Key{nft.CTProto, nft.CTDst(l.family, nft.Reply), nft.CTProtoDst(nft.Reply),
		nft.CTSrc(l.family, nft.Reply), nft.CTProtoSrc(nft.Reply)}
}

// spoken is the key of an end of TCP with the number that it expects next.
func (l *layout) spoken() nft.Key { return append(l.packet()[1:], nft.TCPAck) }

// packet is the key of a packet's own header, for packets without a flow.
func (l *layout) packet() nft.Key {
	return nft.Key{nft.MetaL4Proto, nft.Src(l.family), nft.SrcPort, nft.Dst(l.family), nft.DstPort}
}

// answered is the key of the end that a packet goes to.
func (l *layout) answered() nft.Key {
	return nft.Key{nft.MetaL4Proto, nft.Dst(l.family), nft.DstPort, nft.Src(l.family), nft.SrcPort}
}

// icmp is the family's ICMP: its protocol and its type and code of a port unreachable.
func (l *layout) icmp() (proto conntrack.Proto, portUnreachable []byte) {
	if l.family == nft.IPv6 {
		return conntrack.ProtoICMPv6, []byte{1, 4}
	}
	return conntrack.ProtoICMP, []byte{3, 3}
}

func (l *layout) isICMP() nft.Statement {
	proto, _ := l.icmp()
	return nft.Equal(nft.MetaL4Proto, []byte{byte(proto)})
}

// each makes a rule of each term.
func (l *layout) each(t terms, then nft.Statement) []nft.Rule {
	var out []nft.Rule
	for _, term := range t {
		out = append(out, rule(term, then))
	}
	return out
}

// fenced is what the fence stops: all that is selected.
func (l *layout) fenced() terms {
	if l.without&PartFence != 0 {
		return nil
	}
	return l.selected
}

// born lets go the flows that began while the fence stood. It is asked last:
// packets that nobody means must not pay for it.
func (l *layout) born() nft.Rule {
	return rule(nft.Lookup{Key: l.entry(), Set: setBorn}, nft.Accept)
}

// stop ends the way of a packet and tells its sender.
func (l *layout) stop(count string) []nft.Rule {
	if l.silent {
		return []nft.Rule{l.born(), nft.NewRule(count, nft.Counter, nft.Drop)}
	}
	return slices.Concat(
		[]nft.Rule{l.born(), rule(nft.Jump(chainSpoke))},
		l.unseen(setReset),
		[]nft.Rule{
			nft.NewRule(count, tcp, nft.Counter, nft.Reset),
			nft.NewRule(count, nft.Counter, nft.Unreachable(l.family)),
		})
}

// unseen notes ends whose reset no hook sees leave.
func (l *layout) unseen(set string, also ...nft.Statement) []nft.Rule {
	if !l.bridges {
		return nil
	}
	return []nft.Rule{rule(tcp, pastHooks, also, nft.AddTo{Key: l.packet(), Set: set})}
}

// leak counts what passed all the same.
func (l *layout) leak(count string) []nft.Rule {
	return []nft.Rule{
		l.born(),
		nft.NewRule(count, nft.Counter),
		rule(nft.AddTo{Key: l.flow(), Set: setLeaked, Timeout: l.remember}),
	}
}

// spared are packets that no rule may stop: our own, those of flows that are
// to be left alone, and ICMP errors about any flow: ours, which also come back
// in through loopback, and those from outside, which do no harm.
func (l *layout) spared() []nft.Rule {
	out := []nft.Rule{
		rule(ours, nft.Accept),
		rule(l.isICMP(), related, nft.Accept),
	}
	if len(l.spare) > 0 {
		out = append(out,
			rule(nft.Lookup{Key: l.flow(), Set: setSpare}, nft.Accept),
			rule(nft.Lookup{Key: l.turned(), Set: setSpare}, nft.Accept))
	}
	return out
}

// excepted are flows that the selector means and that are left alone. What is
// on a cut tuple must not be judged by it: a flow that conntrack adopts in the
// other direction seems to begin where the cut one ended.
func (l *layout) excepted() []nft.Rule { return l.each(l.except, nft.Accept) }

// note records what must be known before any fence, also that of another
// flowcut, stops the packet. Most packets have nothing of it.
func (l *layout) note() []nft.Rule {
	seen := nft.AddTo{Key: l.entry(), Set: setSeen, Timeout: seenFor}
	return []nft.Rule{
		rule(confirmed, tcp, flags(syn|rst, 0), nft.Accept),
		rule(confirmed, notTCP, nft.Accept),
		rule(ours, nft.Accept),
		rule(nft.Jump(chainAnswers)),
		rule(unconfirmed, tcp, pureSYN, seen),
		rule(unconfirmed, notTCP, nft.Lookup{Key: l.flow(), Not: true, Set: setCut}, seen),
	}
}

// noteOut is note for what this host sends. A rule that puts packets into a zone
// makes conntrack follow our segments in spite of the chain kick. They would be
// flows then, and translated: whoever sends them hears that they did not leave.
func (l *layout) noteOut() []nft.Rule {
	return append([]nft.Rule{rule(ours, tracked, nft.Drop)}, l.note()...)
}

// pre stops packets as soon as conntrack knows their flow. Resets that the
// gateway makes must reach their ends, its own among them: where the packet
// that is answered fits no flow, the reset may fit one, or none.
func (l *layout) pre() []nft.Rule {
	loopback := nft.Equal(nft.MetaIIFName, nft.Name("lo"))
	return append([]nft.Rule{rule(loopback, tcp, resets, nft.Accept)}, l.stopping()...)
}

// out is pre for what the gateway sends itself.
func (l *layout) out() []nft.Rule {
	return append([]nft.Rule{rule(tcp, resets, nft.Accept)}, l.stopping()...)
}

func (l *layout) stopping() []nft.Rule {
	out := append(l.spared(), rule(nft.Jump("cut")))
	return append(append(out, l.excepted()...), rule(confirmed, nft.Jump(chainSelected)))
}

// cut stops what is left of cut flows: the entry itself, what conntrack would
// adopt as a new flow, and what it cannot place. A handshake passes.
func (l *layout) cut() []nft.Rule {
	flow := nft.Lookup{Key: l.flow(), Set: setCut}
	packet := nft.Lookup{Key: l.packet(), Set: setCut}
	var out []nft.Rule
	if l.without&PartFence == 0 {
		out = append(out, rule(confirmed, flow, nft.Goto("stop")))
	}
	if l.without&PartGuard == 0 {
		out = append(out,
			rule(unconfirmed, flow, tcp, notSYN, nft.Goto("guard_flow")),
			rule(unconfirmed, flow, notTCP, nft.Goto("guard_flow")),
			nft.NewRule(countUntrack, untracked, packet, nft.Counter),
			rule(noFlow, tcp, notSYN, packet, nft.Goto("guard_packet")),
			rule(noFlow, notTCP, packet, nft.Goto("guard_packet")))
	}
	return out
}

// before is the last hook before a packet leaves or is taken in: whatever is
// selected, or on a cut tuple, and not spared goes to a chain. Resets are the
// gateway's own here, but for one that was under way; they end connections.
func (l *layout) before(chain, selected string) []nft.Rule {
	out := append([]nft.Rule{rule(tcp, resets, nft.Accept)}, l.spared()...)
	if chain != "late" || l.without&(PartFence|PartGuard) == 0 {
		out = append(out,
			rule(nft.Lookup{Key: l.flow(), Set: setCut}, nft.Goto(chain)),
			rule(noFlow, nft.Lookup{Key: l.packet(), Set: setCut}, nft.Goto(chain)))
	}
	// A selector may hold for packets that have no flow, such as neighbour
	// discovery, which are not its business.
	out = append(append(out, l.excepted()...), rule(hasFlow, nft.Jump(selected)))
	if chain == "late" {
		out = append(out, rule(unconfirmed, tcp, notSYN, nft.Jump(chainCoarse)))
	}
	return out
}

// late admits a flow that began behind the fence and stops all else: what
// was under way when the fence rose, or waited in a queue.
func (l *layout) late() []nft.Rule {
	began := nft.Lookup{Key: l.entry(), Set: setSeen}
	born := nft.AddTo{Key: l.entry(), Set: setBorn}
	return []nft.Rule{
		l.born(),
		rule(unconfirmed, tcp, pureSYN, began, born, nft.Accept),
		rule(unconfirmed, notTCP, began, born, nft.Accept),
		nft.NewRule(countRefused, unconfirmed, tcp, pureSYN, nft.Counter, nft.Drop),
		nft.NewRule(countRefused, unconfirmed, notTCP, nft.Lookup{Key: l.flow(), Not: true, Set: setCut}, nft.Counter, nft.Drop),
		nft.NewRule(countLate, nft.Counter, nft.Drop),
	}
}
