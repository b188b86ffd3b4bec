//go:build linux

// Command runkernels boots kernels that Debian packages and runs scenarios on
// them. It exits with 1 when one failed.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"flowcut/internal/kernels"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	passed, err := run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err != nil || !passed {
		os.Exit(1)
	}
}

func run(ctx context.Context) (passed bool, err error) {
	c := kernels.Config{Source: ".", Log: os.Stderr}
	var suites, scenarios, docs string
	flag.StringVar(&suites, "suites", "", "suites of Debian whose kernels are run, with commas; none: "+join(kernels.Suites))
	flag.StringVar(&scenarios, "scenarios", "", "names of those to run, with commas; none: all")
	flag.StringVar(&c.Cache, "cache", "", "directory for what is downloaded and logged; none: flowcut-kernels in the user's cache")
	flag.BoolVar(&c.Refresh, "refresh", false, "look for newer kernels")
	flag.BoolVar(&c.Kept, "kept", false, "boot nothing: make the table of what the last run of each kernel has said")
	flag.StringVar(&c.Accel, "accel", "tcg", "of QEMU")
	flag.IntVar(&c.CPUs, "cpus", 2, "processors of the machine")
	flag.IntVar(&c.Memory, "memory", 2048, "its memory in MiB")
	flag.DurationVar(&c.Limit, "limit", 30*time.Minute, "how long one kernel may run")
	flag.StringVar(&docs, "docs", "", "page to write the table to, between its markers")
	flag.Parse()
	if c.Cache == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return false, err
		}
		c.Cache = filepath.Join(cache, "flowcut-kernels")
	}
	c.Suites = kernels.Suites
	if suites != "" {
		c.Suites = nil
		for s := range strings.SplitSeq(suites, ",") {
			c.Suites = append(c.Suites, kernels.Suite(s))
		}
	}
	if c.Scenarios, err = kernels.Named(scenarios); err != nil {
		return false, err
	}
	t, err := kernels.Run(ctx, c)
	if err != nil {
		return false, err
	}
	if docs != "" {
		if err := t.WriteDocs(docs); err != nil {
			return false, err
		}
	}
	return t.Passed(), t.Write(os.Stdout)
}

func join(suites []kernels.Suite) string {
	var words []string
	for _, s := range suites {
		words = append(words, string(s))
	}
	return strings.Join(words, ",")
}
