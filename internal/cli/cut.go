package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/internal/personality"
	"flowcut/internal/self"
	"flowcut/internal/show"
	"flowcut/selector"
)

// cutFlags are the flags of "flowcut cut" besides the selection.
type cutFlags struct {
	settle, hold, timeout        duration
	noKick, acceptSilent, silent bool
	dryRun, all, flows           bool
	includeSelf                  bool
	max                          most
	spare                        spares
	noMirror, noRelated          bool
	acceptDetours                bool
	batch                        string
	fence                        backend
}

// newCut makes "flowcut cut".
func newCut(start time.Time) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cut selection [flags]",
		Short: "End flows for good, tell both ends, and prove it",
		Long: `cut ends the flows that are selected. It stops their packets at once, tells both
ends, deletes the entries, keeps what conntrack would adopt again out, and looks
whether all that holds. New connections that the ruleset admits are made
meanwhile. Change the rules first: cut ends what they no longer allow.

With the flows go their mirrors and what they expected. A mirror is a flow that
an earlier deletion left behind: conntrack has adopted it from the next packet,
in the other direction, so that what was its source is now its destination.

Beside conntrackd, a cut on the active gateway of a failover pair is one for both.

Exit code: 0 proven, also when nothing matched; 1 not proven, or failed;
2 wrong usage; 3 not permitted or not supported here. With 2 and 3 nothing was
changed.`,
		Example: `  flowcut cut -g -r 192.168.1.100           # a DMZ that was turned off
  flowcut cut --host 198.51.100.7           # a ban that sticks
  flowcut cut --src-nat 203.0.113.1         # the old address after a WAN failover
  flowcut cut -p udp --dport 53 --hold 0s   # backends of a service have changed
  flowcut cut --host @banned.txt -o json    # from a script
  flowcut cut --host @nft:inet/f2b-table/addr-set-sshd       # whom fail2ban bans
  flowcut cut -d 203.0.113.1 --spare '-s 10.0.0.0/8' --max 500
  flowcut cut --batch bans.txt              # a selection a line, a receipt each`,
		Args: noWords,
	}
	f := &cutFlags{
		settle:  duration{value: cut.DefaultSettle},
		hold:    duration{value: cut.DefaultHold, words: map[string]time.Duration{"quiet": cut.UntilQuiet}},
		timeout: duration{value: cut.DefaultTimeout},
	}
	sel := addSelection(cmd)
	f.register(cmd)
	out := addOutput(cmd, "text", "json")
	ns := addNetNS(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		sel.NFT = ns.readSet
		if cmd.Flags().Changed("batch") {
			return f.runBatch(cmd, ns, out.format)
		}
		calm := sync.OnceFunc(hurry())
		defer calm()
		s, err := personality.Within(cmd.Context(), 0, func() (selector.Selector, error) { return sel.Selector(cmd.InOrStdin()) })
		if err != nil {
			return err
		}
		if err := f.check(cmd.Flags(), s); err != nil {
			return err
		}
		o, err := f.options(cmd.Context(), ns, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		o.Selector, o.Start = s, start
		// All sockets are opened by one thread, without a wait for another.
		return ns.inside(func() error {
			if f.dryRun {
				return dryRun(cmd.Context(), cmd.OutOrStdout(), o, out.format)
			}
			return runCut(cmd, o, out.format, ns.which, calm)
		})
	}
	return cmd
}

// check refuses what makes no sense together.
func (f *cutFlags) check(fs *pflag.FlagSet, s selector.Selector) error {
	if err := needNarrow(s, f.all); err != nil {
		return err
	}
	return f.checkTimes(fs)
}

func (f *cutFlags) checkTimes(fs *pflag.FlagSet) error {
	if f.timeout.value == 0 {
		return usage("give it the time that a cut may take, such as 30s", "--timeout 0s leaves no time for a cut")
	}
	asked := fs.Changed("hold") || fs.Changed("settle")
	if longest := f.hold.value + f.settle.value; asked && longest > f.timeout.value {
		return usage("give --timeout more than "+longest.String(), "--timeout %s is shorter than --hold and --settle together", f.timeout.value)
	}
	return nil
}

