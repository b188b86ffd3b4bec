//go:build linux

package soak

import (
	"runtime"
	"slices"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/internal/lab"
)

// census is what a receipt should count.
type census struct {
	tcp, tcpEnds      int // flows, and ends that can be told
	maybe             int // ends that are there, but are told only if they speak
	rest              int // ends of others that can be told
	unsure            int // TCP flows whose end nobody can know
	spared            int
	related, mirrored int
}

func (c *trial) census() (n census) {
	for _, f := range c.victims {
		there := len(c.tellable(f))
		switch {
		case f.kind == lab.Echo:
		case !f.tcp():
			n.rest += there
		default:
			n.tcp++
			n.tcpEnds += there
			n.maybe += len(c.reachable(f)) - there
			if there == 0 || c.shared(f) || !c.gateway.reaches() {
				n.unsure++
			}
		}
		switch v := f.view(); {
		case v.meets(c.s.Select):
		case v.reversed().meets(c.s.Select) && v.pickedUp && !c.s.NoMirror:
			n.mirrored++
		default:
			n.related++
		}
	}
	for _, f := range c.others {
		if f.entry != nil && c.spared(f) && f.view().meets(c.s.Select) {
			n.spared++
		}
	}
	return n
}

// masqueradeKills tells whether the kernel may delete entries by itself: it
// does when a packet of a masqueraded flow leaves by another device, as resets
// do that are led astray.
func (c *trial) masqueradeKills() bool {
	k := &c.gateway.config
	return k.Uplinks != lab.MainTable && !k.SNAT
}

// checkReceipt: it says what the ends saw.
func (c *trial) checkReceipt(run *cutRun) {
	r, want := run.receipt, c.census()
	n, e := r.Flows, r.Endpoints
	wrong := func(is bool, format string, args ...any) {
		if is {
			c.broken.add(Proven, format, args...)
		}
	}
	wrong(n.Matched != n.Deleted+n.Vanished+n.Remaining+n.Spared, "flows do not add up: %+v", n)
	wrong(c.s.Program && (run.code == 0) != r.Proven, "exit code %d, proven %v", run.code, r.Proven)
	// A first packet that waits in a queue since before the fence is refused, and
	// one that is under way when it rises, of which there can be as many as processors.
	underWay := 0
	if c.again != nil {
		underWay = runtime.NumCPU()
	}
	refused := n.Refused > underWay && !c.s.Disturb.kind().queue && c.Fence != cut.IPTables
	wrong(n.Remaining != 0 || n.Returned != 0 || r.Fence.LeakedPackets != 0 || refused, "remaining %d, returned %d, refused %d, leaked %d",
		n.Remaining, n.Returned, n.Refused, r.Fence.LeakedPackets)
	if c.s.Disturb.kind().breaksOff {
		return // how far the first came is not known
	}
	kicked := c.s.Kick == KickAll
	proven := !kicked || want.unsure == 0 || c.s.Accept
	if !r.Proven && proven && c.otherProves(run) {
		return
	}
	wrong(r.Proven != proven, "proven %v, want %v", r.Proven, proven)
	more := c.againMeant() || c.s.Disturb.kind().more
	if final := kicked && want.unsure == 0 || want.tcp == 0 || n.Matched == 0; !more || !r.Final && kicked && c.s.Disturb != Flooded {
		wrong(r.Final != final && !(r.Final && c.s.Disturb == TwoCuts), "final %v, want %v", r.Final, final)
	}
	is := func(what string, got, want int) {
		// Of two cuts each may find what the other has left, and nothing else.
		wrong(got < want && c.s.Disturb != TwoCuts || got > want && !more, "%s %d, want %d", what, got, want)
	}
	is("matched", n.Matched, len(c.victims)+want.spared)
	is("spared", n.Spared, want.spared)
	is("related", n.Related, want.related)
	is("mirrored", n.Mirrored, want.mirrored)
	if c.s.Disturb == OthersDelete || c.masqueradeKills() {
		is("deleted and vanished", n.Deleted+n.Vanished, len(c.victims))
	} else {
		is("deleted", n.Deleted, len(c.victims))
	}
	if c.gateway.reaches() {
		c.checkEnds(&e, &want, kicked, is)
	}
	c.checkFlows(r, kicked && c.gateway.reaches(), more)
}

// checkFlows: the receipt lists the flows as they are.
func (c *trial) checkFlows(r *cut.Receipt, kicked, more bool) {
	victims := map[conntrack.Key]*flow{}
	for _, f := range c.victims {
		victims[f.entry.Key()] = f
	}
	for _, x := range r.Flow {
		f := victims[x.Flow.Key()]
		if f == nil && x.Outcome != cut.Spared && !more {
			c.broken.add(Proven, "nobody asked for %+v", x.Flow)
		}
		if f == nil || !f.tcp() || !kicked || c.shared(f) {
			continue
		}
		ends := [2]cut.End{x.Originator, x.Responder}
		if f.mirrored {
			ends[0], ends[1] = ends[1], ends[0]
		}
		for i, e := range []*lab.End{f.from, f.to} {
			if slices.Contains(c.tellable(f), e) != (ends[i] == cut.EndDead) && !(slices.Contains(c.reachable(f), e) && !slices.Contains(c.tellable(f), e)) {
				c.broken.add(Proven, "%s: %s, end of %v, is %q", f.group, e.Local, f.orig, ends[i])
			}
		}
	}
}

// checkEnds: the receipt counts the ends as they are.
func (c *trial) checkEnds(e *cut.EndpointCounts, want *census, kicked bool, is func(what string, got, want int)) {
	if !kicked {
		is("dead", e.Dead, 0)
		return
	}
	told := max(want.tcpEnds, min(e.Dead, want.tcpEnds+want.maybe))
	is("dead", e.Dead, told)
	is("silent", e.Silent, 2*want.tcp-told)
	is("reset, at most as many as there are", min(e.Reset, want.tcpEnds), want.tcpEnds)
	is("unreachable, at most as many as there are", min(e.Unreachable, want.rest), want.rest)
}

// otherProves tells whether another cut at the same time has proven what this
// one could not: resets of the other one's fence, before this one's rose, have
// told ends that this one does not know to have been told.
func (c *trial) otherProves(run *cutRun) bool {
	return slices.ContainsFunc(c.cuts, func(other *cutRun) bool {
		return other != run && other.receipt != nil && other.receipt.Proven && other.receipt.Final
	})
}
