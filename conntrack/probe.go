package conntrack

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// kind says what a flow of a probe is there for. A filter asks for one target
// and compares several fields; for each there is a decoy that differs from
// the target in that field.
type kind uint8

const (
	kindTarget kind = 1 << iota
	kindTuple
	kindMark
	kindStatus
	kindZone
)

// probe is a filter and the flows it is tried on. A dump walks through the
// whole hash table, which all namespaces share: so few probes, each of many
// fields.
type probe struct {
	filter Filter
	flows  []probeFlow
}

type probeFlow struct {
	kind kind
	flow Flow
}

// newProbe begins a probe for a flow with the tuples orig and reply.
func newProbe(orig Tuple, of TupleFields, reply Tuple, rf TupleFields) *probe {
	p := &probe{filter: Filter{
		Family: orig.Family(), Orig: orig, OrigFields: of, Reply: reply, ReplyFields: rf,
	}}
	p.add(kindTarget, func(*Flow) {})
	return p
}

// add adds the target as change makes it.
func (p *probe) add(k kind, change func(*Flow)) {
	f := Flow{
		Has:  AttrReply | AttrStatus | AttrMark | AttrZone,
		Orig: p.filter.Orig, Reply: p.filter.Reply, Timeout: time.Minute,
		Status: StatusSeenReply | StatusAssured | StatusConfirmed,
		Mark:   0x111, Zone: 7,
	}
	change(&f)
	p.flows = append(p.flows, probeFlow{k, f})
}

// distinguish gives every flow another tuple by a field that the filter does
// not compare; f is called with the number of the flow.
func (p *probe) distinguish(f func(f *Flow, n uint16)) {
	for i := range p.flows {
		f(&p.flows[i].flow, uint16(i))
	}
}

// otherAddr returns an address of the family of a that is not a.
func otherAddr(a netip.Addr) netip.Addr { return a.Next().Next().Next() }

func setProto(f *Flow) { f.Orig.Proto, f.Reply.Proto = ProtoUDP, ProtoUDP }

// origProbe tries all of the original tuple but the source port, and one port
// of the reply.
func origProbe(t Tuple) *probe {
	p := newProbe(t, FieldSrc|FieldDst|FieldProto|FieldDstPort, t.Invert(), FieldProto|FieldSrcPort)
	p.add(kindTuple, func(f *Flow) { f.Orig.Src = otherAddr(f.Orig.Src) })
	p.add(kindTuple, func(f *Flow) { f.Orig.Dst = otherAddr(f.Orig.Dst) })
	p.add(kindTuple, func(f *Flow) { f.Orig.DstPort++ })
	p.add(kindTuple, func(f *Flow) { f.Reply.SrcPort++ })
	p.add(kindTuple, setProto)
	return p
}

// distinguishOrig makes the flows of an origProbe distinct.
func (p *probe) distinguishOrig() *probe {
	p.distinguish(func(f *Flow, n uint16) { f.Orig.SrcPort, f.Reply.DstPort = 4000+n, 4000+n })
	return p
}

// replyProbe tries all of the reply tuple but the source port, and one port of
// the original.
func replyProbe(t Tuple) *probe {
	p := newProbe(t, FieldProto|FieldSrcPort, t.Invert(), FieldSrc|FieldDst|FieldProto|FieldDstPort)
	p.add(kindTuple, func(f *Flow) { f.Reply.Src = otherAddr(f.Reply.Src) })
	p.add(kindTuple, func(f *Flow) { f.Reply.Dst = otherAddr(f.Reply.Dst) })
	p.add(kindTuple, func(f *Flow) { f.Reply.DstPort++ })
	p.add(kindTuple, func(f *Flow) { f.Orig.SrcPort++ })
	p.add(kindTuple, setProto)
	p.distinguish(func(f *Flow, n uint16) { f.Orig.DstPort, f.Reply.SrcPort = 6000+n, 6000+n })
	return p
}

// portsProbe tries the protocol and all ports, but no address.
func portsProbe(t Tuple) *probe {
	const fields = FieldProto | FieldSrcPort | FieldDstPort
	p := newProbe(t, fields, t.Invert(), fields)
	p.add(kindTuple, func(f *Flow) { f.Orig.SrcPort++ })
	p.add(kindTuple, func(f *Flow) { f.Orig.DstPort++ })
	p.add(kindTuple, func(f *Flow) { f.Reply.SrcPort++ })
	p.add(kindTuple, func(f *Flow) { f.Reply.DstPort++ })
	p.add(kindTuple, setProto)
	p.distinguish(func(f *Flow, n uint16) {
		for range n {
			f.Orig.Src = f.Orig.Src.Next()
		}
		f.Reply.Dst = f.Orig.Src
	})
	return p
}

