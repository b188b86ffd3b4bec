//go:build linux

package soak

import (
	"math/rand/v2"
	"time"

	"flowcut/internal/lab"
	"flowcut/selector"
)

// Draw returns the scenario of a seed.
func Draw(seed uint64) *Scenario {
	d := drawer{rand.New(rand.NewPCG(seed, 0)), &Scenario{Seed: seed}, nil}
	d.kind = &gatewayKinds[d.IntN(len(gatewayKinds))]
	d.s.Gateway = d.kind.name
	for range 3 + d.IntN(4) {
		d.s.Groups = append(d.s.Groups, d.group(len(d.s.Groups)))
	}
	d.selection()
	d.options()
	d.disturb()
	return d.s
}

// drawer draws one scenario.
type drawer struct {
	*rand.Rand
	s    *Scenario
	kind *gatewayKind
}

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

// group draws connections of one kind.
func (d *drawer) group(n int) Group {
	g := Group{Road: pick(d.Rand, d.kind.roads()...), V6: d.IntN(3) == 0 && !d.kind.only4, From: d.IntN(2), To: d.IntN(2)}
	g.Kind = pick(d.Rand, lab.Idle, lab.Idle, lab.Talk, lab.Speak, lab.Speak, lab.Download, lab.Upload, lab.Datagram, lab.Datagram, lab.Echo)
	g.Count = pick(d.Rand, 1, 3, 10, 30)
	switch g.Road {
	case Across, Within:
		g.To = 1 - g.From
	case Inward, Plain, Outward, ToGateway, FromGateway:
	}
	switch g.Kind {
	case lab.Idle:
		g.Count = pick(d.Rand, 1, 10, 50, 300)
	case lab.Talk, lab.Speak:
		g.Interval = pick[time.Duration](d.Rand, 5, 30, 100) * time.Millisecond
	case lab.Download, lab.Upload:
		g.Count = 1 + d.IntN(3)
	case lab.Datagram:
		g.Up, g.Down = pick(d.Rand, 0, 50, 500), pick(d.Rand, 0, 50, 500)
		g.Count = min(g.Count, 10)
		if g.Up+g.Down == 0 {
			g.Count *= 5
		}
	case lab.Echo:
		g.Count = 1
		g.Interval = 10 * time.Millisecond
		if g.Road == Inward || g.Road == Across { // echo requests are not forwarded
			g.Road = FromGateway
		}
		if d.kind.plain {
			g.Road = Plain
		}
	}
	if isTCP(&g) && d.IntN(3) == 0 {
		g.First = uint16(20000 + 1000*n)
	}
	g.Port = d.port(&g)
	return g
}

func isTCP(g *Group) bool { return g.Kind != lab.Datagram && g.Kind != lab.Echo }

// port draws one of the two services of the responder's host.
func (d *drawer) port(g *Group) uint16 {
	base := map[Road]int{Inward: 5200, Plain: 5200, Within: 5200, FromGateway: 5200, Outward: 7000, Across: 7000, ToGateway: 5300}[g.Road]
	if g.Road != ToGateway {
		base += 10 * g.To
	}
	return uint16(base + 1 + d.IntN(2))
}

// selection draws conditions that are true of the first group.
func (d *drawer) selection() {
	p := picker{d.Rand, d.kind.template(&d.s.Groups[0]), d.kind}
	for {
		d.s.Select = p.conditions()
		s, err := selector.Parse(d.s.words())
		// Contradictions are refused, and need another draw.
		if err == nil && s.Narrows() {
			return
		}
	}
}

func (d *drawer) options() {
	s := d.s
	s.Rule = pick(d.Rand, RuleKept, RuleRemoved, RuleRemoved, RuleAfter)
	s.Settle = pick[time.Duration](d.Rand, 100, 200, 300) * time.Millisecond
	s.Hold = pick[time.Duration](d.Rand, 200, 400, 600) * time.Millisecond
	s.Kick = pick(d.Rand, KickAll, KickAll, KickAll, KickAll, KickAll, KickAll, KickNone, KickSilent)
	s.Accept = d.IntN(8) == 0
	s.Program = d.IntN(4) == 0
	if d.IntN(3) == 0 && isTCP(&s.Groups[0]) {
		s.Again = pick(d.Rand, 20, 100)
	}
}

func (d *drawer) disturb() {
	s := d.s
	s.Disturb = pick(d.Rand, Nothing, Nothing, Nothing, Nothing, Nothing,
		VanishOne, VanishOther, VanishBoth, Forget, TwoCuts, Reload, Cancelled, Killed)
	s.Moment = time.Duration(d.IntN(400)) * time.Millisecond
	if s.Disturb == Killed {
		s.Program = true
	}
	if s.Disturb == Cancelled {
		s.Program = false
	}
}
