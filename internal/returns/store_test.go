package returns

import (
	"net/netip"
	"runtime"
	"testing"

	"flowcut/conntrack"
)

// Records are found, whatever is added and removed in between.
func TestStore(t *testing.T) {
	const n = 20_000
	b := New(nil, 1)
	for i := range n {
		b.Apply(&conntrack.Event{Kind: isNew, Flow: numbered(i)})
		if i%3 == 0 {
			b.Apply(&conntrack.Event{Kind: isEnd, Flow: numbered(i / 3)})
		}
	}
	gone := (n + 2) / 3
	if b.Len() != n-gone {
		t.Fatalf("%d flows, want %d", b.Len(), n-gone)
	}
	for i := range n {
		v := b.Apply(&conntrack.Event{Kind: isEnd, Flow: numbered(i)})
		if known := !v.Began.IsZero(); known != (i >= gone) {
			t.Fatalf("flow %d: %+v", i, v)
		}
	}
	if b.Len() != 0 {
		t.Errorf("%d flows are left", b.Len())
	}
}

// An event allocates nothing.
func TestAllocs(t *testing.T) {
	b := New(func(*conntrack.Flow) bool { return true }, 1000)
	var e conntrack.Event
	round := func(before, after *conntrack.Flow) {
		e = conntrack.Event{Kind: isNew, Flow: before}
		b.Apply(&e)
		e.Kind = isUpdate
		b.Apply(&e)
		e.Kind, e.PortID = isEnd, 7
		b.Apply(&e)
		e = conntrack.Event{Kind: isNew, Flow: after}
		if !b.Apply(&e).Returned {
			t.Fatal("no return")
		}
		e.Kind = isEnd
		b.Apply(&e)
	}
	gone6, gone := ended(plain6), ended(dnat)
	for range 3000 { // until the rings are full
		round(gone, mirror2)
		round(gone6, turned6)
	}
	if n := testing.AllocsPerRun(1000, func() {
		round(gone, mirror2)
		round(gone6, turned6)
	}); n != 0 {
		t.Errorf("%v allocations in ten events", n)
	}
}

// A million flows cost what the documentation says.
func TestMemory(t *testing.T) {
	const n = 1_000_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	b := New(nil, 0)
	f := numbered(0)
	e := conntrack.Event{Kind: isNew, Flow: f}
	for i := range n {
		f.ID = uint32(i) + 1
		f.Orig.Src = netip.AddrFrom4([4]byte{10, byte(i >> 24), byte(i >> 16), byte(i >> 8)})
		f.Orig.SrcPort = 1024 + uint16(i&255)
		f.Reply.Dst, f.Reply.DstPort = f.Orig.Src, f.Orig.SrcPort
		b.Apply(&e)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	per := float64(after.HeapAlloc-before.HeapAlloc) / n
	t.Logf("%.1f bytes a flow", per)
	if b.Len() != n || per > 81 {
		t.Errorf("%d flows, %.1f bytes each", b.Len(), per)
	}
}

// BenchmarkApply hears of flows that begin and end in a table of a million.
func BenchmarkApply(b *testing.B) {
	const n = 1_000_000
	book := New(nil, 0)
	for i := range n {
		book.Apply(&conntrack.Event{Kind: isNew, Flow: numbered(i)})
	}
	f := numbered(n)
	e := conntrack.Event{Flow: f}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		f.Orig.SrcPort = uint16(i)
		f.Reply.DstPort = uint16(i)
		e.Kind = isNew
		book.Apply(&e)
		e.Kind = isEnd
		book.Apply(&e)
	}
}