// addMarkStatusZone makes p compare these too.
func (p *probe) addMarkStatusZone() *probe {
	p.filter.Mark, p.filter.MarkMask = 0x11, 0xff
	p.filter.Status, p.filter.StatusMask = StatusAssured, StatusAssured|StatusFixedTimeout
	p.filter.Zone, p.filter.ByZone = 7, true
	p.add(kindMark, func(f *Flow) { f.Mark = 0x112 })
	p.add(kindMark, func(f *Flow) { f.Mark = 0 })
	p.add(kindStatus, func(f *Flow) { f.Status &^= StatusAssured })
	p.add(kindStatus, func(f *Flow) { f.Status |= StatusFixedTimeout })
	p.add(kindZone, func(f *Flow) { f.Zone = 0 })
	p.add(kindZone, func(f *Flow) { f.Zone = 8 })
	return p
}

// run makes the flows on s, asks for the target alone and returns the kinds
// that the kernel sends. A refusal of the kernel is no kind at all.
func (p *probe) run(s *conn) (kind, error) {
	ctx := context.Background()
	if err := s.makeAll(ctx, p.flows); err != nil {
		return 0, err
	}
	all := Support{TupleIPv4: true, PortsIPv6: true, AddrIPv6: true, Mark: true, Status: true, Zone: true}
	var got kind
	err := s.dump(ctx, &p.filter, all, func(f *Flow) bool {
		for _, pf := range p.flows {
			if pf.flow.Orig == f.Orig && pf.flow.Key().Zone == f.Key().Zone {
				got |= pf.kind
			}
		}
		return false
	})
	if isAnswer(err) {
		return 0, nil
	}
	return got, err
}

// makeAll makes the flows of a probe.
func (s *conn) makeAll(ctx context.Context, flows []probeFlow) error {
	_, err := s.createAll(ctx, func(yield func(*Flow) bool) {
		for i := range flows {
			if !yield(&flows[i].flow) {
				return
			}
		}
	})
	return err
}

// The flows that probes ask for.
var (
	probeTupleIPv4 = Tuple{
		Src: netip.AddrFrom4([4]byte{192, 0, 2, 1}), Dst: netip.AddrFrom4([4]byte{192, 0, 2, 2}),
		Proto: ProtoTCP, SrcPort: 1001, DstPort: 2001,
	}
	probeTupleIPv6 = Tuple{
		Src:   netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1}),
		Dst:   netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 2}),
		Proto: ProtoTCP, SrcPort: 1001, DstPort: 2001,
	}
)

// probeIPv4 probes all that IPv4 flows can show.
func probeIPv4() (Support, error) {
	s, err := dialScratch()
	if err != nil {
		return Support{}, err
	}
	orig, err := origProbe(probeTupleIPv4).addMarkStatusZone().distinguishOrig().run(s)
	reply, err2 := replyProbe(probeTupleIPv4).run(s)
	if err := errors.Join(err, err2, s.close()); err != nil || orig&kindTarget == 0 {
		return Support{}, err
	}
	return Support{
		TupleIPv4: orig&kindTuple == 0 && reply == kindTarget,
		Mark:      orig&kindMark == 0,
		Status:    orig&kindStatus == 0,
		Zone:      orig&kindZone == 0,
	}, nil
}

// probeIPv6 probes the tuples of IPv6 flows.
func probeIPv6() (Support, error) {
	s, err := dialScratch()
	if err != nil {
		return Support{}, err
	}
	ports, err := portsProbe(probeTupleIPv6).run(s)
	orig, err2 := origProbe(probeTupleIPv6).distinguishOrig().run(s)
	addr := orig == kindTarget
	var err3 error
	if addr {
		var reply kind
		reply, err3 = replyProbe(probeTupleIPv6).run(s)
		addr = reply == kindTarget
	}
	if err := errors.Join(err, err2, err3, s.close()); err != nil {
		return Support{}, err
	}
	return Support{PortsIPv6: ports == kindTarget, AddrIPv6: addr && ports == kindTarget}, nil
}

// probeFlush tells whether a flush of one family spares the other.
func probeFlush() (bool, error) {
	s, err := dialScratch()
	if err != nil {
		return false, err
	}
	ctx := context.Background()
	flows := slices.Concat(newProbe(probeTupleIPv4, 0, probeTupleIPv4.Invert(), 0).flows,
		newProbe(probeTupleIPv6, 0, probeTupleIPv6.Invert(), 0).flows)
	err = s.makeAll(ctx, flows)
	if err == nil {
		err = s.flush(ctx, FamilyIPv4)
	}
	var left []Tuple
	if err == nil {
		err = s.dump(ctx, &Filter{}, Support{}, func(f *Flow) bool {
			left = append(left, f.Orig)
			return false
		})
	}
	ok := slices.Equal(left, []Tuple{probeTupleIPv6})
	return ok, errors.Join(err, s.close())
}
