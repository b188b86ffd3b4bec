//go:build linux

package soak

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
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
	Broken   []string // promises that did not hold, and what was seen
	Victims  int      // flows that were to be cut
	Others   int
	Proven   bool
	Receipts []*cut.Receipt
	Took     time.Duration

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

// Tools are what cuts.
type Tools struct {
	Program string // path of the built program, for scenarios that use it

	// Fence is the backend of all cuts. That of iptables lets new connections
	// wait, leaves something behind when it is killed, and takes no flood of SYNs:
	// see Scenario.Beyond.
	Fence cut.Backend
	Cut   Cutter // instead of the library's; nil: that
}

// Cutter is a function that cuts as [cut.Run] does.
type Cutter func(context.Context, cut.Options) (*cut.Receipt, error)

// limit is the most that one scenario may take; a cut may take a good part of it.
const (
	limit      = 60 * time.Second
	cutTimeout = 15 * time.Second
)

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
	c := &trial{site: x, Tools: t, vanished: map[*lab.Host]bool{}}
	if err := c.run(ctx); err != nil {
		return nil, err
	}
	r = &Report{Broken: x.broken.list(), broken: x.broken, Victims: len(x.victims), Others: len(x.others)}
	for _, run := range c.cuts {
		if run.receipt != nil {
			r.Receipts = append(r.Receipts, run.receipt)
			r.Proven = run.receipt.Proven
		}
	}
	return r, nil
}

// trial is a site that is being cut.
type trial struct {
	*site
	Tools

	vanished map[*lab.Host]bool
	rules    string // before the cut
	cuts     []*cutRun
	began    time.Time // the first cut, also if it was broken off
	exit     time.Time
	samples  []lab.Sample // of what victims have received
}

// cutRun is one cut that came to its end.
type cutRun struct {
	start   time.Time
	exit    time.Time
	receipt *cut.Receipt // nil if more was meant than may be
	code    int          // of the program
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

// last is the last cut's receipt, nil if it gave none.
func (c *trial) last() *cut.Receipt {
	if len(c.cuts) == 0 {
		return nil
	}
	return c.cuts[len(c.cuts)-1].receipt
}

// run cuts the site and checks it.
func (c *trial) run(ctx context.Context) (err error) {
	if err := c.before(ctx); err != nil {
		return err
	}
	if c.rules, err = c.ruleset(ctx); err != nil {
		return err
	}
	c.began = time.Now()
	sampler := c.net.Sample(2*time.Millisecond, endsOf(c.held()).Received)
	if c.s.Disturb.kind().breaksOff {
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
		err = quiet(ctx)
	}
	c.samples = sampler.Stop()
	if err != nil {
		return err
	}
	return c.check(ctx)
}

// before does what happens before the cut, and then finds out what is meant.
func (c *trial) before(ctx context.Context) error {
	g := &c.s.Groups[0]
	from, _ := c.hosts(g)
	if c.s.Again > 0 {
		to := netip.AddrPortFrom(c.path(g).to, g.Port)
		c.again = from.Reconnect(lab.Reconnects{To: to, Rate: c.s.Again, Timeout: 3 * time.Second})
		err := lab.Until(ctx, "three new connections", func() (bool, error) { return len(c.again.Attempts()) >= 3, nil })
		if err != nil {
			return err
		}
	}
	if c.s.Rule == RuleRemoved && g.forwarded() {
		if err := c.net.Gateway.Unforward(g.Port); err != nil {
			return err
		}
	}
	if before := c.s.Disturb.kind().before; before != nil {
		if err := before(c, ctx); err != nil {
			return fmt.Errorf("soak: %s: %w", c.s.Disturb, err)
		}
	}
	if err := c.entries(ctx); err != nil {
		return err
	}
	c.selection()
	c.sort()
	return nil
}

// disturbed runs f while something else goes on.
func (c *trial) disturbed(ctx context.Context, f func(context.Context) error) error {
	beside := c.s.Disturb.kind().beside
	if beside == nil {
		return f(ctx)
	}
	during, stop := context.WithCancel(ctx)
	defer stop()
	var group errgroup.Group
	group.Go(func() error { return beside(c, during) })
	err := f(ctx)
	stop()
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
		wg.Go(func() { runs[i], errs[i] = c.cut(ctx, false) })
	}
	wg.Wait()
	c.cuts = runs
	return errors.Join(errs...)
}

