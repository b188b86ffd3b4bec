package top

import (
	"net/netip"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"flowcut/conntrack"
)

// BenchmarkKey is what a key takes, from the message to the drawn screen, with a
// million flows of as many clients. 100 ms is what an answer may take in all.
func BenchmarkKey(b *testing.B) {
	p := crowd(b, 1_000_000)
	for _, k := range []string{"j", "1", "3", "c", "r"} {
		b.Run(k, func(b *testing.B) {
			b.ReportAllocs()
			p.show(ViewBy(1), Count) // clients: there are most of them
			for b.Loop() {
				p.say(tea.KeyPressMsg(tea.Key{Code: rune(k[0]), Text: k}))
				p.View()
			}
		})
	}
}

// BenchmarkVisit is what a walk takes for a flow, beside what the kernel takes.
func BenchmarkVisit(b *testing.B) {
	p := crowd(b, 1_000_000)
	walk, _ := p.world.begin(1_000_000)
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		p.world.visit(walk, crowded(i))
		i++
	}
}

var one conntrack.Flow

// crowded returns flow i, until the next call; each has a client of its own.
func crowded(i int) *conntrack.Flow {
	if one.Has == 0 {
		one = *flow(0, 1000)
	}
	one.Orig.Src = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	one.Reply.Dst, one.ID = one.Orig.Src, uint32(i)
	return &one
}

// crowd is a screen with a table of n flows.
func crowd(tb testing.TB, n int) *player {
	p := newPlayer(tb, 80, 24)
	walk, _ := p.world.begin(n)
	for i := range n {
		p.world.visit(walk, crowded(i))
	}
	p.world.end(walk)
	p.world.now = p.world.now.Add(time.Second)
	return p
}
