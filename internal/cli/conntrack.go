package cli

import (
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"flowcut/internal/personality"
)

// conntrackName is the command that answers as conntrack(8), and the name of
// the program under which it does without the command.
const conntrackName = "conntrack"

// Args returns the words of a command line, given those of a process: under
// the name of conntrack(8) the program answers as that.
func Args(argv []string) []string {
	if len(argv) == 0 {
		return nil
	}
	if filepath.Base(argv[0]) == conntrackName {
		return append([]string{conntrackName}, argv[1:]...)
	}
	return argv[1:]
}

// newConntrack makes "flowcut conntrack".
func newConntrack(time.Time) *cobra.Command {
	cmd := &cobra.Command{
		Use:   conntrackName + " [conntrack(8)'s options]",
		Short: "Answer to the command lines of conntrack(8)",
		Long: `conntrack takes what conntrack(8) takes, prints what it prints and ends with its
exit codes. Started under the name conntrack, such as by a symbolic link, the
program does so by itself. See "flowcut conntrack -h" for the options.

-D deletes entries and nothing more, as scripts expect. To end the connections,
use "flowcut cut".`,
		DisableFlagParsing: true,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c := personality.Config{
			Args:    args,
			Stdin:   cmd.InOrStdin(),
			Stdout:  cmd.OutOrStdout(),
			Stderr:  cmd.ErrOrStderr(),
			Version: strings.Trim(version(), "()"),
		}
		if terminal(c.Stderr) {
			c.Hint = `connections may go on and come back: "flowcut cut" ends them for good, with the same options`
		}
		if code := personality.Run(cmd.Context(), c); code != codeOK {
			return &exitError{code: code}
		}
		return nil
	}
	return cmd
}
