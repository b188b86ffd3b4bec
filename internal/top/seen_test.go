package top

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"flowcut/conntrack"
	"flowcut/internal/example"
)

// The table does as a map does, whatever the order, also when places are scarce.
func TestSeen(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 100 {
		var s seen
		want := map[uint64]uint64{}
		hashes := make([]uint64, 1+r.IntN(300))
		for i := range hashes {
			hashes[i] = r.Uint64() | 1
			if r.IntN(3) == 0 {
				hashes[i] |= 0xffff << 48 // the same home, near the end
			}
		}
		for range 2000 {
			h := hashes[r.IntN(len(hashes))]
			switch p := s.get(h); {
			case (p != nil) != (want[h] != 0):
				t.Fatalf("%x: found %v, want %d", h, p, want[h])
			case p != nil && p.bytes != want[h]:
				t.Fatalf("%x: %d, want %d", h, p.bytes, want[h])
			case p != nil && r.IntN(2) == 0:
				s.remove(p)
				delete(want, h)
			default:
				want[h] = 1 + r.Uint64N(1000)
				*s.put(h) = place{hash: h, bytes: want[h], walk: uint32(want[h] % 2)}
			}
			if s.used != len(want) {
				t.Fatalf("%d flows, want %d", s.used, len(want))
			}
		}
		s.sweep(1)
		for h, v := range want {
			if (s.get(h) != nil) != (v%2 == 1) {
				t.Fatalf("%x of walk %d: %v", h, v%2, s.get(h))
			}
		}
	}
}

// Flows that differ in anything that tells entries apart have different hashes, and
// the hash costs no memory.
func TestHashOf(t *testing.T) {
	for name, f := range example.Flows() {
		all := map[uint64]int{}
		for i, change := range []func(*conntrack.Flow){
			func(*conntrack.Flow) {}, func(f *conntrack.Flow) { f.ID = 7 }, func(f *conntrack.Flow) { f.Orig.ICMPID = 9 },
			func(f *conntrack.Flow) { f.Has, f.Zone = f.Has&^conntrack.AttrOrigZone|conntrack.AttrZone, 9 },
			func(f *conntrack.Flow) { f.Orig.Proto = 99 }, func(f *conntrack.Flow) { f.Orig.Src = netip.MustParseAddr("10.9.9.9") },
		} {
			c := f.Clone()
			change(c)
			h := hashOf(c)
			if other, ok := all[h]; ok {
				t.Errorf("%s: changes %d and %d have the same hash", name, other, i)
			}
			all[h] = i
		}
	}
	f := example.Flows()["dnat6"]
	if n := testing.AllocsPerRun(100, func() { hashOf(f) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
