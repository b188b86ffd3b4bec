package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"flowcut/internal/bypass"
	"flowcut/internal/oneline"
	"flowcut/internal/personality"
	"flowcut/internal/self"
	"flowcut/internal/show"
	"flowcut/selector"
)

// newBypass makes "flowcut bypass" with the commands below it.
func newBypass(time.Time) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bypass add|list|remove",
		Short: "Take packets out of connection tracking, for a time",
		Long: `bypass takes packets out of connection tracking, in both directions, by rules of
its own: the cure for a table that one service fills. What is not tracked needs
no entry; it is not translated either, and no rule knows its state.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("write add, list or remove", "bypass: unknown command %q", oneline.Value(args[0]))
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(newBypassAdd(), newBypassList(), newBypassRemove())
	return cmd
}

func newBypassAdd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add selection [flags]",
		Short: "Track the packets of a selection no more, and delete their entries",
		Long: `add takes the packets that the selected originators send, and the answers to
them, out of connection tracking, and deletes the entries that are there. Nobody
is told: connections go on without. With --for that ends by itself, whether or not
any flowcut runs. Added again, it has the new time.

The selection may have families, protocols, addresses and ports. What only a flow
has, such as its state, its mark or a translation, cannot be said of packets.

It is refused where packets would break for certain: of flows that are translated
now, or of the caller's own SSH connection where rules go by the state of flows.
What may break is said.`,
		Example: `  flowcut bypass add -p tcp --dport 80 --dst 192.0.2.80 --for 10m
  flowcut bypass add -p udp --dport 53 --dry-run`,
		Args: noWords,
	}
	sel := addSelection(cmd)
	var o bypass.Options
	life := &duration{}
	cmd.Flags().Var(life, "for", "how long; without it stays until it is removed")
	cmd.Flags().BoolVar(&o.Force, "force", false, "also where flows break by it that are translated, or the caller may be locked out")
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "show the entries and the rules, change nothing")
	out := addOutput(cmd, "text", "json")
	ns := addNetNS(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		sel.NFT = ns.readSet
		s, err := selectionOf(cmd, sel)
		if err != nil {
			return err
		}
		if o.For = life.value; cmd.Flags().Changed("for") && o.For < time.Millisecond {
			return usage("give it a time such as 10m, or leave --for out for a bypass that stays", "--for %s is no time for a bypass", o.For)
		}
		o.Selector = s
		o.Own, o.Hidden = self.Sessions()
		return ns.with(func(fd int) error {
			o.NetNS = fd
			return addBypass(cmd, o, out.format)
		})
	}
	return cmd
}

// selectionOf reads the selection of a bypass, and refuses what cannot be one.
func selectionOf(cmd *cobra.Command, sel *selector.Flags) (selector.Selector, error) {
	s, err := personality.Within(cmd.Context(), 0, func() (selector.Selector, error) { return sel.Selector(cmd.InOrStdin()) })
	if err == nil {
		err = bypass.Check(&s)
	}
	return s, err
}

func addBypass(cmd *cobra.Command, o bypass.Options, format string) error {
	w := cmd.OutOrStdout()
	rows := newRenderer(w, "text", time.Now())
	if o.DryRun && format == "text" {
		o.Found = rows.flow
	}
	r, err := bypass.Add(cmd.Context(), o)
	if r == nil {
		return refused(err)
	}
	if format == "json" {
		if printed := json.NewEncoder(w).Encode(r); err == nil {
			err = printed
		}
		return err
	}
	for _, warning := range r.Warnings {
		fmt.Fprintf(cmd.ErrOrStderr(), "flowcut: warning: %s\n", oneline.Whole(warning))
	}
	if _, printed := io.WriteString(w, added(r, o, err != nil)); err == nil {
		err = printed
	}
	return err
}

func entries(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}

// refused gives what speaks against a bypass a hint.
func refused(err error) error {
	if r, ok := errors.AsType[*bypass.RefusedError](err); ok {
		return &exitError{codeFailed, fmt.Errorf("%w; --force does it all the same", r)}
	}
	return err
}

// added says what was done, and how it ends.
func added(r *bypass.Report, o bypass.Options, interrupted bool) string {
	if r.DryRun {
		return fmt.Sprintf("\n%s would be deleted. Bypass %d, these rules:\n\n%s", entries(r.Entries.Deleted), r.Number, r.Rules)
	}
	did := "added"
	if r.Renewed {
		did = "renewed"
	}
	s := fmt.Sprintf("bypass %d %s: %s\n", r.Number, did, r.Selector)
	s += fmt.Sprintf("%s deleted", entries(r.Entries.Deleted))
	if r.Entries.Left > 0 {
		s += fmt.Sprintf(", %d left", r.Entries.Left)
	}
	if interrupted {
		s += "; the same command again deletes the rest"
	}
	if o.For > 0 {
		return s + fmt.Sprintf("\nends by itself in %s; rules that do nothing any more are left then, until bypass is called again\n", o.For)
	}
	return s + fmt.Sprintf(`
