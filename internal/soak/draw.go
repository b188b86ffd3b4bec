//go:build linux

package soak

import (
	"math/rand/v2"
	"time"

	"flowcut/cut"
	"flowcut/internal/lab"
)

// Draw returns the scenario of a seed, but for its selector.
func Draw(seed uint64) *Scenario {
	d := drawer{Rand: random(seed, 0), s: &Scenario{Seed: seed}}
	d.gateway()
	for range 3 + d.IntN(4) {
		d.s.Groups = append(d.s.Groups, d.group(len(d.s.Groups)))
	}
	d.options()
	d.disturb()
	return d.s
}

// random returns one of the streams of random numbers of a seed.
func random(seed, stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }

// drawer draws one scenario.
type drawer struct {
	*rand.Rand
	s    *Scenario
	kind *gateway
}

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

// often picks one of a list by how often each is to be drawn.
func often[T any](r *rand.Rand, list []T, weight func(*T) int) *T {
	sum := 0
	for i := range list {
		sum += weight(&list[i])
	}
	n := r.IntN(sum)
	for i := range list {
		if n -= weight(&list[i]); n < 0 {
			return &list[i]
		}
	}
	return &list[len(list)-1]
}

// gateway draws up to three kinds that fit together, and features.
func (d *drawer) gateway() {
	var kinds []lab.GatewayKind
	for range pick(d.Rand, 0, 0, 1, 1, 1, 2, 3) {
		k := lab.GatewayKinds[d.IntN(len(lab.GatewayKinds))]
		fits := true
		for _, o := range kinds {
			fits = fits && k.Fits(o)
		}
		if fits {
			kinds = append(kinds, k)
		}
	}
	for _, k := range kinds {
		d.s.Gateway = append(d.s.Gateway, k.Name)
	}
	const rare = 8
	for _, f := range features {
		so, err := newGateway(d.s.Gateway)
		if err == nil && d.IntN(rare) == 0 && f.fits(so) {
			d.s.Gateway = append(d.s.Gateway, f.name)
		}
	}
	d.kind, _ = newGateway(d.s.Gateway) // its kinds fit together
}

// group draws connections of one kind.
func (d *drawer) group(n int) Group {
	for {
		var g Group
		c := often(d.Rand, courses, func(c *course) int { return c.often })
		t := often(d.Rand, traffics, func(t *traffic) int { return t.often })
		g.Road, g.Kind = c.road, t.kind
		g.V6, g.From, g.To = d.IntN(3) == 0, d.IntN(2), d.IntN(2)
		if g.Kind == lab.Control && !d.fitsFTP(&g) || !c.passes(d.kind, &g) {
			continue
		}
		t.draw(d, &g)
		if isTCP(&g) && g.Kind != lab.Control && d.IntN(3) == 0 {
			g.First = first(n)
		}
		g.Port = d.port(c, &g)
		d.twin(n, &g)
		return g
	}
}

// first is the first source port of a group that has its own.
func first(n int) uint16 { return uint16(20000 + 1000*n) }

// twin makes a group the like of the one before in the other zone, where the
// gateway has two networks with the same addresses.
func (d *drawer) twin(n int, g *Group) {
	if d.kind.config.Twins && n > 0 && d.s.Groups[n-1].First == first(n-1) && d.IntN(2) == 0 {
		*g = d.s.Groups[n-1]
		g.From, g.To = 1-g.From, 1-g.To
	}
}

// fitsFTP tells whether the kernel's helper can serve a group.
func (d *drawer) fitsFTP(g *Group) bool {
	road := g.Road == Inward || g.Road == Outward || g.Road == Plain
	return road && d.kind.plainRoutes() && d.kind.config.Zoned == lab.NoZones
}

// port draws one of the services of the responder's host.
func (d *drawer) port(c *course, g *Group) uint16 {
	port := int(c.base) + 1 + d.IntN(2)
	if g.Kind == lab.Control {
		port = int(c.base) + 5
	}
	if c.to != middle {
		port += 10 * g.To
	}
	return uint16(port)
}

func (d *drawer) trickle(g *Group) {
	g.Count = pick(d.Rand, 1, 3, 10, 30)
	g.Interval = pick[time.Duration](d.Rand, 5, 30, 100) * time.Millisecond
}

func (d *drawer) load(g *Group) { g.Count = 1 + d.IntN(3) }

func (d *drawer) datagrams(g *Group) {
	g.Count = pick(d.Rand, 1, 3, 10)
	g.Up, g.Down = pick(d.Rand, 0, 50, 500), pick(d.Rand, 0, 50, 500)
	if g.Up+g.Down == 0 {
		g.Count *= 5
	}
}

func (d *drawer) options() {
	s := d.s
	one := func(in int) bool { return d.IntN(in) == 0 }
	s.Rule = pick(d.Rand, RuleKept, RuleRemoved, RuleRemoved, RuleAfter)
	s.Settle = pick[time.Duration](d.Rand, 100, 200, 300) * time.Millisecond
	s.Hold = pick[time.Duration](d.Rand, 200, 400, 600) * time.Millisecond
	if one(8) {
		s.Hold = cut.None
	}
	s.Kick = pick(d.Rand, KickAll, KickAll, KickAll, KickAll, KickAll, KickAll, KickNone, KickSilent)
	s.Accept, s.NoRelated, s.NoMirror = one(8), one(4), one(8)
	s.Program = one(4)
	if one(3) && isTCP(&s.Groups[0]) && s.Groups[0].Kind != lab.Control {
		s.Again = pick(d.Rand, 20, 100)
	}
	if s.Again == 0 {
		s.Max = pick(d.Rand, MaxNone, MaxNone, MaxNone, MaxNone, MaxNone, MaxNone, MaxNone, MaxEnough, MaxLess)
	}
}

func (d *drawer) disturb() {
	s := d.s
	s.Moment = time.Duration(d.IntN(400)) * time.Millisecond
	for {
		k := often(d.Rand, disturbances, func(k *disturbanceKind) int { return k.often })
		if k.fits == nil || k.fits(d.kind, s) {
			s.Disturb = k.name
			break
		}
	}
	switch s.Disturb {
	case Killed:
		s.Program = true
	case Cancelled, OthersDelete:
		s.Program = false
	}
	if s.Disturb.kind().breaksOff {
		s.Max = MaxNone
	}
}