// breakOff begins a cut that does not come to its end, and checks that
// nothing of it is left.
func (c *trial) breakOff(ctx context.Context) error {
	once, cancel := context.WithTimeout(ctx, c.s.Moment) // which is drawn
	defer cancel()
	if _, err := c.cut(once, true); err != nil && ctx.Err() != nil {
		return err
	}
	same := func() (bool, error) {
		now, err := c.ruleset(ctx)
		return now == c.rules, err
	}
	soon, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := lab.Until(soon, "the ruleset is as it was", same); err != nil {
		c.broken.add(NothingLeft, "a cut that was broken off has left rules: %v", err)
	}
	return nil
}

// max is the limit to how many flows may be cut, 0: none.
func (c *trial) max() int {
	switch c.s.Max {
	case MaxEnough:
		return len(c.victims)
	case MaxLess:
		return max(0, len(c.victims)-1)
	}
	return 0
}

// cut runs one cut to its end, or until ctx ends if it may.
func (c *trial) cut(ctx context.Context, may bool) (*cutRun, error) {
	if c.s.Program {
		return c.byProgram(ctx, may)
	}
	o := cut.Options{
		NetNS: c.net.Gateway.NS.Fd(), All: c.s.All, Max: c.max(), NoMirror: c.s.NoMirror, NoRelated: c.s.NoRelated,
		Settle: c.s.Settle, Hold: c.s.Hold, Timeout: cutTimeout,
		Fence: c.Fence, Silent: c.s.Kick == KickSilent, NoKick: c.s.Kick == KickNone, AcceptSilent: c.s.Accept, Flows: true,
	}
	var err error
	if o.Selector, err = selector.Parse(words(c.s.Select)); err != nil {
		return nil, err
	}
	if len(c.s.Spare) > 0 {
		spare, err := selector.Parse(words(c.s.Spare))
		if err != nil {
			return nil, err
		}
		o.Except = []selector.Selector{spare}
	}
	var rival error
	if c.s.Disturb == OthersDelete {
		o.Progress = c.rival(ctx, &rival)
	}
	run := &cutRun{start: time.Now()}
	o.Start = run.start
	run.receipt, err = c.Cut(ctx, o)
	run.exit = time.Now()
	if many := (*cut.TooManyError)(nil); errors.As(err, &many) {
		return run, nil
	}
	if err != nil {
		return nil, fmt.Errorf("soak: cut: %w", err)
	}
	return run, rival
}

// byProgram lets the built program cut.
func (c *trial) byProgram(ctx context.Context, may bool) (*cutRun, error) {
	hold := c.s.Hold
	if hold == cut.None {
		hold = 0
	}
	args := []string{"cut", "--netns", c.net.Gateway.Name, "-o", "json", "--timeout", cutTimeout.String(),
		"--settle", c.s.Settle.String(), "--hold", hold.String()}
	for word, is := range map[string]bool{
		"--silent": c.s.Kick == KickSilent, "--no-kick": c.s.Kick == KickNone, "--accept-silent": c.s.Accept,
		"--all": c.s.All, "--no-related": c.s.NoRelated, "--no-mirror": c.s.NoMirror,
	} {
		if is {
			args = append(args, word)
		}
	}
	if c.Fence != cut.AnyBackend {
		args = append(args, "--fence", string(c.Fence))
	}
	if len(c.s.Spare) > 0 {
		args = append(args, "--spare", strings.Join(words(c.s.Spare), " "))
	}
	if n := c.max(); n > 0 {
		args = append(args, "--max", strconv.Itoa(n))
	}
	cmd := exec.CommandContext(ctx, c.Program, append(args, words(c.s.Select)...)...) // killed when ctx ends
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	run := &cutRun{start: time.Now()}
	err := cmd.Run()
	run.exit = time.Now()
	if may && ctx.Err() != nil {
		return run, nil
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return nil, fmt.Errorf("soak: %s: %w", strings.Join(cmd.Args, " "), err)
	}
	run.code = cmd.ProcessState.ExitCode()
	if strings.Contains(stderr.String(), "more than --max") {
		return run, nil
	}
	run.receipt = new(cut.Receipt)
	if err := json.Unmarshal(stdout.Bytes(), run.receipt); err != nil {
		return nil, fmt.Errorf("soak: %s: exit code %d, no receipt: %w\n%s", strings.Join(cmd.Args, " "), run.code, err, &stderr)
	}
	return run, nil
}

// rival deletes the victims' entries once a cut knows of them, as another
// program may.
func (c *trial) rival(ctx context.Context, failed *error) func(cut.Step) {
	var keys []conntrack.Key
	for _, f := range c.victims {
		keys = append(keys, f.entry.Key())
	}
	return func(s cut.Step) {
		if s.Flows > 0 && len(keys) > 0 {
			_, *failed = c.ct.Delete(ctx, keys, nil)
			keys = nil
		}
	}
}
