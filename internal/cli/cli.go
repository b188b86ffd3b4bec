// Package cli is the command line of flowcut: commands, flags and rendering.
//
// Commands return errors; Run prints them and turns them into an exit code.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"flowcut/internal/oneline"
	"flowcut/selector"
)

// Run runs one command line, without the program's name, and returns the exit
// code: 0 done, 1 failed or not proven, 2 wrong usage, 3 not permitted or not
// supported here, 128 and the signal's number when one ended it. With 2 and 3
// nothing was changed.
//
// It starts no goroutine and ends early when ctx does. Streams that are files
// let it see whether they are terminals.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot(startOf(ctx))
	root.SetIn(stdin)
	root.SetOut(pipe{stdout})
	root.SetErr(stderr)
	err := execute(ctx, root, args)
	return report(ctx, stderr, err)
}

type startKey struct{}

// WithStart returns a context that carries the moment the process began,
// which receipts count from. Without it they count from Run.
func WithStart(ctx context.Context, start time.Time) context.Context {
	return context.WithValue(ctx, startKey{}, start)
}

func startOf(ctx context.Context) time.Time {
	if t, ok := ctx.Value(startKey{}).(time.Time); ok {
		return t
	}
	return time.Now()
}

// newRoot returns the program's command with all commands below it.
func newRoot(start time.Time) *cobra.Command {
	root := &cobra.Command{
		Use:   "flowcut",
		Short: "Show and end flows through a gateway, for good and with proof",
		Long: `flowcut shows the flows that a Linux gateway tracks, with their translation,
and ends those that are selected: for good, at both ends, and with proof.`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("flowcut {{.Version}}\n")
	root.Flags().BoolP("version", "V", false, "print the version")
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.HiddenDefaultCmd = false
	for _, add := range commands {
		root.AddCommand(add(start))
	}
	return root
}

// commands make the commands, given the start of the process.
var commands = []func(start time.Time) *cobra.Command{
	newCut,
	newList,
	newWatch,
	newExplain,
	newTop,
	newConntrack,
	newBypass,
	newDoctor,
	newServe,
	newStats,
	newDemo,
}

// execute finds the command, puts its words into the form that pflag reads,
// and runs it.
func execute(ctx context.Context, root *cobra.Command, args []string) error {
	root.SetHelpCommand(newHelp(root))
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd(args...)
	if c, _, err := root.Find([]string{"completion"}); err == nil {
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("write bash, fish, powershell or zsh", "unknown shell %q", args[0])
			}
			return cmd.Help()
		}
	}
	if len(args) > 0 && (strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) || args[0] == conntrackName) {
		root.SetArgs(args)
		return root.ExecuteContext(ctx)
	}
	cmd, rest, err := root.Find(args)
	if word := firstWord(args); err != nil || cmd == root && word != "" {
		return unknownCommand(root, word)
	}
	path := strings.Fields(cmd.CommandPath())[1:]
	root.SetArgs(append(path, selector.Normalize(cmd.Flags(), rest)...))
	return root.ExecuteContext(ctx)
}

// newHelp makes "flowcut help", which knows an unknown command from a known one.
func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "Show the help of a command",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return unknownCommand(root, strings.Join(args, " "))
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}

// firstWord returns the first word that is no flag.
func firstWord(args []string) string {
	for _, w := range args {
		if !strings.HasPrefix(w, "-") {
			return w
		}
	}
	return ""
}

func unknownCommand(root *cobra.Command, word string) error {
	for root.SuggestionsMinimumDistance = 1; root.SuggestionsMinimumDistance <= 2; root.SuggestionsMinimumDistance++ {
		if likely := root.SuggestionsFor(word); len(likely) > 0 {
			return usage("did you mean \"flowcut "+likely[0]+"\"?", "unknown command %q", oneline.Value(word))
		}
	}
	return usage("see \"flowcut --help\" for the commands", "unknown command %q", oneline.Value(word))
}

// flagError puts pflag's errors into our words.
func flagError(cmd *cobra.Command, err error) error {
	if errors.Is(err, pflag.ErrHelp) {
		return err
	}
	hint := "see \"" + cmd.CommandPath() + " --help\" for the flags"
	if bad, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return usage(hint, "--%s %s: %v", bad.GetFlag().Name, oneline.Value(bad.GetValue()), bad.Unwrap())
	}
	if missing, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		return usage("give it one, or leave the flag out", "--%s: no value", missing.GetFlag().Name)
	}
	return usage(hint, "%v", err)
}

// stamp is the version, as packaging/version has it. The linker writes it.
var stamp string

// version returns the version that make or, without it, the go command has
// stamped on the program.
func version() string {
	if stamp != "" {
		return stamp
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "(built from source)"
	}
	return strings.TrimPrefix(info.Main.Version, "v")
}

// noWords refuses words that belong to no flag.
func noWords(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return selector.StrayWord(args[0])
	}
	return nil
}

// optional puts pflag's mark of an optional value into the usual form.
var optional = strings.NewReplacer(
	"ADDR[:PORT][=any]", "[ADDR[:PORT]]    ",
	"yes|no[=yes]", "[yes|no]    ",
)

// selectionUsage prints the help of a command that takes a selection: its own
// flags, then those of the selection.
func selectionUsage(cmd *cobra.Command, selection *pflag.FlagSet) {
	cmd.SetUsageFunc(func(cmd *cobra.Command) error {
		own := pflag.NewFlagSet(cmd.Name(), pflag.ContinueOnError)
		own.SortFlags = false
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if selection.Lookup(f.Name) == nil {
				own.AddFlag(f)
			}
		})
		_, err := fmt.Fprintf(cmd.OutOrStdout(), `Usage:
  %s

Selection (all that are given must hold; ! in front of a flag negates it):
%s
  ADDR is an address, a CIDR, a range a-b, a list of these, @FILE, @-, or
  @nft:FAMILY/TABLE/SET for what is in a set of nf_tables.
  PORT is a port, a range a-b, or a list of these.

Flags:
%s`, cmd.UseLine(), optional.Replace(selection.FlagUsages()), own.FlagUsages())
		return err
	})
}
