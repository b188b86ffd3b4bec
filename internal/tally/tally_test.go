package tally

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/example"
	"flowcut/selector"
)

// Each group of each flow is named, and its selector means that flow.
func TestKeyOf(t *testing.T) {
	for name, want := range map[string]string{
		"dnat":       "203.0.113.1 203.0.113.2 tcp/5201 tcp 192.168.1.100 0",
		"dnat6":      "2001:db8:1::1 2001:db8::2 tcp/443 tcp 2001:db8:2::1 0",
		"masquerade": "198.51.100.9 192.168.1.5 udp/53 udp 203.0.113.1 0",
		"icmp":       "198.51.100.9 192.168.1.6 - icmp 203.0.113.1 0",
		"zone":       "198.51.100.9 192.168.1.7 udp/53 udp - 7",
		"orig-zone":  "198.51.100.9 192.168.1.7 udp/53 udp - 8",
		"unreplied":  "198.51.100.9 192.168.1.7 udp/53 udp - 0",
	} {
		f := example.Flows()[name]
		var got []string
		for _, by := range All {
			k, ok := KeyOf(by, f)
			if !ok {
				got = append(got, "-")
				continue
			}
			got = append(got, k.String())
			args := k.Args(f.Status&conntrack.StatusDstNAT != 0)
			s, err := selector.Parse(args)
			if err != nil {
				t.Errorf("%s: %v: %v", name, args, err)
			} else if !s.Match(f) {
				t.Errorf("%s: %v does not mean the flow", name, args)
			}
			if back, err := ParseBy(by.String()); back != by || err != nil {
				t.Errorf("%v is read as %v, error %v", by, back, err)
			}
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: got %s, want %s", name, s, want)
		}
	}
	if _, err := ParseBy("servers"); err == nil {
		t.Error("an unknown group is not refused")
	}
}

func TestTop(t *testing.T) {
	tl := New(Client, 0)
	for i := range 50 {
		for range i {
			tl.Add(&conntrack.Flow{
				Orig:         conntrack.Tuple{Src: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Proto: conntrack.ProtoUDP},
				OrigCounters: conntrack.Counters{Packets: 1, Bytes: uint64(100 - i)}, ReplyCounters: conntrack.Counters{Packets: 1, Bytes: 1},
				Status: conntrack.StatusSeenReply * conntrack.Status(i%2),
			})
		}
	}
	show := func(rows []Row) (s string) {
		for _, r := range rows {
			s += fmt.Sprintf("%s %d %d %d %d;", r.Key, r.Flows, r.Packets, r.Bytes, r.Unreplied)
		}
		return s
	}
	if got, want := show(tl.Top(2, nil)), "10.0.0.49 49 98 2548 0;10.0.0.48 48 96 2544 48;"; got != want {
		t.Errorf("by flows: got %s, want %s", got, want)
	}
	by := func(a, b *Row) int { return cmp.Compare(a.Bytes, b.Bytes) }
	if got, want := show(tl.Top(1, by)), "10.0.0.1 1 2 100 0;"; got != want {
		t.Errorf("by bytes: got %s, want %s", got, want)
	}
	if n := len(tl.Top(100, nil)); n != 49 || tl.Len() != 49 || tl.Dropped() != 0 {
		t.Errorf("%d of %d groups, %d dropped", n, tl.Len(), tl.Dropped())
	}
	k := Key{By: Client, Addr: netip.MustParseAddr("10.0.0.7")}
	if got := tl.Get(k).Flows; got != 7 {
		t.Errorf("%d flows, want 7", got)
	}
}

// A flow that has ended is taken out of its group, whose rate and age are the caller's
// and the oldest flow's.
func TestRemove(t *testing.T) {
	tl := New(Protocol, 0)
	begun := time.Unix(1000, 0)
	flow := func(age time.Duration) *conntrack.Flow {
		return &conntrack.Flow{
			Has: conntrack.AttrStart, Start: begun.Add(-age),
			Orig: conntrack.Tuple{Proto: conntrack.ProtoUDP}, OrigCounters: conntrack.Counters{Bytes: 100},
		}
	}
	for _, age := range []time.Duration{time.Second, time.Hour, time.Minute} {
		tl.Add(flow(age)).Rate += 7
	}
	k := Key{By: Protocol, Proto: conntrack.ProtoUDP}
	if s := tl.Get(k); s.Rate != 21 || s.Oldest != begun.Add(-time.Hour) {
		t.Errorf("rate %v, oldest %v", s.Rate, s.Oldest)
	}
	tl.Remove(flow(0), 60)
	tl.Remove(&conntrack.Flow{Orig: conntrack.Tuple{Proto: conntrack.ProtoTCP}}, 60) // is not there
	if s := tl.Get(k); s.Flows != 2 || s.Bytes != 240 || s.Unreplied != 2 {
		t.Errorf("%+v", s)
	}
	tl.Remove(flow(0), 1000)
	if s := tl.Get(k); s.Flows != 1 || s.Bytes != 0 {
		t.Errorf("%+v", s)
	}
	if tl.Remove(flow(0), 0); tl.Len() != 0 {
		t.Errorf("%d groups without flows", tl.Len())
	}
	if New(Port, 0).Add(&conntrack.Flow{Orig: conntrack.Tuple{Proto: 50}}) != nil {
		t.Error("a flow without a port has a group of ports")
	}
}

// A heavy group survives any number of small ones, and memory stays bounded.
func TestBounded(t *testing.T) {
	tl := New(Client, 100)
	heavy := netip.MustParseAddr("10.9.9.9")
	for i := range 10_000 {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		tl.Add(&conntrack.Flow{Orig: conntrack.Tuple{Src: a}})
		if i%10 == 0 {
			tl.Add(&conntrack.Flow{Orig: conntrack.Tuple{Src: heavy}})
		}
		if tl.Len() > 100 {
			t.Fatalf("%d groups, want 100 at most", tl.Len())
		}
	}
	if top := tl.Top(1, nil); top[0].Addr != heavy || top[0].Flows != 1000 {
		t.Errorf("first is %v with %d flows", top[0].Key, top[0].Flows)
	}
	if tl.Dropped() == 0 {
		t.Error("nothing was dropped")
	}
}

func TestFirst(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		all := make([]int, r.IntN(60))
		for i := range all {
			all[i] = r.IntN(30)
		}
		n := r.IntN(20)
		got := First(n, func(a, b *int) int { return cmp.Compare(*a, *b) }, slices.Values(all))
		want := slices.Sorted(slices.Values(all))
		if want = want[:min(n, len(want))]; !slices.Equal(got, want) {
			t.Fatalf("%d of %v: got %v, want %v", n, all, got, want)
		}
	}
}

// Adding to a group that is there costs no memory.
func TestAddDoesNotAllocate(t *testing.T) {
	f := example.Flows()["dnat"]
	for _, by := range All {
		tl := New(by, 0)
		if n := testing.AllocsPerRun(100, func() { tl.Add(f) }); n > 0 {
			t.Errorf("%v: %v allocations a flow", by, n)
		}
	}
}