stays until "flowcut bypass remove %d", until the ruleset is flushed, or until the
machine restarts. To have it after that, let nft(8) load these lines, as from
/etc/nftables.conf:

%s`, r.Number, r.Rules)
}

func newBypassList() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list [flags]",
		Short:   "Show what is not tracked, how long, and how much it was",
		Long:    `list shows each bypass that is in force, and removes what is left of those that are over.`,
		Example: `  flowcut bypass list -o json`,
		Args:    noWords,
	}
	cmd.Flags().SortFlags = false
	out := addOutput(cmd, "text", "json")
	ns := addNetNS(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return ns.with(func(fd int) error {
			list, err := bypass.List(cmd.Context(), fd)
			if err != nil {
				return err
			}
			return printBypasses(cmd.OutOrStdout(), list, out.format)
		})
	}
	return cmd
}

func newBypassRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove number...|selection|--all [flags]",
		Short: "Track again",
		Long: `remove ends a bypass: the one with a number, as list shows it, the one with the
very selection, or all. Connections are tracked from their next packet on; those
of TCP are adopted in mid-stream unless net.netfilter.nf_conntrack_tcp_loose is 0.`,
		Example: `  flowcut bypass remove 1
  flowcut bypass remove -p tcp --dport 80 --dst 192.0.2.80
  flowcut bypass remove --all`,
		Args: cobra.ArbitraryArgs,
	}
	sel := addSelection(cmd)
	var all bool
	cmd.Flags().BoolVar(&all, "all", false, "remove all, also when there is none")
	out := addOutput(cmd, "text", "json")
	ns := addNetNS(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		sel.NFT = ns.readSet
		choose, err := choice(cmd, sel, args, all)
		if err != nil {
			return err
		}
		return ns.with(func(fd int) error {
			list, err := bypass.Remove(cmd.Context(), fd, choose)
			if err != nil {
				return err
			}
			return printBypasses(cmd.OutOrStdout(), list, out.format)
		})
	}
	return cmd
}

// choice is what is to be removed, said in one way.
func choice(cmd *cobra.Command, sel *selector.Flags, args []string, all bool) (func([]*bypass.Bypass) ([]*bypass.Bypass, error), error) {
	const hint = "give numbers as \"flowcut bypass list\" shows them, or a selection, or --all"
	s, err := personality.Within(cmd.Context(), 0, func() (selector.Selector, error) { return sel.Selector(cmd.InOrStdin()) })
	if err != nil {
		return nil, err
	}
	ways := 0
	for _, given := range []bool{len(args) > 0, len(s.Args()) > 0, all} {
		if given {
			ways++
		}
	}
	switch {
	case ways == 0:
		return nil, usage(hint, "nothing says which bypass is meant")
	case ways > 1:
		return nil, usage(hint, "more than one way to say which bypass is meant")
	case all:
		return bypass.All, nil
	case len(args) == 0:
		return bypass.BySelector(&s), nil
	}
	var numbers []int
	for _, word := range args {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 {
			return nil, usage(hint, "%s is no number of a bypass", oneline.Value(word))
		}
		numbers = append(numbers, n)
	}
	return bypass.ByNumber(numbers...), nil
}

// bypassJSON is a line of "flowcut bypass list -o json".
type bypassJSON struct {
	Number   int       `json:"number"`
	Selector string    `json:"selector"`
	Families []string  `json:"families"`
	LeftMS   int64     `json:"left_ms,omitempty"` // absent: it stays
	Sent     countJSON `json:"sent"`
	Returned countJSON `json:"returned"`
}

type countJSON struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

func families(b *bypass.Bypass) (out []string) {
	for _, f := range b.Families {
		out = append(out, f.String())
	}
	return out
}

func printBypasses(w io.Writer, list []*bypass.Bypass, format string) error {
	if format == "json" {
		enc := json.NewEncoder(w)
		for _, b := range list {
			if err := enc.Encode(bypassJSON{
				b.Number, b.Selector.String(), families(b), b.Left.Milliseconds(), countJSON(b.Sent), countJSON(b.Returned),
			}); err != nil {
				return err
			}
		}
		return nil
	}
	if _, err := io.WriteString(w, "NUMBER    LEFT  PACKETS SENT  RETURNED       BYTES  SELECTION\n"); err != nil {
		return err
	}
	for _, b := range list {
		left := "stays"
		if !b.Stays {
			left = string(show.AppendDuration(nil, b.Left))
		}
		bytes := show.AppendBytes(nil, b.Sent.Bytes+b.Returned.Bytes)
		if _, err := fmt.Fprintf(w, "%6d  %6s  %12d  %8d  %10s  %s\n",
			b.Number, left, b.Sent.Packets, b.Returned.Packets, bytes, b.Selector.Brief()); err != nil {
			return err
		}
	}
	return nil
}
