//go:build linux

package soak

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"flowcut/conntrack"
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
	// inQueue is how many packets may be on their way through a queue when the
	// fence is lifted, which the kernel drops then.
	inQueue = 3
	// soon is how long ends may take to hear what they are told.
	soon = time.Second
)

// checkNow checks what must hold the moment the cut is over: that nothing is
// left, and that victims have no entry. What is not told from new flows by a
// handshake may have a new one.
func (c *trial) checkNow(ctx context.Context) error {
	rules, err := c.ruleset(ctx)
	if err != nil {
		return err
	}
	if rules != c.rules {
		c.broken.add(NothingLeft, "the ruleset was\n%s\nand is\n%s", c.rules, rules)
	}
	if c.last() == nil { // more were meant than may be cut
		c.checkRefused()
		return nil
	}
	table, err := c.table(ctx)
	if err != nil {
		return err
	}
	for _, f := range c.victims {
		for _, at := range f.places() {
			if e := table[at]; e != nil && c.stays(f, e) {
				c.broken.add(Gone, "%s: entry %v, state %v, id %d, before %d", f.group, at.tuple, e.TCP.State, e.ID, f.entry.ID)
			}
		}
	}
	if g := &c.s.Groups[0]; c.s.Rule == RuleAfter && g.forwarded() {
		return c.net.Gateway.Unforward(g.Port)
	}
	return nil
}

// stays tells whether an entry on a victim's tuple should not be there. The
// kernel gives an entry the ID of an old one when it gets its place in memory:
// when it began tells, where that is noted.
func (c *trial) stays(f *flow, e *conntrack.Flow) bool {
	if c.s.Disturb.kind().breaksOff && c.changed(f, e) {
		return false
	}
	if f.tcp() && c.last().Final && len(c.reachable(f)) > 0 {
		return true
	}
	if e.Has&conntrack.AttrStart != 0 {
		return e.Start.Before(c.began)
	}
	return f.tcp() && e.ID == f.entry.ID
}

// changed tells whether the cut that was broken off has made another flow of a
// victim than the next one was asked for: reset, its entry is closed, which a
// selection by state does not mean; deleted without a word, it may have begun
// again after all was over.
func (c *trial) changed(f *flow, e *conntrack.Flow) bool {
	if !f.tcp() {
		return false
	}
	byState := slices.ContainsFunc(c.s.Select, func(x Condition) bool {
		flag := x.Words[len(x.Words)-1]
		return strings.HasPrefix(flag, "--state=") || strings.HasPrefix(flag, "--status=")
	})
	return byState && e.TCP.State == conntrack.TCPClose || c.s.Kick != KickAll && e.ID != f.entry.ID
}

// checkRefused: nothing was done where more is meant than may be cut.
func (c *trial) checkRefused() {
	if c.s.Max != MaxLess || c.max() == 0 {
		c.broken.add(Proven, "refused to cut %d flows with %q", len(c.victims), c.s.Max)
	}
	c.victims, c.others = nil, c.flows
}

