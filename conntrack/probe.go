package conntrack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
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
// hash table, which all namespaces share: so one dump tries many fields.
//
// Each flow has a zone of its own, the target zone 1: so their tuples may be
// equal, and the answer tells which flow it is.
type probe struct {
	filter Filter
	kinds  []kind
	flows  []*Flow
}

// newProbe begins a probe for a flow with the original tuple t and an
// untranslated reply.
func newProbe(t Tuple) *probe {
	p := &probe{filter: Filter{Family: t.Family(), Orig: t, Reply: t.Invert()}}
	p.add(kindTarget, func(*Flow) {})
	return p
}

// add adds the target as change makes it.
func (p *probe) add(k kind, change func(*Flow)) {
	f := &Flow{
		Has:  AttrReply | AttrStatus | AttrMark | AttrZone,
		Orig: p.filter.Orig, Reply: p.filter.Reply, Timeout: time.Minute,
		Status: StatusSeenReply | StatusAssured | StatusConfirmed,
		Mark:   0x111, Zone: Zone(len(p.flows) + 1),
	}
	change(f)
	p.kinds, p.flows = append(p.kinds, k), append(p.flows, f)
}

// addAddrs makes p compare all addresses.
func (p *probe) addAddrs() *probe {
	p.filter.OrigFields |= FieldSrc | FieldDst
	p.filter.ReplyFields |= FieldSrc | FieldDst
	p.add(kindTuple, func(f *Flow) { f.Orig.Src = otherAddr(f.Orig.Src) })
	p.add(kindTuple, func(f *Flow) { f.Orig.Dst = otherAddr(f.Orig.Dst) })
	p.add(kindTuple, func(f *Flow) { f.Reply.Src = otherAddr(f.Reply.Src) })
	p.add(kindTuple, func(f *Flow) { f.Reply.Dst = otherAddr(f.Reply.Dst) })
	return p
}

// otherAddr returns an address of the family of a that the target does not have.
func otherAddr(a netip.Addr) netip.Addr { return a.Next().Next() }

// addPorts makes p compare the protocol and all ports.
func (p *probe) addPorts() *probe {
	p.filter.OrigFields |= FieldProto | FieldSrcPort | FieldDstPort
	p.filter.ReplyFields |= FieldProto | FieldSrcPort | FieldDstPort
	p.add(kindTuple, func(f *Flow) { f.Orig.SrcPort++ })
	p.add(kindTuple, func(f *Flow) { f.Orig.DstPort++ })
	p.add(kindTuple, func(f *Flow) { f.Reply.SrcPort++ })
	p.add(kindTuple, func(f *Flow) { f.Reply.DstPort++ })
	p.add(kindTuple, func(f *Flow) { f.Orig.Proto, f.Reply.Proto = ProtoUDP, ProtoUDP })
	return p
}

// addMarkStatus makes p compare mark and status, with their masks.
func (p *probe) addMarkStatus() *probe {
	p.filter.Mark, p.filter.MarkMask = 0x11, 0xff
	p.filter.Status, p.filter.StatusMask = StatusAssured, StatusAssured|StatusFixedTimeout
	p.add(kindMark, func(f *Flow) { f.Mark = 0x112 })
	p.add(kindMark, func(f *Flow) { f.Mark = 0 })
	p.add(kindStatus, func(f *Flow) { f.Status &^= StatusAssured })
	p.add(kindStatus, func(f *Flow) { f.Status |= StatusFixedTimeout })
	return p
}

// addZone makes p compare the zone.
func (p *probe) addZone() *probe {
	p.filter.Zone, p.filter.ByZone = 1, true
	p.add(kindZone, func(*Flow) {})
	p.add(kindZone, func(f *Flow) { f.Zone = 0 })
	return p
}

// run makes the flows on s, asks for the target alone and returns the kinds
// that the kernel sends. A refusal of the kernel is no kind at all.
func (p *probe) run(s *conn) (kind, error) {
	ctx := context.Background()
	if _, err := s.createAll(ctx, slices.Values(p.flows)); err != nil {
		return 0, err
	}
	var got kind
	err := s.dump(ctx, &p.filter, trustAll, func(f *Flow) bool {
		i := slices.IndexFunc(p.flows, func(o *Flow) bool { return o.Zone == f.Zone })
		if i >= 0 {
			got |= p.kinds[i]
		}
		return false
	})
	if isAnswer(err) {
		return 0, nil
	}
	return got, err
}

// inScratch runs p in a network namespace of its own.
func (p *probe) inScratch() (kind, error) {
	s, err := dialScratch()
	if err != nil {
		return 0, err
	}
	got, err := p.run(s)
	return got, errors.Join(err, s.close())
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

// probeIPv4 probes IPv4 tuples, mark and status.
func probeIPv4() (Support, error) {
	got, err := newProbe(probeTupleIPv4).addAddrs().addPorts().addMarkStatus().inScratch()
	if err != nil || got&kindTarget == 0 {
		return Support{}, err
	}
	return Support{
		TupleIPv4: got&kindTuple == 0,
		Mark:      got&kindMark == 0,
		Status:    got&kindStatus == 0,
	}, nil
}

// probeAddrIPv6 probes the addresses of IPv6 tuples, unless the kernel is one
// of those that are known to compare them inverted.
func probeAddrIPv6() (Support, error) {
	if invertsIPv6() {
		return Support{}, nil
	}
	got, err := newProbe(probeTupleIPv6).addAddrs().inScratch()
	return Support{AddrIPv6: got == kindTarget}, err
}

// probePortsIPv6 probes the rest of IPv6 tuples.
func probePortsIPv6() (Support, error) {
	got, err := newProbe(probeTupleIPv6).addPorts().inScratch()
	return Support{PortsIPv6: got == kindTarget}, err
}

// invertsIPv6 tells whether the kernel is Linux 6.18 or older. Taking another
// for one of those, or one that was mended for one, costs speed alone.
func invertsIPv6() bool {
	v := kernelVersion()
	return v != version{} && v.compare(version{6, 18}) <= 0
}

// version is a release of the kernel, such as 6.18; zero if it is not known.
type version struct{ major, minor int }

// kernelVersion returns the version of the running kernel.
var kernelVersion = sync.OnceValue(func() (v version) {
	if _, err := fmt.Sscanf(kernelRelease(), "%d.%d", &v.major, &v.minor); err != nil {
		return version{}
	}
	return v
})

// compare returns a negative number if v is older than o, 0 if it is the same.
func (v version) compare(o version) int {
	return cmp.Or(cmp.Compare(v.major, o.major), cmp.Compare(v.minor, o.minor))
}

// probeZone probes the zone.
func probeZone() (Support, error) {
	got, err := newProbe(probeTupleIPv4).addZone().inScratch()
	return Support{Zone: got == kindTarget}, err
}

// probeFlush tells whether a flush of one family spares the other.
func probeFlush() (spares bool, err error) {
	s, err := dialScratch()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	ctx := context.Background()
	four, six := newProbe(probeTupleIPv4), newProbe(probeTupleIPv6)
	if _, err := s.createAll(ctx, slices.Values(slices.Concat(four.flows, six.flows))); err != nil {
		return false, err
	}
	if err := s.flush(ctx, FamilyIPv4); err != nil {
		return false, err
	}
	var left []Tuple
	err = s.dump(ctx, &Filter{}, Support{}, func(f *Flow) bool {
		left = append(left, f.Orig)
		return false
	})
	return slices.Equal(left, []Tuple{probeTupleIPv6}), err
}
