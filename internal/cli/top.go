package cli

import (
	"context"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"flowcut/cut"
	"flowcut/internal/personality"
	"flowcut/internal/self"
	"flowcut/internal/top"
	"flowcut/selector"
)

// topFlags are the flags of "flowcut top" besides the selection.
type topFlags struct {
	by    oneOf[top.View]
	sort  oneOf[top.Sort]
	every duration
	once  bool
	rows  int
}

// newTop makes "flowcut top".
func newTop(time.Time) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "top [selection] [flags]",
		Short: "Watch flows live, and cut them",
		Long: `top shows the flows that are selected, live on a terminal: one by one, or in
groups by what they have in common. A key sorts, groups, filters, marks, and cuts
what is marked: first the dry run is shown, then, if that is confirmed, the receipt.
? shows the keys.

RATE and BYTES need the sysctl net.netfilter.nf_conntrack_acct, AGE needs
nf_conntrack_timestamp, both from before the flow began; a key switches them on.

The rows on the screen are read each second. The whole table is walked through as
often as a fifth of a processor allows, each second if it is small; how often that
is says the screen. Events tell between walks what comes and goes.

A cut is that of "flowcut cut" with its defaults, and needs the same rights.`,
		Example: `  flowcut top                            # q ends it
  flowcut top --by client --sort count   # who has the most flows
  flowcut top -p tcp --dport 443
  flowcut top --by port --once           # one look, as text`,
		Args: noWords,
	}
	f := &topFlags{
		by:    oneOf[top.View]{top.Flows, top.ParseView},
		sort:  oneOf[top.Sort]{top.Rate, top.ParseSort},
		every: duration{value: time.Second},
	}
	sel := addSelection(cmd)
	fs := cmd.Flags()
	fs.Var(&f.by, "by", "what a row is: "+top.Names(top.Views))
	fs.Var(&f.sort, "sort", "what comes first: "+top.Names(top.Sorts)+"; the greatest each time")
	fs.Var(&f.every, "every", "how often rows are read again, and the whole table at most")
	fs.BoolVar(&f.once, "once", false, "print one look as text, and end")
	fs.IntVar(&f.rows, "rows", 20, "how many rows --once prints")
	complete(cmd, "by", strings.Split(top.Names(top.Views), ", ")...)
	complete(cmd, "sort", strings.Split(top.Names(top.Sorts), ", ")...)
	complete(cmd, "every")
	complete(cmd, "rows")
	ns := addNetNS(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		sel.NFT = ns.readSet
		s, err := personality.Within(cmd.Context(), 0, func() (selector.Selector, error) { return sel.Selector(cmd.InOrStdin()) })
		if err != nil {
			return err
		}
		return f.run(cmd, ns, s)
	}
	return cmd
}

// shortest is the least of --every: less than a glance.
const shortest = 100 * time.Millisecond

func (f *topFlags) run(cmd *cobra.Command, ns *namespace, s selector.Selector) error {
	if f.every.value < shortest {
		return usage("give it "+shortest.String()+" or more", "--every %s is too often", f.every.value)
	}
	if f.rows < 1 {
		return usage("write 1 or more", "--rows %d: nothing to print", f.rows)
	}
	o := top.Config{Filter: s, View: f.by.value, Sort: f.sort.value, Every: f.every.value}
	if f.once {
		return ns.with(func(fd int) error {
			o.NetNS = fd
			return patiently(cmd.Context(), func() error { return top.Once(cmd.Context(), o, cmd.OutOrStdout(), f.rows) })
		})
	}
	in, out := file(cmd.InOrStdin()), file(cmd.OutOrStdout())
	if in == nil || out == nil {
		return usage("print one look with --once, or use \"flowcut list\" or \"flowcut stats\"", "flowcut top needs a terminal for its input and output")
	}
	o.Input, o.Output = in, out
	return ns.with(func(fd int) error {
		c := topCut{where: ns.which}
		c.o.NetNS, o.NetNS = fd, fd
		var hidden bool
		if c.o.Spare, hidden = self.Sessions(); hidden {
			o.Warning = "Cannot see which connection this is run through, without CAP_SYS_PTRACE: if a cut means it, it is cut, too."
		}
		o.Plan, o.Cut = c.plan, c.cut
		return top.Run(cmd.Context(), o)
	})
}

// file returns the terminal behind a stream, nil if it is none.
func file(stream any) *os.File {
	if p, ok := stream.(pipe); ok {
		stream = p.Writer
	}
	f, ok := stream.(*os.File)
	if !ok || !terminal(f) {
		return nil
	}
	return f
}

// topCut cuts as "flowcut cut" does by default.
type topCut struct {
	o     cut.Options
	where string
}

func (c topCut) plan(ctx context.Context, list []selector.Selector) (*cut.Plan, error) {
	return cut.NewPlanAll(ctx, c.o, list)
}

func (c topCut) cut(ctx context.Context, list []selector.Selector, progress func(cut.Step)) []cut.Result {
	calm := sync.OnceFunc(hurry())
	defer calm()
	o := c.o
	o.Start = time.Now()
	o.Progress = func(s cut.Step) {
		if s.Raised {
			calm()
		}
		progress(s)
	}
	results := cut.RunAll(ctx, o, list)
	for _, r := range results {
		if r.Receipt != nil {
			journal(r.Receipt, c.where, c.o.NetNS)
		}
	}
	return results
}

// oneOf is the value of a flag that takes one of some words.
type oneOf[T interface{ String() string }] struct {
	value T
	parse func(string) (T, error)
}

func (c *oneOf[T]) String() string { return c.value.String() }

func (c *oneOf[T]) Type() string { return "WORD" }

func (c *oneOf[T]) Set(s string) (err error) {
	c.value, err = c.parse(s)
	return err
}
