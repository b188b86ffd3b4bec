package conntrack

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// zoo is a table in which filters find something to tell apart: few values
// for every field, so that many flows share each.
func zoo(r *rand.Rand, n int) []*Flow {
	addr4 := func() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + r.IntN(4))}) }
	addr6 := func() netip.Addr {
		return netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, 15: byte(1 + r.IntN(4))})
	}
	protos := []Proto{ProtoTCP, ProtoTCP, ProtoUDP, ProtoUDP, ProtoSCTP, ProtoUDPLite, ProtoGRE, ProtoICMP, 200}
	var flows []*Flow
	for range n {
		f := &Flow{Has: AttrReply | AttrMark | AttrStatus, Timeout: time.Hour}
		pick, p := addr4, protos[r.IntN(len(protos))]
		if r.IntN(3) == 0 {
			pick = addr6
			if p == ProtoICMP {
				p = ProtoICMPv6
			}
		}
		f.Orig = Tuple{Src: pick(), Dst: pick(), Proto: p}
		switch {
		case f.Orig.HasPorts(), p == ProtoGRE:
			f.Orig.SrcPort, f.Orig.DstPort = uint16(1+r.IntN(4)), uint16(1+r.IntN(4))
		case p == ProtoICMP:
			f.Orig.ICMPType, f.Orig.ICMPID = 8, uint16(r.IntN(4))
		case p == ProtoICMPv6:
			f.Orig.ICMPType, f.Orig.ICMPID = 128, uint16(r.IntN(4))
		}
		f.Reply = f.Orig.Invert()
		if r.IntN(3) == 0 {
			f.Reply.Src = pick()
		}
		f.Mark = Mark(r.IntN(8))
		f.Status = []Status{0, StatusSeenReply, StatusSeenReply | StatusAssured, StatusFixedTimeout}[r.IntN(4)] | StatusConfirmed
		switch z := Zone(r.IntN(4)); r.IntN(6) {
		case 0, 1:
			f.Has, f.Zone = f.Has|AttrZone, z
		case 2:
			f.Has, f.OrigZone = f.Has|AttrOrigZone, z
		case 3:
			f.Has, f.ReplyZone = f.Has|AttrReplyZone, z
		}
		flows = append(flows, f)
	}
	return flows
}

// randomFilter asks for some fields of one of flows, some of another.
func randomFilter(r *rand.Rand, flows []*Flow) Filter {
	f, g := flows[r.IntN(len(flows))], flows[r.IntN(len(flows))]
	x := Filter{Orig: f.Orig, Reply: f.Reply}
	if r.IntN(2) == 0 {
		x.Family = []Family{FamilyIPv4, FamilyIPv6}[r.IntN(2)]
	}
	if r.IntN(2) == 0 {
		x.OrigFields = TupleFields(r.UintN(256) & r.UintN(256))
	}
	if r.IntN(2) == 0 {
		x.ReplyFields = TupleFields(r.UintN(256) & r.UintN(256))
	}
	if r.IntN(3) == 0 {
		x.Mark, x.MarkMask = g.Mark|0x100, Mark(r.UintN(8))
	}
	if r.IntN(3) == 0 {
		x.Status, x.StatusMask = g.Status, Status(r.UintN(1<<16))
	}
	if r.IntN(3) == 0 {
		x.ByZone, x.Zone = true, Zone(r.UintN(4))
	}
	return x
}

// fillZoo makes as many of flows as do not collide.
func fillZoo(t testing.TB, c *Client, flows []*Flow) []*Flow {
	t.Helper()
	made, err := c.CreateAll(t.Context(), slices.Values(flows))
	if made < 200 {
		t.Fatalf("made %d of %d flows: %v", made, len(flows), err)
	}
	return collect(t, c, Filter{})
}

// TestFilterHidesNothing compares dumps that the kernel narrows with what
// Match says of the whole table.
func TestFilterHidesNothing(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	c := dialTest(t)
	all := fillZoo(t, c, zoo(r, 400))
	if _, err := ProbeFilter(); err != nil {
		t.Fatal(err)
	}
	found := 0
	for range 300 {
		x := randomFilter(r, all)
		got, want := keySet(collect(t, c, x)), keySet(matching(all, x))
		if diff := cmp.Diff(want, got, cmpAddr); diff != "" {
			t.Fatalf("%+v (-want +got):\n%s", x, diff)
		}
		found += len(want)
	}
	if found < 300 {
		t.Fatalf("the filters matched %d flows in all: too few to show anything", found)
	}
}

// TestFilterNarrows holds the kernel to doing the work: what it sends is
// little more than what matches.
func TestFilterNarrows(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	c := dialTest(t)
	all := fillZoo(t, c, zoo(r, 400))
	sup, err := ProbeFilter()
	if err != nil {
		t.Fatal(err)
	}
	four := netip.MustParseAddr("10.0.0.1")
	for name, x := range map[string]Filter{
		"family":        {Family: FamilyIPv6},
		"source":        {Orig: Tuple{Src: four}, OrigFields: FieldSrc},
		"destination":   {Orig: Tuple{Dst: four}, OrigFields: FieldDst},
		"reply source":  {Reply: Tuple{Src: four}, ReplyFields: FieldSrc},
		"reply dest":    {Reply: Tuple{Dst: four}, ReplyFields: FieldDst},
		"protocol":      {Family: FamilyIPv4, Orig: Tuple{Proto: ProtoSCTP}, OrigFields: FieldProto},
		"IPv6 protocol": {Family: FamilyIPv6, Orig: Tuple{Proto: ProtoUDP}, OrigFields: FieldProto},
		"port": {
			Family: FamilyIPv4, Orig: Tuple{Proto: ProtoTCP, DstPort: 2}, OrigFields: FieldProto | FieldDstPort,
		},
		"IPv6 reply port": {
			Family: FamilyIPv6, Reply: Tuple{Proto: ProtoTCP, SrcPort: 2}, ReplyFields: FieldProto | FieldSrcPort,
		},
		"mark":   {Mark: 3, MarkMask: 3},
		"status": {Status: StatusAssured, StatusMask: StatusAssured | StatusFixedTimeout},
		"zone":   {Zone: 2, ByZone: true},
	} {
		if name == "zone" && kernelVersion().compare(version{6, 8}) < 0 {
			continue
		}
		want := len(matching(all, x))
		if want == 0 || want == len(all) {
			t.Fatalf("%s: %d of %d match, which shows nothing", name, want, len(all))
		}
		if sent := len(sentBy(t, c, &x, sup)); sent != want {
			t.Errorf("%s: the kernel sent %d flows, %d match", name, sent, want)
		}
	}
}

