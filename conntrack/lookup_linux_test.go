package conntrack

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// GetAll finds entries by either tuple, in their zone, and nothing else.
func TestGetAll(t *testing.T) {
	c := dialTest(t)
	all := fillZoo(t, c, zoo(rand.New(rand.NewPCG(5, 6)), 300))
	var ask []Lookup
	want := map[int]bool{}
	for _, f := range all {
		if f.OrigZone|f.ReplyZone != 0 || f.Orig.IsICMP() {
			continue
		}
		want[len(ask)], want[len(ask)+1] = true, true
		stranger := f.Orig
		stranger.Proto = 254
		ask = append(ask, Lookup{f.Orig, f.Zone}, Lookup{f.Reply, f.Zone}, Lookup{f.Orig, f.Zone + 100}, Lookup{stranger, f.Zone})
	}
	got := map[int]bool{}
	if err := c.GetAll(t.Context(), ask, func(i int, f *Flow) {
		got[i] = true
		if l := ask[i]; f.Zone != l.Zone || f.Orig != l.Tuple && f.Reply != l.Tuple {
			t.Errorf("%v has found %v", l, f.Key())
		}
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" || len(want) < 200 {
		t.Errorf("%d entries (-want +got):\n%s", len(want), diff)
	}
	if err := c.GetAll(t.Context(), []Lookup{{}}, func(int, *Flow) {}); err == nil {
		t.Error("an empty tuple is no error")
	}
}

// Batches are sized so that the answers fit into the receive queue, though
// every tuple has an entry. Where they do not, that is said.
func TestGetAllMany(t *testing.T) {
	c := dialTest(t)
	all := fillZoo(t, c, zoo(rand.New(rand.NewPCG(7, 8)), 300))
	var ask []Lookup
	for range 50 {
		for _, f := range all {
			ask = append(ask, Lookup{Tuple: f.Orig, Zone: f.Key().Zone})
		}
	}
	s, err := c.open(1 << 13)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	g := lookups{tuples: ask, found: func(int, *Flow) { found++ }}
	if err := g.run(t.Context(), s); err != nil || found != len(ask) {
		t.Errorf("found %d of %d: %v", found, len(ask), err)
	}
	s.rcvbuf = 1 << 22 // as if there were room
	g.next = 0
	if err := g.run(t.Context(), s); !errors.Is(err, ErrMany) {
		t.Errorf("found %d of %d: %v", found, len(ask), err)
	}
	c.drop(s)
	if n := len(collect(t, c, Filter{})); n != len(all) {
		t.Errorf("%d of %d entries afterwards", n, len(all))
	}
}

// What covers a filter passes all that it does, and so does what the kernel is
// asked for.
func TestCovers(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	c := dialTest(t)
	all := fillZoo(t, c, zoo(r, 300))
	covered := 0
	filters := []Filter{{}}
	for range 200 {
		filters = append(filters, randomFilter(r, all))
	}
	for _, x := range filters {
		filters = append(filters, x.Kernel())
		if x.Kernel() != (Filter{}) && !x.Covers(x) {
			t.Fatalf("%+v does not cover itself", x)
		}
		for _, y := range []Filter{x.Kernel(), filters[r.IntN(len(filters))], filters[r.IntN(len(filters))]} {
			if !y.Covers(x) && y != x.Kernel() {
				continue
			}
			covered++
			passed := keySet(matching(all, y))
			for _, f := range matching(all, x) {
				if !passed[f.Key()] {
					t.Fatalf("%+v does not pass %v, which %+v does", y, f.Key(), x)
				}
			}
		}
	}
	if covered < 200 {
		t.Errorf("%d filters covered", covered)
	}
}
