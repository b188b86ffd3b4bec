package conntrack

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// fill makes n flows and returns their keys.
func fill(t testing.TB, c *Client, n int) []Key {
	t.Helper()
	if made, err := c.CreateAll(t.Context(), manyFlows(n)); made != n || err != nil {
		t.Fatalf("made %d of %d: %v", made, n, err)
	}
	return keysOf(t, c)
}

// keysOf returns the keys of all flows.
func keysOf(t testing.TB, c *Client) []Key {
	t.Helper()
	var keys []Key
	for f, err := range c.Dump(t.Context(), Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, f.Key())
	}
	return keys
}

func TestDeleteMany(t *testing.T) {
	c := dialTest(t)
	keys := fill(t, c, 10_000)
	mustDelete(t, c, keys[:5000]...)
	var gone []int
	n, err := c.Delete(t.Context(), keys, func(i int) { gone = append(gone, i) })
	if n != 5000 || err != nil {
		t.Fatalf("deleted %d: %v, want 5000", n, err)
	}
	want := make([]int, 5000)
	for i := range want {
		want[i] = i
	}
	if !slices.Equal(gone, want) {
		t.Fatalf("%d gone, want exactly the first 5000 in order", len(gone))
	}
	if left := keysOf(t, c); len(left) != 0 {
		t.Fatalf("%d left", len(left))
	}
}

func TestDeleteIsExact(t *testing.T) {
	c := dialTest(t)
	f := &Flow{Orig: tuple(ProtoUDP, "10.0.0.1:1", "10.0.0.2:2"), Timeout: time.Minute}
	zoned := *f
	zoned.Has, zoned.Zone = AttrZone, 5
	mustCreate(t, c, f, &zoned)
	keys := keysOf(t, c)
	for _, k := range keys {
		for name, wrong := range map[string]Key{
			"id":      {k.Orig, k.Zone, k.ID + 1},
			"no id":   {k.Orig, k.Zone, 0},
			"zone":    {k.Orig, k.Zone + 1, k.ID},
			"reverse": {k.Orig.Invert(), k.Zone, k.ID + 1},
		} {
			gone := 0
			n, err := c.Delete(t.Context(), []Key{wrong}, func(int) { gone++ })
			if n != 0 || gone != 1 || err != nil {
				t.Errorf("wrong %s: deleted %d, gone %d, %v", name, n, gone, err)
			}
		}
	}
	if left := keysOf(t, c); len(left) != 2 {
		t.Fatalf("%d entries left, want 2", len(left))
	}
	mustDelete(t, c, keys[0])
	if left := keysOf(t, c); !slices.Equal(left, keys[1:]) {
		t.Fatalf("left %v, want %v", left, keys[1:])
	}
}

// TestDeleteReborn deletes an entry whose tuple has been taken by a new flow.
func TestDeleteReborn(t *testing.T) {
	c := dialTest(t)
	f := &Flow{Orig: tuple(ProtoUDP, "10.0.0.1:1", "10.0.0.2:2"), Timeout: time.Minute}
	mustCreate(t, c, f)
	old := only(t, c).Key()
	old.ID ^= 1 // the kernel may give the same memory, and so the same ID, again
	gone := 0
	if n, err := c.Delete(t.Context(), []Key{old}, func(int) { gone++ }); n != 0 || gone != 1 || err != nil {
		t.Fatalf("deleted %d, gone %d, %v", n, gone, err)
	}
	only(t, c)
}

func TestDeleteRefusesBadKeys(t *testing.T) {
	c := dialTest(t)
	keys := fill(t, c, 20)
	for i := range 10 {
		bad := badKeys(keys[0])
		list := slices.Clone(keys)
		list[i] = bad[i%len(bad)]
		if n, err := c.Delete(t.Context(), list, nil); n != 0 || err == nil {
			t.Fatalf("%v: deleted %d, %v", list[i], n, err)
		}
	}
	if left := keysOf(t, c); len(left) != 20 {
		t.Fatalf("%d entries left, want 20", len(left))
	}
}

// badKeys makes keys of k that no entry can have.
func badKeys(k Key) []Key {
	edit := func(f func(*Key)) Key {
		b := k
		f(&b)
		return b
	}
	return []Key{
		{},
		{ID: k.ID},
		{ID: k.ID, Zone: 7},
		edit(func(b *Key) { b.Orig.Src = netip.Addr{} }),
		edit(func(b *Key) { b.Orig.Dst = netip.Addr{} }),
		edit(func(b *Key) { b.Orig.Dst = netip.IPv6Loopback() }),
		edit(func(b *Key) {
			b.Orig.Src, b.Orig.Dst = netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("fe80::2")
		}),
	}
}

