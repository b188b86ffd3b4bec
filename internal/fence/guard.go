package fence

import (
	"context"
	"fmt"
	"slices"

	"flowcut/internal/nft"
	"flowcut/selector"
)

// chainCoarse turns away what GuardCoarse means; it is empty until then.
const chainCoarse = "coarse"

// Coarse tells whether GuardCoarse can be called.
func (f *Fence) Coarse() bool { return len(f.mirrors) > 0 }

func mirrored(list []selector.Selector) []selector.Selector {
	var out []selector.Selector
	for i := range list {
		out = append(out, list[i].Mirror())
	}
	return out
}

// GuardCoarse guards by the selector instead of tuples: TCP flows that do not
// begin with a SYN, and that the selector or its mirror means, do not become
// entries. It needs no memory and takes no time however many flows are cut. The
// price is that it is not exact: what conntrack would adopt of other such flows,
// because it has lost or never seen them, is dropped as long as it stands. So it
// drops, and does not reset: they go on afterwards. UDP and the like, where no
// packet tells that it is the first, it leaves alone, and so what conntrack cannot
// place or does not track.
//
// Coarse must hold.
func (f *Fence) GuardCoarse(context.Context) error {
	for _, r := range f.tables {
		for _, b := range r.coarse(f.mirrors, f.mirroredExcept) {
			if err := f.conn.Commit(b); err != nil {
				return fmt.Errorf("fence: guard by the selector: %w", err)
			}
		}
	}
	return nil
}

// coarse adds the sets that the rules of the chain need, and then these: see Raise.
func (r *raised) coarse(mirrors, except []selector.Selector) []*nft.Batch {
	had := len(r.sets)
	spared := r.any(except)
	meant := append(slices.Clone(r.selected), r.any(mirrors)...)
	sets, chain := new(nft.Batch), new(nft.Batch)
	for _, set := range r.sets[had:] {
		sets.AddSet(r.table, set)
		sets.AddElements(r.table, set.Name, set.Elements)
	}
	rules := r.each(spared, nft.Accept)
	for _, t := range meant {
		rules = append(rules, nft.NewRule(countGuarded, flat([]any{t, nft.Counter, nft.Drop})...))
	}
	chain.AddRules(r.table, chainCoarse, rules)
	return []*nft.Batch{sets, chain}
}

// guard returns the sets and rules that come in with the first cut tuples,
// when it is known how many ends there can be.
func (l *layout) guard(size uint32) (sets []*nft.Set, chains []*nft.Chain) {
	for _, name := range []string{setDead, setResetCut, setUnreachCut, setKnock} {
		sets = append(sets, &nft.Set{Name: name, Key: l.packet().Types(), Dynamic: true, Size: size})
	}
	sets[len(sets)-1].Timeout = l.remember
	sets = append(sets,
		&nft.Set{Name: setSpoke, Key: l.spoken().Types(), Dynamic: true, Size: size, Timeout: l.remember},
		&nft.Set{Name: setShared, Key: l.packet().Types()})
	return sets, []*nft.Chain{
		{Name: chainSpoke, Rules: append([]nft.Rule{
			rule(tcp, flags(syn|rst|ack, ack), isCut(l.packet()), nft.AddTo{Key: l.spoken(), Set: setSpoke, Timeout: l.remember}),
		}, l.unseen(setResetCut, isCut(l.packet()))...)},
		{Name: chainAnswers, Rules: l.answers()},
		{Name: chainTold, Rules: l.told(setResetCut, setUnreachCut, isCut)},
		{Name: chainKnockFlow, Rules: rules(nft.AddTo{Key: l.flow(), Set: setKnock, Timeout: l.remember})},
		{Name: chainKnockPacket, Rules: []nft.Rule{
			rule(nft.AddTo{Key: l.packet(), Set: setKnock, Timeout: l.remember}),
			// It may be another flow's, which a reset would end.
			nft.NewRule(countGuarded, nft.Lookup{Key: l.packet(), Set: setShared}, nft.Counter, nft.Drop),
		}},
	}
}

