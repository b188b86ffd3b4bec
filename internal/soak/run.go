//go:build linux

package soak

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"time"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/internal/lab"
	"flowcut/selector"

	"golang.org/x/sync/errgroup"
)

// Report is what came of a scenario.
type Report struct {
	Broken  []string // promises that did not hold, and what was seen
	Victims int      // flows that the selector meant
	Others  int
	Proven  bool
	Reason  string // of the receipt
	Took    time.Duration

	broken broken
}

// broke tells whether a promise did not hold.
func (r *Report) broke(p Promise) bool { return r.broken.count[p] > 0 }

// String says it in one line.
func (r *Report) String() string {
	word, proven := "ok    ", "proven"
	if len(r.Broken) > 0 {
		word = "BROKEN"
	}
	if !r.Proven {
		proven = "not proven"
	}
	return fmt.Sprintf("%s %5.2f s, %3d of %3d flows, %s", word, r.Took.Seconds(), r.Victims, r.Victims+r.Others, proven)
}

// limit is the most that one scenario may take; a cut may take a good part of it.
const (
	limit      = 60 * time.Second
	cutTimeout = 15 * time.Second
)

// Tools are what cuts.
type Tools struct {
	Program string // path of the built program, for scenarios that use it
	Cut     Cutter // instead of the library's; nil: that
}

// Cutter is a function that cuts as [cut.Run] does.
type Cutter func(context.Context, cut.Options) (*cut.Receipt, error)

// Run builds a scenario, cuts, and checks what was promised. The error is of
// the lab, not of a promise.
func Run(ctx context.Context, s *Scenario, t Tools) (r *Report, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	if t.Cut == nil {
		t.Cut = cut.Run
	}
	x, err := build(ctx, s)
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, x.close())
		if r != nil {
			r.Took = time.Since(began)
		}
	}()
	c := &trial{site: x, Tools: t, ids: map[*flow]uint32{}, vanished: map[*lab.Host]bool{}}
	if err := c.run(ctx); err != nil {
		return nil, err
	}
	r = &Report{Broken: x.broken.list(), broken: x.broken, Victims: len(x.victims), Others: len(x.others)}
	if n := len(c.cuts); n > 0 && c.cuts[n-1].receipt != nil {
		r.Proven, r.Reason = c.cuts[n-1].receipt.Proven, c.cuts[n-1].receipt.Reason
	}
	return r, nil
}

// trial is a site that is being cut.
type trial struct {
	*site
	Tools

	ids      map[*flow]uint32 // of the entries, before the cut
	vanished map[*lab.Host]bool
	rules    string // before the cut
	cuts     []*cutRun
	exit     time.Time
	samples  []lab.Sample // of what victims have received
}

// cutRun is one cut that came to its end.
type cutRun struct {
	start   time.Time
	exit    time.Time
	receipt *cut.Receipt
	code    int // of the program
}

// raised is when the fence stood at the latest. A program's clock begins some
// time after it was started, and it prints its receipt before it ends.
func (c *cutRun) raised() time.Time {
	return c.exit.Add(time.Duration(c.receipt.Fence.RaisedAfterMS - c.receipt.ElapsedMS))
}

// lifted is when it was gone at the earliest.
func (c *cutRun) lifted() time.Time {
	return c.start.Add(time.Duration(c.receipt.Fence.LiftedAfterMS))
}

// run cuts the site and checks it.
func (c *trial) run(ctx context.Context) (err error) {
	if err := c.entries(ctx); err != nil {
		return err
	}
	if err := c.before(ctx); err != nil {
		return err
	}
	if c.rules, err = nft(ctx, c.net.Gateway.Host, "", "list", "ruleset"); err != nil {
		return err
	}
	received := endsOf(c.victims)
	sampler := c.net.Sample(2*time.Millisecond, received.Received)
	if c.s.Disturb.breaksOff() {
		if err := c.breakOff(ctx); err != nil {
			return err
		}
	}
	if err := c.disturbed(ctx, c.cutAll); err != nil {
		return err
	}
	c.exit = time.Now()
	err = c.checkNow(ctx)
	if c.again != nil {
		c.again.Stop()
	}
	if err == nil {
		err = c.quiet(ctx)
	}
	c.samples = sampler.Stop()
	if err != nil {
		return err
	}
	return c.check(ctx)
}

// entries notes the entries of all flows, which must be as their ends say.
func (c *trial) entries(ctx context.Context) error {
	table, err := c.table(ctx)
	if err != nil {
		return err
	}
	for _, f := range c.flows {
		e := table[place2{f.orig, conntrack.Zone(f.zone)}]
		if e == nil || e.Reply != f.reply || uint32(e.Mark) != f.mark {
			return fmt.Errorf("soak: %s: no entry %v / %v zone %d mark %d, but %+v", f.group, f.orig, f.reply, f.zone, f.mark, e)
		}
		c.ids[f] = e.ID
	}
	return nil
}

// place2 names an entry.
type place2 struct {
	tuple conntrack.Tuple
	zone  conntrack.Zone
}

// table lists the gateway's entries.
func (c *trial) table(ctx context.Context) (map[place2]*conntrack.Flow, error) {
	out := map[place2]*conntrack.Flow{}
	for f, err := range c.ct.Dump(ctx, conntrack.Filter{}) {
		if err != nil {
			return nil, err
		}
		out[place2{f.Orig, f.Key().Zone}] = f.Clone()
	}
	return out, nil
}