// TestDeleteGarbage tries keys made of garbage on a full table: nothing but
// the entries that are really named may ever go.
func TestDeleteGarbage(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	c := dialTest(t)
	keys := fill(t, c, 500)
	for round := range 40 {
		batch := make([]Key, 100)
		for i := range batch {
			batch[i] = garbageKey(r, keys)
		}
		before := collect(t, c, Filter{})
		for _, k := range batch {
			// One by one, so that a bad key does not shield the others.
			_, _ = c.Delete(t.Context(), []Key{k}, nil)
		}
		var want []Key
		for _, f := range before {
			if !slices.ContainsFunc(batch, func(k Key) bool { return named(f, k) }) {
				want = append(want, f.Key())
			}
		}
		after := keysOf(t, c)
		if len(after) != len(want) {
			t.Fatalf("round %d: %d entries left, want %d", round, len(after), len(want))
		}
		for _, k := range want {
			if !slices.Contains(after, k) {
				t.Fatalf("round %d: %v was deleted", round, k)
			}
		}
	}
}

// named tells whether other stands for the entry of f: by the tuple of either
// direction, without the fields that the protocol does not have.
func named(f *Flow, other Key) bool {
	o := other.Orig
	if o.IsICMP() {
		o.SrcPort, o.DstPort = 0, 0
	} else {
		o.ICMPType, o.ICMPCode, o.ICMPID = 0, 0, 0
	}
	k := f.Key()
	return other.Zone == k.Zone && other.ID == k.ID && (o == f.Orig || o == f.Reply)
}

// garbageKey makes a key: nearly one of keys, or nothing like one.
func garbageKey(r *rand.Rand, keys []Key) Key {
	k := keys[r.IntN(len(keys))]
	addrs := []netip.Addr{{}, netip.IPv6Unspecified(), netip.IPv4Unspecified(), netip.MustParseAddr("::ffff:10.0.0.1"), k.Orig.Dst}
	for range r.IntN(4) {
		switch r.IntN(8) {
		case 0:
			k.Orig.Src = addrs[r.IntN(len(addrs))]
		case 1:
			k.Orig.Dst = addrs[r.IntN(len(addrs))]
		case 2:
			k.Orig.Proto = Proto(r.UintN(256))
		case 3:
			k.Orig.SrcPort = uint16(r.Uint32())
		case 4:
			k.Zone = Zone(r.Uint32())
		case 5:
			k.ID = r.Uint32()
		case 6:
			k.Orig.ICMPType, k.Orig.ICMPCode = uint8(r.Uint32()), uint8(r.Uint32())
		case 7:
			k.Orig = k.Orig.Invert()
		}
	}
	return k
}

// TestDeleteOverrun loses answers in a receive queue that is too small and a
// batch that does not mind.
func TestDeleteOverrun(t *testing.T) {
	c := dialTest(t)
	keys := fill(t, c, 3000)
	mustDelete(t, c, keys[:2900]...)
	s, err := c.ns.dial(1) // the kernel makes it its minimum
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	gone := map[int]int{}
	d := deletion{keys: keys, gone: func(i int) { gone[i]++ }}
	b := newBatch(s, "delete")
	b.limit = 1000
	overruns := 0
	for next := 0; next < len(keys); {
		n, err := d.send(t.Context(), b, next)
		if errors.Is(err, errOverrun) {
			overruns++
			n, err = d.again(t.Context(), b, next, n)
		}
		if err != nil {
			t.Fatal(err)
		}
		next += n
	}
	if overruns != 3 {
		t.Fatalf("answers of %d sends were lost, want 3", overruns)
	}
	if left := keysOf(t, c); len(left) != 0 {
		t.Fatalf("%d entries left", len(left))
	}
	// Which were gone before cannot be known any more: all count as deleted.
	if d.deleted != len(keys) || len(gone) != 0 || d.refused.n != 0 {
		t.Fatalf("deleted %d, gone %d, refused %d of %d", d.deleted, len(gone), d.refused.n, len(keys))
	}
}

// TestDeleteSmallQueue: where only a small receive queue is permitted, fewer
// keys go into a send, and no answer is lost.
func TestDeleteSmallQueue(t *testing.T) {
	c := dialTest(t)
	keys := fill(t, c, 3000)
	mustDelete(t, c, keys...)
	for _, size := range []int{1, 16 << 10, 64 << 10} {
		small := &Client{ns: c.ns, rcvbuf: size, busy: make(map[*conn]struct{})}
		gone := 0
		n, err := small.Delete(t.Context(), keys, func(int) { gone++ })
		if n != 0 || gone != 3000 || err != nil {
			t.Errorf("queue of %d bytes: deleted %d, gone %d, %v", size, n, gone, err)
		}
		for _, s := range small.idle {
			if err := s.close(); err != nil {
				t.Error(err)
			}
		}
	}
}
