package cut

import (
	"slices"

	"flowcut/conntrack"
	"flowcut/internal/detour"
)

// lookForDetours looks for what may carry packets of cut flows past all hooks,
// where nothing stops or counts them.
func (c *cutting) lookForDetours() {
	if len(c.members.list) == 0 {
		return
	}
	c.detours, c.unlooked = detour.Find(c.o.NetNS, func(yield func(conntrack.Tuple) bool) {
		for _, m := range c.members.list {
			if !yield(m.key.Orig) || !yield(m.reply) {
				return
			}
		}
	})
	// A flowtable carries nothing of a flow whose entry is gone, and what it
	// had carried has been waited for, see release.
	c.detours = slices.DeleteFunc(c.detours, func(d detour.Finding) bool { return d.What == detour.Flowtable })
	for _, d := range c.detours {
		c.receipt.Fence.Detours = append(c.receipt.Fence.Detours, d.String())
	}
}

// judgeDetours says what was found and what could not be looked at.
func (c *cutting) judgeDetours(q *request, doubt func(bool, string, ...any)) {
	if len(c.detours) > 0 {
		const said = "on the way of the flows there is what may carry packets past all rules: %s"
		list := some(c.detours)
		if c.o.AcceptDetours {
			q.because(said+", taken on trust not to", list)
		} else {
			doubt(true, said+"; take it away, or take it on trust by --accept-detours", list)
		}
	}
	doubt(c.unlooked != nil && !c.o.AcceptDetours, "what may carry packets past all rules could not be looked for: %v; --accept-detours does without", c.unlooked)
}
