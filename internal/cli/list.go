package cli

import (
	"bufio"
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"flowcut/conntrack"
	"flowcut/internal/personality"
	"flowcut/selector"
)

// newList makes "flowcut list".
func newList(time.Time) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [selection] [flags]",
		Short: "Show flows and how they are translated",
		Long: `list shows the flows of the connection tracking table that are selected, all
without a selection.

In a flow, "A -> B" is what the originator sends, and "=>" what NAT makes of an
end: "A -> B => C" is DNAT, "A => S -> B" is SNAT or masquerade. A flow that is
picked up looks adopted in mid-stream. BYTES counts both directions and needs
the sysctl net.netfilter.nf_conntrack_acct, AGE needs nf_conntrack_timestamp,
both from before the flow began.`,
		Example: `  flowcut list -g                        # all flows with DNAT
  flowcut list --host 192.168.1.100      # at any end, before or after NAT
  flowcut list -p tcp --dport 443 -o json`,
		Args: noWords,
	}
	sel := addSelection(cmd)
	out := addOutput(cmd, "text", "json", "conntrack")
	ns := addNetNS(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		sel.NFT = ns.readSet
		s, err := personality.Within(cmd.Context(), 0, func() (selector.Selector, error) { return sel.Selector(cmd.InOrStdin()) })
		if err != nil {
			return err
		}
		return ns.with(func(fd int) error {
			return patiently(cmd.Context(), func() error {
				return list(cmd.Context(), cmd.OutOrStdout(), fd, s, out.format)
			})
		})
	}
	return cmd
}

// patiently does what writes to where nobody may read: after a signal it is
// given a second more.
func patiently(ctx context.Context, f func() error) error {
	_, err := personality.Within(ctx, time.Second, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

// list prints the selected flows of a namespace.
func list(ctx context.Context, w io.Writer, fd int, s selector.Selector, format string) (err error) {
	out := bufio.NewWriterSize(w, 64<<10)
	r := newRenderer(out, format, time.Now())
	if s.Empty() {
		return errors.Join(r.end(), out.Flush())
	}
	c, err := conntrack.Dial(conntrack.Config{NetNS: fd})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for f, err := range c.Dump(ctx, s.Narrow()) {
		if err != nil {
			return errors.Join(err, out.Flush())
		}
		if !s.Match(f) {
			continue
		}
		if err := r.flow(f); err != nil {
			return err
		}
	}
	return errors.Join(r.end(), out.Flush())
}