// before does what happens before the cut.
func (c *trial) before(ctx context.Context) error {
	g := &c.s.Groups[0]
	from, to := c.hosts(g)
	if c.s.Again > 0 {
		p := pathOf(g)
		c.again = from.Reconnect(lab.Reconnects{To: addrPort(p.to, g.Port), Rate: c.s.Again, Timeout: 3 * time.Second})
		err := lab.Until(ctx, "three new connections", func() (bool, error) { return len(c.again.Attempts()) >= 3, nil })
		if err != nil {
			return err
		}
	}
	if c.s.Rule == RuleRemoved && c.forwards(g) != nil {
		if err := c.net.Gateway.Unforward(g.Port); err != nil {
			return err
		}
	}
	var gone []*lab.Host
	switch c.s.Disturb {
	case VanishOne:
		gone = []*lab.Host{from}
	case VanishOther:
		gone = []*lab.Host{to}
	case VanishBoth:
		gone = []*lab.Host{from, to}
	case Forget:
		return c.net.Gateway.ForgetNeighbours()
	default:
	}
	for _, h := range gone {
		if h == c.net.Gateway.Host {
			continue
		}
		c.vanished[h] = true
		if err := h.Vanish(); err != nil {
			return err
		}
	}
	return nil
}

// disturbed runs f while something else goes on.
func (c *trial) disturbed(ctx context.Context, f func(context.Context) error) error {
	if c.s.Disturb != Reload {
		return f(ctx)
	}
	stop := make(chan struct{})
	var group errgroup.Group
	group.Go(func() error {
		for {
			select {
			case <-stop:
				return nil
			default:
			}
			if _, err := nft(ctx, c.net.Gateway.Host, "flush ruleset\n"+c.rules, "-f", "-"); err != nil {
				return err
			}
		}
	})
	err := f(ctx)
	close(stop)
	return errors.Join(err, group.Wait())
}

// cutAll runs the cuts of the scenario to their ends.
func (c *trial) cutAll(ctx context.Context) error {
	n := 1
	if c.s.Disturb == TwoCuts {
		n = 2
	}
	runs, errs := make([]*cutRun, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { runs[i], errs[i] = c.cut(ctx, nil) })
	}
	wg.Wait()
	c.cuts = runs
	return errors.Join(errs...)
}

// breakOff begins a cut that does not come to its end, and checks that
// nothing of it is left.
func (c *trial) breakOff(ctx context.Context) error {
	once, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.AfterFunc(c.s.Moment, cancel) // the moment is what is drawn
	defer timer.Stop()
	_, err := c.cut(once, cancel)
	if err != nil && ctx.Err() != nil {
		return err
	}
	same := func() (bool, error) {
		now, err := nft(ctx, c.net.Gateway.Host, "", "list", "ruleset")
		return now == c.rules, err
	}
	soon, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := lab.Until(soon, "the ruleset is as it was", same); err != nil {
		c.broken.add(NothingLeft, "a cut that was broken off has left rules: %v", err)
	}
	return nil
}

// cut runs one cut to its end, or until ctx ends; stop says that it may.
func (c *trial) cut(ctx context.Context, stop func()) (*cutRun, error) {
	if c.s.Program {
		return c.byProgram(ctx, stop != nil)
	}
	sel, err := selector.Parse(c.s.words())
	if err != nil {
		return nil, err
	}
	run := &cutRun{start: time.Now()}
	run.receipt, err = c.Cut(ctx, cut.Options{
		Selector: sel, NetNS: c.net.Gateway.NS.Fd(), Start: run.start, Timeout: cutTimeout,
		Settle: c.s.Settle, Hold: c.s.Hold, Silent: c.s.Kick == KickSilent, NoKick: c.s.Kick == KickNone, AcceptSilent: c.s.Accept,
	})
	run.exit = time.Now()
	if err != nil {
		return nil, fmt.Errorf("soak: cut: %w", err)
	}
	return run, nil
}

// byProgram lets the built program cut.
func (c *trial) byProgram(ctx context.Context, killed bool) (*cutRun, error) {
	args := []string{"cut", "--netns", c.net.Gateway.Name, "-o", "json", "--timeout", cutTimeout.String(),
		"--settle", c.s.Settle.String(), "--hold", c.s.Hold.String()}
	for word, is := range map[string]bool{"--silent": c.s.Kick == KickSilent, "--no-kick": c.s.Kick == KickNone, "--accept-silent": c.s.Accept} {
		if is {
			args = append(args, word)
		}
	}
	cmd := exec.CommandContext(ctx, c.Program, append(args, c.s.words()...)...) // killed when ctx ends
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	run := &cutRun{start: time.Now()}
	err := cmd.Run()
	run.exit = time.Now()
	if killed && ctx.Err() != nil {
		return run, nil
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return nil, fmt.Errorf("soak: %s: %w", strings.Join(cmd.Args, " "), err)
	}
	run.code = cmd.ProcessState.ExitCode()
	run.receipt = new(cut.Receipt)
	if err := json.Unmarshal(stdout.Bytes(), run.receipt); err != nil {
		return nil, fmt.Errorf("soak: %s: exit code %d, no receipt: %w\n%s", strings.Join(cmd.Args, " "), run.code, err, &stderr)
	}
	return run, nil
}
