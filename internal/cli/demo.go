package cli

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"flowcut/internal/demo"
)

// BuildsNetworks tells whether a command line makes namespaces and files of its
// own, which takes more rights than to work on what is there.
func BuildsNetworks(args []string) bool { return firstWord(args) == "demo" }

// newDemo makes "flowcut demo".
func newDemo(time.Time) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo [flags]",
		Short: "Show three usual ways to end a connection fail, and flowcut's",
		Long: `demo builds a gateway in network namespaces of its own, loads it, turns the
forwarding off and ends the connections in four ways, one after the other. It
prints what each came to and draws the throughput over time.

Nothing outside these namespaces is touched. It needs root and takes a minute.`,
		Args: noWords,
	}
	var o demo.Options
	before := duration{value: 3 * time.Second}
	after := duration{value: 7 * time.Second}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVarP(&o.SVG, "svg", "o", "demo.svg", "file for the picture; empty: none")
	cmd.Flags().Var(&before, "before", "how long to load each gateway before its forwarding is turned off")
	cmd.Flags().Var(&after, "after", "how long to watch from then on")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := writable(o.SVG); err != nil {
			return err
		}
		o.Before, o.After = before.value, after.value
		o.Out = cmd.OutOrStdout()
		if w := cmd.ErrOrStderr(); terminal(w) {
			o.Progress = w
		}
		return demo.Run(cmd.Context(), o)
	}
	return cmd
}

// writable refuses a picture that could not be written, before a minute is
// spent on drawing it.
func writable(path string) error {
	if path == "" {
		return nil
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err == nil && !dir.IsDir() {
		err = errors.New("not a folder")
	}
	if err != nil {
		return usage("name a file in a folder that is there", "--svg %s: %v", path, cause(err))
	}
	return nil
}
