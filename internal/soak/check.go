//go:build linux

package soak

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"flowcut/cut"
	"flowcut/internal/lab"

	"golang.org/x/sys/unix"
)

const (
	// margin is for what an end's host had received when the fence rose, and
	// for a machine that is busy.
	margin = 200 * time.Millisecond
	// calm is how long nothing must reach an end after the cut.
	calm = 300 * time.Millisecond
	// soon is how long ends may take to hear what they are told.
	soon = time.Second
)

func addrPort(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// checkNow checks what must hold the moment the cut is over: that nothing is
// left, and that victims have no entry. What is not told from new flows by a
// handshake may have a new one.
func (c *trial) checkNow(ctx context.Context) error {
	rules, err := nft(ctx, c.net.Gateway.Host, "", "list", "ruleset")
	if err != nil {
		return err
	}
	if rules != c.rules {
		c.broken.add(NothingLeft, "the ruleset was\n%s\nand is\n%s", c.rules, rules)
	}
	table, err := c.table(ctx)
	if err != nil {
		return err
	}
	for _, f := range c.victims {
		for _, t := range []place2{{f.orig, zoneOf(f)}, {f.reply, zoneOf(f)}} {
			e := table[t]
			if e != nil && (e.ID == c.ids[f] || f.tcp() && c.final() && len(c.reachable(f)) > 0) {
				c.broken.add(Gone, "%s: entry %v, state %v, id %d, before %d", f.group, t.tuple, e.TCP.State, e.ID, c.ids[f])
			}
		}
	}
	if c.s.Rule == RuleAfter {
		return c.net.Gateway.Unforward(c.s.Groups[0].Port)
	}
	return nil
}

// quiet lets a while pass in which nothing may happen to what is final.
func (c *trial) quiet(ctx context.Context) error {
	timer := time.NewTimer(calm)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// final tells whether the last cut says that it is.
func (c *trial) final() bool { return c.last().Final }

func (c *trial) last() *cut.Receipt { return c.cuts[len(c.cuts)-1].receipt }

// reachable returns the ends of a flow whose hosts are there.
func (c *trial) reachable(f *flow) lab.Ends {
	from, to := c.hosts(f.group)
	var out lab.Ends
	if !c.vanished[from] {
		out = append(out, f.end)
	}
	if peer := f.end.Peer(); peer != nil && !c.vanished[to] {
		out = append(out, peer)
	}
	return out
}

// check compares what the ends saw with what was promised.
func (c *trial) check(ctx context.Context) error {
	c.checkSilent()
	c.checkTold(ctx)
	c.checkOthers(ctx)
	c.checkAgain()
	for _, run := range c.cuts {
		c.checkReceipt(run)
	}
	return nil
}

// checkSilent: nothing reaches a victim from soon after the fence rose until
// the guard is lifted, and nothing at all afterwards where it is final.
func (c *trial) checkSilent() {
	raised, lifted := c.cuts[0].raised(), c.cuts[0].lifted()
	for _, run := range c.cuts[1:] {
		if run.raised().Before(raised) {
			raised = run.raised()
		}
		if run.lifted().After(lifted) {
			lifted = run.lifted()
		}
	}
	for i := 1; i < len(c.samples); i++ {
		a, b := c.samples[i-1], c.samples[i]
		if a.At.After(raised.Add(margin)) && b.At.Before(lifted) && a.Value != b.Value {
			c.broken.add(Silent, "%d bytes received %v after the fence rose, %v before the guard was lifted", b.Value-a.Value, b.At.Sub(raised), lifted.Sub(b.At))
			break
		}
	}
	if !c.final() {
		return
	}
	for _, f := range c.victims {
		if !f.tcp() || c.s.Disturb.breaksOff() && f.end.Told().Err == nil {
			continue
		}
		if last := f.ends().LastReceived(); last.After(raised.Add(margin)) {
			c.broken.add(Final, "%s: %v received something %v after the fence rose, %v after the exit", f.group, f.orig, last.Sub(raised), last.Sub(c.exit))
		}
	}
}

// checkTold: all ends that can hear were told in the way of their protocol.
func (c *trial) checkTold(ctx context.Context) {
	if c.s.Kick != KickAll || c.s.Disturb.breaksOff() {
		return
	}
	var ends lab.Ends
	for _, f := range c.victims {
		if f.group.Kind != lab.Echo {
			ends = append(ends, c.reachable(f)...)
		}
	}
	wait, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	_ = ends.WaitTold(wait) // counted below
	missing := 0
	for _, f := range c.victims {
		if f.group.Kind == lab.Echo {
			continue
		}
		want := unix.ECONNREFUSED
		if f.tcp() {
			want = unix.ECONNRESET
		}
		for _, e := range c.reachable(f) {
			if err := e.Told().Err; !errors.Is(err, want) && !c.refused(e, err) {
				if missing++; missing <= 3 {
					c.broken.add(Told, "%s: %s was told %v, not %v, of the end of %v", f.group, e.Local, err, want, f.orig)
				}
			}
		}
	}
	if missing > 3 {
		c.broken.add(Told, "%d of %d ends were not told", missing, len(ends))
	}
}

// refused tells whether an end of the gateway's own was told by what became of
// its own packets, which an output rule refuses.
func (c *trial) refused(e *lab.End, err error) bool {
	return errors.Is(err, unix.EPERM) && c.isGateways(e.Local.Addr())
}

// checkOthers: flows that are not meant go on, and have lost nothing.
func (c *trial) checkOthers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var others []*flow // with both ends there
	for _, f := range c.others {
		from, to := c.hosts(f.group)
		if !c.vanished[from] && !c.vanished[to] {
			others = append(others, f)
		}
	}
	had := map[*lab.End]uint64{} // before any of them is made to speak
	var data lab.Ends
	for _, f := range others {
		for _, e := range f.ends() {
			had[e] = e.Received.Bytes()
		}
	}
	for _, f := range others {
		for _, e := range f.ends() {
			if told := e.Told().Err; told != nil {
				c.broken.add(NobodyElse, "%s: %s was told %v of the end of %v", f.group, e.Local, told, f.orig)
			} else if err := sayIdle(f, e); err != nil {
				c.broken.add(NobodyElse, "%s: %s: %v: %v", f.group, e.Local, f.orig, err)
			}
		}
		if !f.tcp() {
			data = append(data, f.end)
		}
	}
	for _, f := range others {
		for _, e := range f.hearers() {
			if err := (lab.Ends{e}).WaitReceived(ctx, had[e]+1); err != nil {
				c.broken.add(NobodyElse, "%s: nothing comes to %s any more: %v: %v", f.group, e.Local, f.orig, err)
			}
		}
	}
	if lost, err := data.Lost(ctx); err != nil || lost != (lab.Loss{}) {
		c.broken.add(NobodyElse, "datagrams lost: %+v, %v", lost, err)
	}
}

// sayIdle lets an end of an idle connection say something.
func sayIdle(f *flow, e *lab.End) error {
	if f.group.Kind != lab.Idle {
		return nil
	}
	return e.Say()
}

// hearers are the ends that must get something more.
func (f *flow) hearers() lab.Ends {
	if f.group.Kind == lab.Idle {
		return f.ends()
	}
	return f.receivers()
}

// checkAgain: new connections that the ruleset admits are made during the cut.
func (c *trial) checkAgain() {
	g := &c.s.Groups[0]
	if c.again == nil || len(c.vanished) > 0 || c.forwards(g) != nil && c.s.Rule == RuleRemoved {
		return
	}
	meant := c.s.meant(c.kind.template(g))
	raised := time.Time{}
	for _, run := range c.cuts {
		if r := run.raised(); r.After(raised) && meant {
			raised = r
		}
	}
	var during []lab.Attempt
	for _, a := range c.again.Attempts() {
		ruled := c.forwards(g) != nil && c.s.Rule == RuleAfter
		if a.Start.After(raised) && !(ruled && a.Start.Add(a.Total).After(c.exit)) {
			during = append(during, a)
		}
	}
	if c.s.Disturb.breaksOff() && meant {
		return
	}
	if got, want := lab.Count(during), (lab.Tally{OK: len(during)}); got != want {
		c.broken.add(NobodyElse, "new connections since %v after the start: %+v, not %+v", raised.Sub(c.cuts[0].start), got, want)
	}
}

// census is what a receipt should count.
type census struct {
	flows, tcp, tcpEnds int
	rest                int // ends of others that can be told
	both, one           int // TCP flows with both ends gone, with one
}

func (c *trial) census() (n census) {
	n.flows = len(c.victims)
	for _, f := range c.victims {
		there := len(c.reachable(f))
		switch {
		case f.group.Kind == lab.Echo:
		case !f.tcp():
			n.rest += 2 // it leaves for an end that has vanished, too
		default:
			n.tcp++
			n.tcpEnds += there
			if there == 0 {
				n.both++
			} else if there == 1 {
				n.one++
			}
		}
	}
	return n
}

// checkReceipt: it says what the ends saw.
func (c *trial) checkReceipt(run *cutRun) {
	r, want := run.receipt, c.census()
	n, e := r.Flows, r.Endpoints
	wrong := func(is bool, format string, args ...any) {
		if is {
			c.broken.add(Proven, ""+format, args...)
		}
	}
	wrong(n.Matched != n.Deleted+n.Vanished+n.Remaining+n.Spared, "flows do not add up: %+v", n)
	wrong(c.s.Program && (run.code == 0) != r.Proven, "exit code %d, proven %v", run.code, r.Proven)
	wrong(n.Remaining != 0 || n.Returned != 0 || r.Fence.LeakedPackets != 0 || n.Refused != 0, "remaining %d, returned %d, refused %d, leaked %d",
		n.Remaining, n.Returned, n.Refused, r.Fence.LeakedPackets)
	if c.s.Disturb.breaksOff() {
		return // how far the first came is not known
	}
	kicked := c.s.Kick == KickAll
	proven := !kicked || want.both == 0 || c.s.Accept
	wrong(r.Proven != proven, "proven %v, want %v: %s", r.Proven, proven, r.Reason)
	final := kicked && want.both == 0 || want.tcp == 0
	more := c.again != nil && c.s.meant(c.kind.template(&c.s.Groups[0]))
	wrong(r.Final != final && !(more && !kicked), "final %v, want %v: %s", r.Final, final, r.Reason)
	is := func(what string, got, want int) {
		wrong(got != want && !(more && got > want), "%s %d, want %d: %s", what, got, want, r.Reason)
	}
	is("matched", n.Matched, want.flows)
	if kicked {
		is("dead", e.Dead, want.tcpEnds)
		is("silent", e.Silent, 2*want.tcp-want.tcpEnds)
		wrong(e.Reset < want.tcpEnds, "reset %d, want %d", e.Reset, want.tcpEnds)
		wrong(e.Unreachable < want.rest, "unreachable %d, want %d", e.Unreachable, want.rest)
	} else {
		is("dead", e.Dead, 0)
	}
	if c.s.Disturb != TwoCuts {
		is("deleted", n.Deleted, want.flows)
	}
}
