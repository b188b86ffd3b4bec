package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"flowcut/conntrack"
	"flowcut/internal/example"
	"flowcut/internal/netns"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"flowcut": func() { runMain() },
		"flowcut-as-nobody": func() {
			must(syscall.Setgroups(nil))
			must(syscall.Setgid(65534))
			must(syscall.Setuid(65534))
			runMain()
		},
	})
}

// runMain is what cmd/flowcut does.
func runMain() {
	ctx, stop := NotifySignals(WithStart(context.Background(), time.Now()))
	code := Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
}

// TestScripts runs the program, a behaviour a script. Beside testscript's own
// commands there are:
//
//	scratch            make a network namespace, $NS is its path
//	flows NAME...      put flows into it, all without names
//	exits CODE CMD...  run a command and hold it to its exit code
//	inside CMD...      run a command in the namespace
//	sorted             sort the lines of the last standard output into "sorted"
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"scratch": scratch,
			"flows":   putFlows,
			"exits":   exits,
			"inside":  inside,
			"sorted":  sorted,
		},
	})
}

// scratch makes a namespace without a name, so that nothing can be left behind.
func scratch(ts *testscript.TestScript, _ bool, _ []string) {
	ns, err := netns.New()
	ts.Check(err)
	ts.Defer(func() { _ = ns.Close() })
	ts.Setenv("NS", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()))
}

// namespaceOf opens the script's namespace.
func namespaceOf(ts *testscript.TestScript) *netns.NS {
	ns, err := netns.Open(ts.Getenv("NS"))
	ts.Check(err)
	ts.Defer(func() { _ = ns.Close() })
	return ns
}

func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	err = ts.Exec(args[1], args[2:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

func inside(ts *testscript.TestScript, neg bool, args []string) {
	var out, errs strings.Builder
	ts.Check(namespaceOf(ts).Do(func() error {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); (err != nil) != neg {
			return fmt.Errorf("%q: %v: %s", args, err, errs.String())
		}
		return nil
	}))
	_, _ = fmt.Fprint(ts.Stdout(), out.String())
	_, _ = fmt.Fprint(ts.Stderr(), errs.String())
}

func sorted(ts *testscript.TestScript, _ bool, _ []string) {
	lines := strings.SplitAfter(ts.ReadFile("stdout"), "\n")
	slices.Sort(lines)
	ts.Check(os.WriteFile(ts.MkAbs("sorted"), []byte(strings.Join(lines, "")), 0o600))
}

func putFlows(ts *testscript.TestScript, _ bool, names []string) {
	c, err := conntrack.Dial(conntrack.Config{NetNS: namespaceOf(ts).Fd()})
	ts.Check(err)
	defer c.Close()
	known := example.Flows()
	if len(names) == 0 {
		for name := range known {
			names = append(names, name)
		}
	}
	for _, name := range names {
		f, ok := known[name]
		if !ok {
			ts.Fatalf("unknown flow %q", name)
		}
		f.Has |= conntrack.AttrStatus | conntrack.AttrTimeout
		f.Timeout = 5 * 24 * time.Hour
		if err := c.Create(context.Background(), f); err != nil {
			ts.Fatalf("%s: %v", name, err)
		}
	}
}
