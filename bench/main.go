//go:build linux

// Command bench measures flowcut beside others that do the same work, on
// tracking tables of several sizes, and writes a report.
//
// Needs root, conntrack(8), and the programs launch, peer and floor beside it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) == 4 && os.Args[1] == keeperName {
		os.Exit(keeper(os.Args[2:]))
	}
	if len(os.Args) == 5 && os.Args[1] == listenerName {
		os.Exit(listenMain(os.Args[2:]))
	}
	o, err := parseOptions(os.Args[1:])
	if err != nil {
		say("%v", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	if err := run(ctx, o); err != nil {
		say("%v", err)
		os.Exit(1)
	}
}

// say tells what goes on, on standard error.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }

// options are what the command line says.
type options struct {
	sizes   []int
	parts   []part
	rounds  int
	program string
	out     string // directory of the report
	render  bool
	command string
}

func parseOptions(args []string) (*options, error) {
	o := &options{}
	set := flag.NewFlagSet("bench", flag.ContinueOnError)
	sizes := set.String("sizes", "1000,100000,1000000,10000000", "flows in the table")
	names := set.String("parts", "all", "parts to run: "+strings.Join(partNames(), ", "))
	set.IntVar(&o.rounds, "rounds", 5, "how often each contender runs; 3 times at most with more than a million flows")
	set.StringVar(&o.program, "program", "./flowcut", "the built program")
	set.StringVar(&o.out, "out", ".", "directory for bench.json, docs/bench.svg and BENCHMARKS.md")
	set.BoolVar(&o.render, "render", false, "run nothing, write the report of what bench.json holds")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	if o.rounds < 1 {
		return nil, fmt.Errorf("rounds: %d, want 1 or more", o.rounds)
	}
	for s := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 10 || n > 10_000_000 {
			return nil, fmt.Errorf("sizes: %q is no number from 10 to 10000000", s)
		}
		o.sizes = append(o.sizes, n)
	}
	var err error
	if o.parts, err = choose(*names); err != nil {
		return nil, err
	}
	if o.program, err = filepath.Abs(o.program); err != nil {
		return nil, err
	}
	o.command = fmt.Sprintf("make bench SIZES=%s PARTS=%s ROUNDS=%d", *sizes, *names, o.rounds)
	return o, nil
}

func partNames() []string {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

// choose returns the parts of a list of names.
func choose(names string) ([]part, error) {
	if names == "all" {
		return parts, nil
	}
	var chosen []part
	for name := range strings.SplitSeq(names, ",") {
		known := false
		for _, p := range parts {
			if p.name == name {
				chosen, known = append(chosen, p), true
			}
		}
		if !known {
			return nil, fmt.Errorf("parts: there is no %q; there are %s", name, strings.Join(partNames(), ", "))
		}
	}
	return chosen, nil
}

// run runs what o says and writes the report, also of what was measured before
// something failed.
func run(ctx context.Context, o *options) error {
	path := filepath.Join(o.out, "bench.json")
	r, err := load(path)
	if err != nil {
		return err
	}
	if !o.render {
		err = errors.Join(measureAll(ctx, o, r), r.save(path))
	}
	if len(r.Tables) == 0 {
		return err
	}
	return errors.Join(err, r.writePicture(filepath.Join(o.out, "docs", "bench.svg")), r.writeReport(filepath.Join(o.out, "BENCHMARKS.md")))
}
