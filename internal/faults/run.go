//go:build linux && amd64

package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"time"

	"golang.org/x/sys/unix"
)

// Result is what came of a case.
type Result struct {
	Case     Case
	Injected bool          // the call was made
	Ending   Ending        // of the run that met the fault
	Lifted   time.Duration // from the end of a run that was killed until the ruleset was as before
	Bad      []string      // promises that were broken
	Stdout   string
	Stderr   string
	Again    string // what the second run has printed
	untold   bool   // the run has said that ends could not be told, nor asked
}

// Ending is how a run ended.
type Ending string

// Endings.
const (
	Proven    Ending = "proven"
	NotProven Ending = "not proven" // and says why
	Refused   Ending = "refused"    // exit code 2 or 3, nothing changed
	Killed    Ending = "killed"
)

// limits of time.
const (
	hungAfter  = 40 * time.Second // far more than the cut gets, with the longest stop
	liftWithin = time.Second      // on a busy machine, with the time that nft(8) takes
	stopFor    = 60 * time.Millisecond
	stopLong   = 5500 * time.Millisecond // longer than the cut's --timeout
)

func (r *Result) bad(format string, args ...any) { r.Bad = append(r.Bad, fmt.Sprintf(format, args...)) }

// Record runs a variant without a fault and returns the calls that it made.
func (w *World) Record(ctx context.Context, v Variant) (Made, error) {
	if err := w.populate(ctx, v); err != nil {
		return nil, err
	}
	out, err := w.trace(v, nil).Run()
	if err != nil {
		return nil, err
	}
	if out.Exit != 0 || out.Signal != 0 {
		return nil, fmt.Errorf("%s without a fault: exit code %d, signal %d\n%s%s", v.Name, out.Exit, out.Signal, out.Stdout, out.Stderr)
	}
	return out.Made, w.clear(ctx)
}

func (w *World) trace(v Variant, c *Case) *Trace {
	t := &Trace{
		Symbols: w.symbols, Program: w.program, Args: v.line(w.net.Gateway.Name), Stdin: v.stdin,
		Case: c, Limit: hungAfter, Vanish: w.remote.vanish,
	}
	if !v.netns {
		t.Inside = w.net.Gateway.NS.Fd()
	}
	return t
}

// Run tries a case: a cut that meets the fault, what is left of it, and a cut
// after it.
func (w *World) Run(ctx context.Context, c Case) (*Result, error) {
	v, err := variant(c.Variant)
	if err != nil {
		return nil, err
	}
	if err := w.populate(ctx, v); err != nil {
		return nil, fmt.Errorf("make the flows: %w", err)
	}
	r := &Result{Case: c}
	t := w.trace(v, &c)
	t.Stopped = func(int) error { return w.meanwhile(ctx, r) }
	out, err := t.Run()
	if err = errors.Join(err, w.remote.restore()); err != nil {
		return nil, err
	}
	r.Injected, r.Stdout, r.Stderr = out.Injected, string(out.Stdout), string(out.Stderr)
	if err := w.rulesAsBefore(r, out.Ended); err != nil {
		return nil, err
	}
	if err := w.check(ctx, r, out, v); err != nil {
		return nil, err
	}
	if err := w.again(ctx, r, v); err != nil {
		return nil, err
	}
	if c.Fault == NetNS {
		if err := w.recover(); err != nil {
			return nil, err
		}
	}
	r.Bad = append(r.Bad, w.unhurt(c.Fault == NetNS)...)
	return r, w.clear(ctx)
}

// meanwhile looks, while the program is stopped, whether others are kept from
// anything: the flows that nobody means, and new ones.
func (w *World) meanwhile(ctx context.Context, r *Result) error {
	began := time.Now()
	r.Bad = append(r.Bad, w.unhurt(false)...)
	if err := w.newcomer(ctx); err != nil {
		r.bad("while the program was stopped: %v", err)
	}
	long := stopFor
	if r.Case.long() {
		long = stopLong
	}
	time.Sleep(long - time.Since(began)) // time itself is meant: it stays stopped
	return nil
}

// rulesAsBefore waits until the ruleset is what it was.
func (w *World) rulesAsBefore(r *Result, ended time.Time) error {
	now := ""
	err := until(w.soon, "the ruleset is as before", func() (ok bool, err error) {
		now, err = w.ruleset()
		return now == w.before, err
	})
	r.Lifted = time.Since(ended)
	switch {
	case now != w.before:
		r.bad("the ruleset is not as before: %s", now)
	case err != nil:
		return err
	case r.Case.Fault.kills() && r.Lifted > liftWithin:
		r.bad("the ruleset was as before only %v after the end", r.Lifted)
	}
	return nil
}

// again runs the same cut without a fault, which has to finish the work.
func (w *World) again(ctx context.Context, r *Result, v Variant) error {
	ctx, cancel := context.WithTimeout(ctx, hungAfter)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, w.program, v.line(w.net.Gateway.Name)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if v.stdin != "" {
		cmd.Stdin = bytes.NewBufferString(v.stdin)
	}
	ns := 0
	if !v.netns {
		ns = w.net.Gateway.NS.Fd()
	}
	err := start(cmd, ns)
	if err == nil {
		err = cmd.Wait()
	}
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		return err
	}
	r.Again = stdout.String() + stderr.String()
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		r.bad("the second run: exit code %d", code)
	}
	if now, err := w.ruleset(); err != nil {
		return err
	} else if now != w.before {
		r.bad("the ruleset is not as before the second run: %s", now)
	}
	if r.Case.Fault == NetNS && r.untold {
		// There was no way to the ends while their entries were deleted, and the
		// receipt has said what that means: nobody finds those that say nothing.
		return nil
	}
	left, err := w.left(ctx, v)
	for _, what := range left {
		r.bad("after the second run: %s", what)
	}
	return err
}

// kills tells whether the fault was a SIGKILL.
func (f Fault) kills() bool { return f == Kill || f == StopKill }

// check holds what the run claims to what is so.
func (w *World) check(ctx context.Context, r *Result, out *Outcome, v Variant) error {
	if out.Hung {
		r.bad("it hung, and was killed after %v", hungAfter)
		r.Ending = Killed
		return nil
	}
	if out.Signal != 0 {
		r.Ending = Killed
		if !(out.Injected && r.Case.Fault.kills()) || out.Signal != unix.SIGKILL {
			r.bad("signal %v ended it", out.Signal)
		}
		return nil
	}
	if bytes.Contains(out.Stderr, []byte("goroutine ")) {
		r.bad("it crashed: %s", out.Stderr)
	}
	switch out.Exit {
	case 0:
		r.Ending = Proven
	case 1:
		r.Ending = NotProven
	case 2, 3:
		r.Ending = Refused
	default:
		r.bad("exit code %d", out.Exit)
		return nil
	}
	if r.Ending == Refused && out.raised(r.Case.Site) {
		r.bad("refused, after the fence was raised")
	}
	receipts, err := parseReceipts(out.Stdout)
	if err != nil {
		r.bad("the receipt: %v", err)
		return nil
	}
	return w.checkReceipts(ctx, r, receipts, v)
}

// raised tells whether a fence was asked for before the call that met the fault.
func (o *Outcome) raised(site string) bool {
	for made := range o.Made {
		if raises.MatchString(made) && made != site {
			return true
		}
	}
	return false
}

var raises = regexp.MustCompile(`/fence\.Fence\.Raise/nft\..*/send[a-z]*$`)
