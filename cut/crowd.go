package cut

import (
	"context"
	"slices"
)

// maxGuarded is the most flows that the guard takes in one by one, and whose
// ends are asked: each is two elements of sets in the kernel, some 400 bytes,
// and an end is sent several segments, at 128 in a millisecond.
var maxGuarded = 250_000 // tests change it

// limit makes do with the coarse guard for the selectors that mean the most
// flows, where there are too many in all.
func (c *cutting) limit(ctx context.Context) error {
	if c.coarse || len(c.members.list) <= maxGuarded || !c.facts.Coarse || !adopts(c.o.NetNS) {
		return nil
	}
	c.crowds = c.largest()
	c.asked = nil
	for _, m := range c.members.list {
		m.crowd = true
		for i := range c.places(m.wants) {
			m.crowd = m.crowd && c.crowds[i]
		}
		if !m.crowd {
			c.asked = append(c.asked, m)
		}
	}
	return c.fence.GuardCoarse(ctx)
}

// largest returns the places of the selectors that are left to the coarse guard:
// those that mean the most flows, until the others mean no more than it takes.
func (c *cutting) largest() map[int]bool {
	counts := make([]int, c.set.Len())
	for _, m := range c.members.list {
		for i := range c.places(m.wants) {
			counts[i]++
		}
	}
	order := make([]int, len(counts))
	rest := 0
	for i, n := range counts {
		order[i] = i
		rest += n
	}
	slices.SortFunc(order, func(a, b int) int { return counts[b] - counts[a] })
	out := map[int]bool{}
	for _, i := range order {
		if rest <= maxGuarded {
			break
		}
		out[i] = true
		rest -= counts[i]
	}
	return out
}

// crowd returns the members of crowds.
func crowd(list []*member) (out []*member) {
	for _, m := range list {
		if m.crowd {
			out = append(out, m)
		}
	}
	return out
}

// others returns the rest.
func others(list []*member) (out memberList) {
	for _, m := range list {
		if !m.crowd {
			out = append(out, m)
		}
	}
	return out
}

// toAsk returns the members whose ends are asked: all but crowds.
func (c *cutting) toAsk() memberList {
	if len(c.crowds) > 0 {
		return c.asked
	}
	return c.members.list
}