func (f *cutFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.Var(&f.settle, "settle", "the guard stays until nothing has knocked for so long; 0s: no guard phase")
	fs.Var(&f.hold, "hold", "how long flows without a handshake (UDP and the like) stay closed; quiet: until they are quiet; 0s: the ruleset judges their next packet")
	fs.Var(&f.timeout, "timeout", "the most that the cut may take")
	fs.BoolVar(&f.noKick, "no-kick", false, "do not make ends speak that say nothing; what is cut may then not be final")
	fs.BoolVar(&f.acceptSilent, "accept-silent", false, "take flows for proven of which no end answers")
	fs.BoolVar(&f.acceptDetours, "accept-detours", false, "take it on trust that XDP, tc and the like on the way carry no packet of the flows")
	fs.BoolVar(&f.silent, "silent", false, "drop, and tell nobody")
	fs.Var(&f.fence, "fence", "what the fence is made of: auto, nf_tables or iptables; auto takes iptables where the kernel refuses nf_tables")
	fs.BoolVar(&f.dryRun, "dry-run", false, "show the flows and the rules, change nothing")
	fs.BoolVar(&f.all, "all", false, "cut also when nothing narrows the selection")
	fs.Var(&f.max, "max", "touch nothing if more flows than this match")
	fs.Var(&f.spare, "spare", "leave these flows alone: the flags of a selection in one word; may be given again")
	fs.BoolVar(&f.noMirror, "no-mirror", false, "leave alone what an earlier deletion left adopted in the other direction")
	fs.BoolVar(&f.noRelated, "no-related", false, "leave alone what a cut flow expected, such as FTP's data")
	fs.BoolVar(&f.includeSelf, "include-self", false, "cut also the SSH connection that this is run through")
	fs.BoolVar(&f.flows, "flows", false, "list the flows in the receipt")
	fs.StringVar(&f.batch, "batch", "", "cut many selections, a line each in FILE, or as they come on standard input (-); as flags or JSON")
	_ = cmd.MarkFlagFilename("batch")
	complete(cmd, "hold", "quiet")
	complete(cmd, "fence", autoFence, string(cut.NFTables), string(cut.IPTables))
	complete(cmd, "max")
	complete(cmd, "spare")
}

// options returns what the flags say, but for the selection.
func (f *cutFlags) options(ctx context.Context, ns *namespace, warn io.Writer) (cut.Options, error) {
	none := func(d time.Duration) time.Duration {
		if d == 0 {
			return cut.None
		}
		return d
	}
	var spare []conntrack.Tuple
	if !f.includeSelf {
		var hidden bool
		if spare, hidden = self.Sessions(); hidden {
			fmt.Fprintln(warn, "flowcut: cannot see which connection this is run through, without CAP_SYS_PTRACE: if it is one that is meant, it is cut, too, unless --spare leaves it alone")
		}
	}
	except, err := personality.Within(ctx, 0, func() ([]selector.Selector, error) { return f.spare.selectors(ns.readSet) })
	return cut.Options{
		All: f.all, Spare: spare, Except: except, Fence: f.fence.value,
		Max: int(f.max), NoMirror: f.noMirror, NoRelated: f.noRelated,
		Settle: none(f.settle.value), Hold: none(f.hold.value), Timeout: none(f.timeout.value),
		Silent: f.silent, NoKick: f.noKick, AcceptSilent: f.acceptSilent, AcceptDetours: f.acceptDetours, Flows: f.flows,
	}, err
}

// gcPercent makes the program collect its garbage earlier than is usual: what it
// keeps of each flow is most of its memory, and it does not run for long.
const gcPercent = 50

// runCut cuts, logs that, and prints the receipt, also of a cut that was
// interrupted.
func runCut(cmd *cobra.Command, o cut.Options, format, where string, calm func()) error {
	debug.SetGCPercent(gcPercent)
	p := newProgress(cmd.ErrOrStderr(), o.Start)
	o.Progress = func(s cut.Step) {
		if s.Raised {
			calm()
		}
		p.step(s)
	}
	r, err := cut.Run(cmd.Context(), o)
	p.stop()
	if r == nil {
		return err
	}
	journal(r, where, 0) // first, since nobody may read the receipt
	printed := printReceipt(cmd.OutOrStdout(), r, format)
	switch {
	case err != nil && context.Cause(cmd.Context()) == nil:
		return &exitError{codeFailed, err} // something had been changed by then, whatever it was
	case err != nil:
		return err
	case !r.Proven:
		return &exitError{code: codeFailed}
	}
	return printed
}

func printReceipt(w io.Writer, r *cut.Receipt, format string) error {
	if format == "json" {
		return json.NewEncoder(w).Encode(r)
	}
	_, err := w.Write(show.AppendReceipt(nil, r, terminal(w)))
	return err
}

// dryRun prints what a cut would do.
func dryRun(ctx context.Context, w io.Writer, o cut.Options, format string) error {
	plan, err := cut.NewPlan(ctx, o)
	if err != nil {
		return err
	}
	if format == "json" {
		return json.NewEncoder(w).Encode(plan)
	}
	rows := newRenderer(w, "text", time.Now())
	for _, f := range plan.Flow {
		if err := rows.flow(f); err != nil {
			return err
		}
	}
	too := ""
	if o.Max > 0 && plan.Flows.Matched > o.Max {
		too = fmt.Sprintf("That is more than --max %d: none would be.\n", o.Max)
	}
	_, err = fmt.Fprintf(w, "\n%s would be cut: %s\n%s\nThe fence, raised before they are listed:\n\n%s",
		show.Count(plan.Flows.Matched, "flow"), o.Selector, too, plan.Rules)
	return err
}