// TestIPv6FilterIsUnsound shows the fault for which [Support.AddrIPv6] is
// there. When it fails, a kernel has mended it and the probe should say so.
func TestIPv6FilterIsUnsound(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	c := dialTest(t)
	all := fillZoo(t, c, zoo(r, 400))
	x := Filter{Orig: Tuple{Src: netip.MustParseAddr("2001:db8::1")}, OrigFields: FieldSrc}
	sent := keySet(sentBy(t, c, &x, Support{PortsIPv6: true, AddrIPv6: true}))
	hidden := 0
	for _, f := range matching(all, x) {
		if !sent[f.Key()] {
			hidden++
		}
	}
	sup, err := ProbeFilter()
	if err != nil {
		t.Fatal(err)
	}
	if sup.AddrIPv6 != (hidden == 0) {
		t.Fatalf("the kernel hid %d matches, the probe says sound: %v", hidden, sup.AddrIPv6)
	}
}

// sentBy returns what the kernel sends for x if sup is trusted.
func sentBy(t testing.TB, c *Client, x *Filter, sup Support) []*Flow {
	t.Helper()
	s, err := c.ns.dial(0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	var all []*Flow
	if err := s.dump(context.Background(), x, sup, func(f *Flow) bool {
		all = append(all, f.Clone())
		return false
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

func matching(all []*Flow, x Filter) []*Flow {
	return slices.DeleteFunc(slices.Clone(all), func(f *Flow) bool { return !x.Match(f) })
}

func keySet(flows []*Flow) map[Key]bool {
	m := make(map[Key]bool)
	for _, f := range flows {
		m[f.Key()] = true
	}
	return m
}

// TestProbeSeesFaults holds the probes to what they are for: a kernel that
// ignores a field, or inverts it, is found out. The faults are played by
// asking for something else than the probe's filter.
func TestProbeSeesFaults(t *testing.T) {
	full := func() *probe { return newProbe(probeTupleIPv4).addAddrs().addPorts().addMarkStatus() }
	zone := func() *probe { return newProbe(probeTupleIPv4).addZone() }
	faults := map[string]struct {
		probe *probe
		spoil func(*Filter)
		want  kind // that the answer must show, beyond the target
	}{
		"none":                {full(), func(*Filter) {}, 0},
		"none with zone":      {zone(), func(*Filter) {}, 0},
		"ignores tuples":      {full(), func(x *Filter) { x.OrigFields, x.ReplyFields = 0, 0 }, kindTuple},
		"ignores source":      {full(), func(x *Filter) { x.OrigFields &^= FieldSrc }, kindTuple},
		"ignores destination": {full(), func(x *Filter) { x.OrigFields &^= FieldDst }, kindTuple},
		"ignores source port": {full(), func(x *Filter) { x.OrigFields &^= FieldSrcPort }, kindTuple},
		"ignores port":        {full(), func(x *Filter) { x.OrigFields &^= FieldDstPort }, kindTuple},
		"ignores ports":       {full(), func(x *Filter) { x.OrigFields &^= fieldPorts }, kindTuple},
		"ignores protocol": {full(), func(x *Filter) {
			x.OrigFields, x.ReplyFields = FieldSrc|FieldDst, FieldSrc|FieldDst
		}, kindTuple},
		"ignores reply source":      {full(), func(x *Filter) { x.ReplyFields &^= FieldSrc }, kindTuple},
		"ignores reply destination": {full(), func(x *Filter) { x.ReplyFields &^= FieldDst }, kindTuple},
		"ignores reply source port": {full(), func(x *Filter) { x.ReplyFields &^= FieldSrcPort }, kindTuple},
		"ignores reply port":        {full(), func(x *Filter) { x.ReplyFields &^= FieldDstPort }, kindTuple},
		"ignores mark":              {full(), func(x *Filter) { x.MarkMask = 0 }, kindMark},
		"ignores mark's mask":       {full(), func(x *Filter) { x.MarkMask, x.Mark = 0x10, 0x10 }, kindMark},
		"ignores status":            {full(), func(x *Filter) { x.StatusMask = 0 }, kindStatus},
		"ignores unset status":      {full(), func(x *Filter) { x.StatusMask = StatusAssured }, kindStatus},
		"ignores zone":              {zone(), func(x *Filter) { x.ByZone = false }, kindZone},
	}
	for name, tt := range faults {
		tt.spoil(&tt.probe.filter)
		got, err := tt.probe.inScratch()
		if err != nil {
			t.Fatal(err)
		}
		if got != kindTarget|tt.want {
			t.Errorf("%s: kinds %b, want %b", name, got, kindTarget|tt.want)
		}
	}
}
