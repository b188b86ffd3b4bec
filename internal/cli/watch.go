package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"flowcut/internal/personality"
	"flowcut/internal/sysctl"
	"flowcut/internal/watch"
	"flowcut/selector"
)

// newWatch makes "flowcut watch".
func newWatch(time.Time) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "watch [selection] [flags]",
		Short: "Print what happens to flows, and which of them come back",
		Long: `watch prints a line for each event of the flows that are selected, all without
a selection: new, update, destroy; at the end how long the flow lived and what it
carried. It goes on until a signal, such as by Ctrl-C.

A flow that RETURNED was adopted by connection tracking in mid-stream after its
entry had been deleted or had expired, in either direction: the connection has
survived. Returns of selected flows are shown although the selection does not
mean what they look like.

It begins with a listing of the table, which prints nothing: the kernel does not
announce the end of flows that began while nobody listened.`,
		Example: `  flowcut watch -g                       # all flows with DNAT, and what comes back of them
  flowcut watch --host 192.168.1.100 -o json --for 30s
  flowcut watch -p tcp --dport 443 --count 10`,
		Args: noWords,
	}
	sel := addSelection(cmd)
	out := addOutput(cmd, "text", "json", "conntrack")
	ns := addNetNS(cmd)
	var limit duration
	var count uint32
	cmd.Flags().Var(&limit, "for", "end after this time; 0s: go on until a signal")
	cmd.Flags().Uint32Var(&count, "count", 0, "end after `N` events; 0: no limit")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		sel.NFT = ns.readSet
		s, err := personality.Within(cmd.Context(), 0, func() (selector.Selector, error) { return sel.Selector(cmd.InOrStdin()) })
		if err != nil {
			return err
		}
		o := watch.Options{
			Selector: s, Format: out.format, Colour: coloured(cmd.OutOrStdout()),
			Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr(), For: limit.value, Count: int(count),
		}
		return ns.with(func(fd int) error {
			o.NetNS = fd
			return patiently(cmd.Context(), func() error {
				return watch.Run(cmd.Context(), o, func() error {
					return ns.inside(func() error { return announces(o.Err) })
				})
			})
		})
	}
	return cmd
}

// announces refuses a namespace whose kernel announces nothing, and says what it
// does not tell.
func announces(stderr io.Writer) error {
	const events, acct = "net.netfilter.nf_conntrack_events", "net.netfilter.nf_conntrack_acct"
	n, err := sysctl.Get(events)
	switch {
	case err != nil: // /proc is not there: perhaps it does
	case n == 0:
		return &exitError{codeRefused, usage("announce them with \"sysctl -w "+events+"=2\": from then on it tells of flows that begin", "%s is 0: the kernel announces no events", events)}
	case n == sysctl.Absent:
		return fmt.Errorf("the kernel announces no events: it is built without CONFIG_NF_CONNTRACK_EVENTS: %w", errors.ErrUnsupported)
	}
	if n, err := sysctl.Get(acct); err == nil && n == 0 {
		fmt.Fprintf(stderr, "flowcut: bytes are not counted: %s is 0; \"sysctl -w %s=1\" has those counted of flows that begin then\n", acct, acct)
	}
	return nil
}

// coloured tells whether colours are of use to who reads a stream: see no-color.org.
func coloured(w io.Writer) bool {
	return terminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
