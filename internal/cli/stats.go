package cli

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"flowcut/conntrack"
	"flowcut/internal/health"
	"flowcut/internal/sysctl"
)

// statsOptions are what "flowcut stats" was told.
type statsOptions struct {
	period  duration // 0: one look
	every   duration // 0: by period
	warn    duration
	top     int
	talkers talkers
	svg     string
	format  string
}

// Samples of "flowcut stats".
const (
	oneLook     = time.Second
	leastEvery  = 100 * time.Millisecond
	mostSamples = 100_000

	// autoTalkers is how many entries are counted unasked.
	autoTalkers = 1_000_000
)

// newStats makes "flowcut stats".
func newStats(time.Time) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stats [flags]",
		Short: "Tell how full the table is, when it will be full, and what fills it",
		Long: `stats looks at the connection tracking table for a second, or for as long as --for
says, and tells how full it is and how its number of entries changes, when it will
be full ("table full, dropping packet"), what fills it and what to do; how loaded the
hash table is; what the counters of the processors mean; who has the most flows, and how
many could be dropped early. It changes nothing.

With --for it prints a line whenever the outlook changes, and one each second while
a warning stands. A forecast holds as long as all goes on as it did; none is made where the
ups and downs are larger than the trend.

The most frequent servers, clients and ports are counted in a listing of the
table, a second and a half to three and a half for a million entries, twice when it
fills. Above a million that is left out unless --talkers asks for it.

Exit code: 0 all is well; 1 the table is full, or was to be within the time of --warn,
at any moment of the look; 2 wrong usage; 3 not permitted.`,
		Example: `  flowcut stats
  flowcut stats --for 1m --svg table.svg
  flowcut stats --warn 10m -o json || mail -s "table fills" root`,
		Args: noWords,
	}
	o := statsOptions{warn: duration{value: time.Minute}, talkers: talkersAuto}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.Var(&o.period, "for", "how long to look, 0 for one look of a second")
	fs.Var(&o.every, "every", "time between samples, 0 for a thirtieth of --for, a second at most")
	fs.Var(&o.warn, "warn", "warn of a table that will be full within this time")
	fs.IntVar(&o.top, "top", 5, "how many servers, clients and ports are shown")
	fs.Var(&o.talkers, "talkers", "count the flows of the table: auto, yes, no")
	fs.StringVar(&o.svg, "svg", "", "write a picture of the count, new flows and losses to a `FILE`")
	complete(cmd, "talkers", string(talkersAuto), "yes", "no")
	out := addOutput(cmd, "text", "json")
	ns := addNetNS(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o.format = out.format
		if err := o.complete(); err != nil {
			return err
		}
		return ns.inside(func() error { return stats(cmd.Context(), newStatsPrinter(cmd.OutOrStdout(), o), o) })
	}
	return cmd
}

// talkers is the value of --talkers.
type talkers string

const talkersAuto talkers = "auto"

func (t *talkers) String() string { return string(*t) }

func (t *talkers) Type() string { return "WHEN" }

func (t *talkers) Set(v string) error {
	switch v {
	case string(talkersAuto), "yes", "no":
		*t = talkers(v)
		return nil
	}
	return errors.New("write auto, yes or no")
}

// wanted tells whether a table of so many entries is counted.
func (t talkers) wanted(count uint32) bool {
	return t == "yes" || t == talkersAuto && count <= autoTalkers
}

// complete checks the options and fills in what was left to us.
func (o *statsOptions) complete() error {
	if o.top < 0 {
		return usage("write 0 for none", "--top %d: negative", o.top)
	}
	if o.every.value > 0 && o.every.value < leastEvery {
		return usage("write 100ms or more", "--every %v: less than %v", o.every.value, leastEvery)
	}
	period := o.length()
	if o.every.value == 0 {
		o.every.value = min(max(period/30, leastEvery), time.Second)
	}
	if o.every.value > period {
		return usage("give a shorter --every, or a longer --for", "--every %v: longer than the look of %v", o.every.value, period)
	}
	if period/o.every.value > mostSamples {
		return usage("give a longer --every", "--for %v: more than %d samples", period, mostSamples)
	}
	return nil
}

// length is how long the look takes.
func (o *statsOptions) length() time.Duration {
	if o.period.value == 0 {
		return oneLook
	}
	return o.period.value
}

// stats looks at the table of the thread's namespace and prints what it sees.
func stats(ctx context.Context, p *statsPrinter, o statsOptions) (err error) {
	c, err := conntrack.Dial(conntrack.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	l := &look{o: o, c: c, here: sysctl.Settable(health.MaxKey)}
	failed := l.watch(ctx, p)
	if failed != nil && (ctx.Err() == nil || len(l.recent) == 0) {
		return failed
	}
	r, err := l.report(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	err = p.report(r)
	if l.svg != nil {
		_, printed := l.svg.Write(health.Picture(l.points))
		err = errors.Join(err, printed, l.svg.Close())
	}
	switch {
	case failed != nil || err != nil:
		return errors.Join(failed, err)
	case l.warned:
		return &exitError{codeFailed, nil}
	}
	return nil
}