// answers notes the ends that have no connection any more, by their answer to
// one of our probes, known by its numbers: a reset, or, where somebody listens
// and took our SYN for a new connection's, a SYN-ACK. Other resets prove
// nothing: hosts in between send them about packets that they cannot place.
func (l *layout) answers() []nft.Rule {
	mine := nft.Lookup{Key: l.packet(), Set: setCut}
	dead := nft.AddTo{Key: l.packet(), Set: setDead}
	toSYN := nft.Equal(nft.TCPAck, be32(l.numbers.ISN+1))
	toSYNACK := nft.Compare{Op: nft.TCPSeq, Mask: be32(anyHalf), Value: be32(l.numbers.Ack & anyHalf)}
	return []nft.Rule{
		rule(tcp, flags(rst, rst), toSYNACK, mine, dead),
		rule(tcp, nft.Compare{Op: nft.TCPFlags, Mask: []byte{syn | rst}, Not: true, Value: []byte{0}}, toSYN, mine, dead),
	}
}

// anyHalf masks the bit by which a probe's number may be changed: conntrack on
// the way drops resets that lie behind what it has seen, one half of all.
const anyHalf = 1<<31 - 1

func be32(v uint32) []byte { return []byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)} }

// tellings notes what leaves for ends from the start, when it is not known yet
// which flows are cut: answers that carry the flow of any, and our own.
func (l *layout) tellings() []nft.Rule {
	out := l.told(setReset, setUnreachable, func(nft.Key) nft.Statement { return related })
	out = append(out, l.toldICMP(setUnreachable, func(nft.Key) nft.Statement { return ours })...)
	return append(out, rule(nft.Jump(chainTold)))
}

// told notes the ends that a reset or a port unreachable leaves for, when it
// is one of ours.
func (l *layout) told(reset, unreachable string, mine func(end nft.Key) nft.Statement) []nft.Rule {
	return append([]nft.Rule{
		rule(tcp, resets, mine(l.answered()), nft.AddTo{Key: l.answered(), Set: reset}),
	}, l.toldICMP(unreachable, mine)...)
}

// toldICMP is the part of told for ICMP errors: the packet that one quotes is
// the end's own.
func (l *layout) toldICMP(set string, mine func(end nft.Key) nft.Statement) []nft.Rule {
	_, code := l.icmp()
	unreachable := nft.Equal(nft.Payload("", nft.TransportHeader, 0, nft.Type{ID: nft.TypeInteger.ID, Len: 2}), code)
	inner, ping := l.quoted()
	return []nft.Rule{
		rule(l.isICMP(), unreachable, mine(inner), nft.AddTo{Key: inner, Set: set}),
		rule(l.isICMP(), unreachable, mine(ping), nft.AddTo{Key: ping, Set: set}),
	}
}

// isCut holds for answers to an end of a cut flow.
func isCut(end nft.Key) nft.Statement { return nft.Lookup{Key: end, Set: setCut} }

// quoted are the keys of the packet that an ICMP error quotes, without IP
// options or extension headers: one for protocols with ports, one for echoes.
func (l *layout) quoted() (ports, echo nft.Key) {
	at := func(offset uint32, t nft.Type) nft.Operand {
		return nft.Payload("", nft.TransportHeader, 8+offset, t)
	}
	proto, src, dst, next := uint32(9), uint32(12), uint32(16), uint32(20)
	if l.family == nft.IPv6 {
		proto, src, dst, next = 6, 8, 24, 40
	}
	addr := l.family.AddrType()
	ports = nft.Key{at(proto, nft.TypeProto), at(src, addr), at(next, nft.TypePort), at(dst, addr), at(next+2, nft.TypePort)}
	echo = nft.Key{at(proto, nft.TypeProto), at(src, addr), at(next+4, nft.TypePort), at(dst, addr), at(next, nft.TypePort)}
	return ports, echo
}
