//go:build linux

package kernels

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"flowcut/internal/kernels/plan"
)

// Config says what is run, and where. All fields but Log are needed.
type Config struct {
	Cache     string // directory for what is downloaded, unpacked and logged
	Source    string // root of our module
	Suites    []Suite
	Scenarios []Scenario
	Refresh   bool   // ask the archive for newer kernels
	Kept      bool   // boot nothing: take what the last run of each kernel has said
	Accel     string // of QEMU: tcg, or kvm where there is one
	CPUs      int
	Memory    int           // MiB
	Limit     time.Duration // for each kernel
	Log       io.Writer     // what is being done; nil: nobody wants to know
}

// Run boots the kernels one after the other. The error is for what kept it from
// running; tests that fail are in the table.
func Run(ctx context.Context, c Config) (*Table, error) {
	if c.Log == nil {
		c.Log = io.Discard
	}
	var b *built
	if !c.Kept {
		var err error
		if b, err = build(ctx, c.Source, filepath.Join(c.Cache, "build"), c.Scenarios); err != nil {
			return nil, fmt.Errorf("kernels: %w", err)
		}
	}
	table := &Table{}
	for _, suite := range c.Suites {
		k, err := Fetch(ctx, c.Cache, suite, c.Refresh)
		if err != nil {
			return nil, err
		}
		dir := filepath.Join(c.Cache, string(suite))
		if !c.Kept {
			if err := c.boot(ctx, k, b, dir); err != nil {
				return nil, err
			}
		}
		results, err := recall(dir, c.Scenarios)
		if err != nil {
			return nil, fmt.Errorf("kernels: what tests on %s have said: %w", k.Release, err)
		}
		table.Kernels = append(table.Kernels, k)
		table.Results = append(table.Results, results)
	}
	return table, nil
}

// Where a kernel's directory has what the kernel and the tests have said.
const (
	consoleLog = "console.log"
	outputLog  = "output.log"
)

// boot runs the scenarios on one kernel.
func (c Config) boot(ctx context.Context, k *Kernel, b *built, dir string) error {
	p := plan.Plan{Modules: preload, Env: []string{
		"PATH=/usr/sbin:/usr/bin", "HOME=/tmp", "FLOWCUT_PROGRAM=/usr/sbin/flowcut", slowness,
	}}
	for _, s := range c.Scenarios {
		p.Runs = append(p.Runs, s.run())
	}
	initrd, console, output := filepath.Join(dir, "initrd"), filepath.Join(dir, consoleLog), filepath.Join(dir, outputLog)
	for _, old := range []string{console, output} {
		if err := os.Remove(old); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := image(ctx, initrd, k, b, p); err != nil {
		return fmt.Errorf("kernels: make the first root for %s: %w", k.Release, err)
	}
	fmt.Fprintf(c.Log, "%s: %d scenarios; the console is in %s, what tests say in %s\n", k.Release, len(c.Scenarios), console, output)
	began := time.Now()
	limit, cancel := context.WithTimeout(ctx, c.Limit)
	defer cancel()
	if err := forget(dir, c.Scenarios); err != nil {
		return err
	}
	err := machine{cpus: c.CPUs, memory: c.Memory, accel: c.Accel}.boot(limit, k, initrd, console, output)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && limit.Err() == nil {
		return err
	}
	fmt.Fprintf(c.Log, "%s: stopped after %v\n", k.Release, time.Since(began).Round(time.Second))
	text, err := os.ReadFile(output)
	if err != nil {
		return err
	}
	// A terminal, as the serial port is one, ends lines its own way.
	return keep(dir, strings.ReplaceAll(string(text), "\r\n", "\n"), c.Scenarios)
}

// preload is what the kernel does not load by itself when it is asked for it.
var preload = []string{"nf_nat_ftp", "br_netfilter"}

// slowness tells tests that a processor without KVM is many times slower.
const slowness = "FLOWCUT_SLOW=10"