// quiet lets a while pass in which nothing may happen to what is final.
func quiet(ctx context.Context) error {
	timer := time.NewTimer(calm)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// check compares what the ends saw with what was promised.
func (c *trial) check(ctx context.Context) error {
	if c.last() != nil {
		c.checkSilent()
		c.checkTold(ctx)
		c.checkAgain()
		for _, run := range c.cuts {
			if run.receipt != nil {
				c.checkReceipt(run)
			}
		}
	}
	c.checkOthers(ctx)
	return nil
}

// standing is when the first fence stood and when the first was lifted: of two
// cuts one may have found what the other had left, and hold nothing else.
func (c *trial) standing() (raised, lifted time.Time) {
	for _, run := range c.cuts {
		if run.receipt == nil {
			continue
		}
		if r := run.raised(); raised.IsZero() || r.Before(raised) {
			raised = r
		}
		if l := run.lifted(); lifted.IsZero() || l.Before(lifted) {
			lifted = l
		}
	}
	return raised, lifted
}

// held returns the victims whose packets the guard stops until it is lifted.
// Without a hold, flows without a handshake may begin again by a packet that
// the ruleset lets pass, and so may all that a cut has deleted, and not told,
// before it was broken off.
func (c *trial) held() []*flow {
	var out []*flow
	broken := c.s.Disturb.kind().breaksOff
	for _, f := range c.victims {
		if f.tcp() && !(broken && c.s.Kick != KickAll) || c.s.Hold != cut.None && !broken {
			out = append(out, f)
		}
	}
	return out
}

// checkSilent: nothing reaches a victim from soon after the fence rose until
// the guard is lifted, and nothing at all afterwards where it is final.
func (c *trial) checkSilent() {
	raised, lifted := c.standing()
	for i := 1; i < len(c.samples); i++ {
		a, b := c.samples[i-1], c.samples[i]
		if a.At.After(raised.Add(margin)) && b.At.Before(lifted) && a.Value != b.Value {
			c.broken.add(Silent, "%d bytes received %v after the fence rose, %v before the guard was lifted", b.Value-a.Value, b.At.Sub(raised), lifted.Sub(b.At))
			break
		}
	}
	if !c.last().Final {
		return
	}
	for _, f := range c.victims {
		if !f.tcp() || c.s.Disturb.kind().breaksOff && f.from.Told().Err == nil {
			continue
		}
		if last := f.ends().LastReceived(); last.After(raised.Add(margin)) {
			c.broken.add(Final, "%s: %v received something %v after the fence rose, %v after the exit", f.group, f.orig, last.Sub(raised), last.Sub(c.exit))
		}
	}
}

// checkTold: all ends that can hear were told in the way of their protocol.
func (c *trial) checkTold(ctx context.Context) {
	if c.s.Kick != KickAll || c.s.Disturb.kind().breaksOff || !c.gateway.reaches() {
		return
	}
	var ends lab.Ends
	var flows []*flow
	for _, f := range c.victims {
		if f.kind != lab.Echo && !c.shared(f) {
			ends, flows = append(ends, c.tellable(f)...), append(flows, f)
		}
	}
	wait, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	_ = ends.WaitTold(wait) // counted below
	for _, f := range flows {
		want := unix.ECONNREFUSED
		if f.tcp() {
			want = unix.ECONNRESET
		}
		for _, e := range c.tellable(f) {
			if err := e.Told().Err; !errors.Is(err, want) && !c.barred(f, e, err) {
				c.broken.add(Told, "%s: %s was told %v, not %v, of the end of %v", f.group, e.Local, err, want, f.orig)
			}
		}
	}
}

// barred tells whether an end of the gateway's own was told by what became of
// its own packets: the fence refuses to send them.
func (c *trial) barred(f *flow, e *lab.End, err error) bool {
	return c.gateways(f, e) && errors.Is(err, unix.EPERM)
}

// checkOthers: flows that are not meant go on, and have lost nothing.
func (c *trial) checkOthers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	had := map[*lab.End]uint64{} // before any of them is made to speak
	var others []*flow           // with both ends there
	var data lab.Ends
	for _, f := range c.others {
		if c.vanished[f.hosts[0]] || c.vanished[f.hosts[1]] {
			continue
		}
		others = append(others, f)
		if !f.tcp() {
			data = append(data, f.from)
		}
		for _, e := range f.ends() {
			had[e] = e.Received.Bytes()
		}
	}
	for _, f := range others {
		for _, e := range f.ends() {
			if told := e.Told().Err; told != nil {
				c.broken.add(NobodyElse, "%s: %s was told %v of the end of %v", f.group, e.Local, told, f.orig)
			} else if f.quiet() {
				if err := e.Say(); err != nil {
					c.broken.add(NobodyElse, "%s: %s: %v: %v", f.group, e.Local, f.orig, err)
				}
			}
		}
	}
	for _, f := range others {
		for _, e := range f.hearers() {
			if err := (lab.Ends{e}).WaitReceived(ctx, had[e]+1); err != nil {
				c.broken.add(NobodyElse, "%s: nothing comes to %s any more: %v: %v", f.group, e.Local, f.orig, err)
			}
		}
	}
	lost, err := data.Lost(ctx)
	if c.s.Disturb.kind().queue && lost.Up+lost.Down <= inQueue {
		lost = lab.Loss{}
	}
	if err != nil || lost != (lab.Loss{}) {
		c.broken.add(NobodyElse, "datagrams lost: %+v, %v", lost, err)
	}
}

// checkAgain: new connections that the ruleset admits are made during the cut.
func (c *trial) checkAgain() {
	g := &c.s.Groups[0]
	if c.again == nil || len(c.vanished) > 0 || g.forwarded() && c.s.Rule == RuleRemoved {
		return
	}
	meant := c.againMeant()
	if c.s.Disturb.kind().breaksOff && meant {
		return
	}
	raised := time.Time{}
	for _, run := range c.cuts {
		if r := run.raised(); r.After(raised) && meant {
			raised = r
		}
	}
	var during []lab.Attempt
	for _, a := range c.again.Attempts() {
		ruled := g.forwarded() && c.s.Rule == RuleAfter
		if a.Start.After(raised) && !(ruled && a.Start.Add(a.Total).After(c.exit)) {
			during = append(during, a)
		}
	}
	got, want := lab.Count(during), lab.Tally{OK: len(during)}
	if c.Fence == cut.IPTables {
		got.Slow = 0 // they wait until the flows are listed
	}
	if bad := len(during) - got.OK + got.Slow; bad > inQueue || bad > 0 && !c.s.Disturb.kind().queue {
		c.broken.add(NobodyElse, "new connections since %v after the start: %+v, not %+v", raised.Sub(c.cuts[0].start), got, want)
	}
}

// againMeant tells whether the selector may mean the new connections, too, as
// far as that is known before they are made.
func (c *trial) againMeant() bool {
	var known []Condition
	for _, x := range c.s.Select {
		if !x.chosen {
			known = append(known, x)
		}
	}
	return c.again != nil && c.template(&c.s.Groups[0]).view().meets(known)
}
