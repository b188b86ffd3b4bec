//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// bench is one run.
type bench struct {
	*options
	dir       string // of the programs that we start
	flowcut   string
	conntrack string
	env       env
	host      *host
	site      *site
}

// bytesPerFlow is what a flow takes in the kernel and in a program that cuts a
// tenth of them, with room to spare.
const bytesPerFlow = 1000

// manyRounds is the largest table on which all rounds run.
const manyRounds = 1_000_000

// roundsOf returns how many rounds run on a table of n flows.
func (b *bench) roundsOf(n int) int {
	if n > manyRounds {
		return min(b.rounds, 3)
	}
	return b.rounds
}

// measureAll runs all parts at all sizes and adds their tables to r.
func measureAll(ctx context.Context, o *options, r *results) (err error) {
	b, err := newBench(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if slices.ContainsFunc(o.parts, func(p part) bool { return !p.once }) {
		for _, n := range o.sizes {
			if err := b.size(ctx, n, r); err != nil {
				return err
			}
		}
	}
	for _, p := range o.parts {
		if !p.once {
			continue
		}
		if err := b.host.raise(0); err != nil { // back to what they were
			return err
		}
		if err := b.part(ctx, p, r); err != nil {
			return err
		}
	}
	return nil
}

// newBench looks for all that is needed.
func newBench(o *options) (*bench, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("not permitted: run as root")
	}
	b := &bench{options: o, flowcut: o.program}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	b.dir = filepath.Dir(self)
	for _, path := range []string{b.flowcut, b.dir + "/launch", b.dir + "/peer", b.dir + "/floor"} {
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("%w; make bench builds it", err)
		}
	}
	if b.conntrack, err = exec.LookPath("conntrack"); err != nil {
		return nil, fmt.Errorf("%w; install package conntrack (Debian) or conntrack-tools, or run .ci/deps", err)
	}
	if b.env, err = readEnv(b.conntrack, o.command); err != nil {
		return nil, err
	}
	if b.site, err = newSite(); err != nil {
		return nil, err
	}
	if b.host, err = newHost(); err != nil {
		return nil, errors.Join(err, b.site.close())
	}
	return b, nil
}

// close leaves nothing behind.
func (b *bench) close() error { return errors.Join(b.site.empty(), b.site.close(), b.host.restore()) }

// size runs the parts that need a table, on one of n flows.
func (b *bench) size(ctx context.Context, n int, r *results) error {
	if ok, err := b.room(n); err != nil || !ok {
		return err
	}
	say("makes a table of %d flows", n)
	if err := b.site.fill(ctx, n); err != nil {
		return err
	}
	for _, p := range b.parts {
		if p.once {
			continue
		}
		if err := b.part(ctx, p, r); err != nil {
			return err
		}
	}
	return b.site.empty()
}

// room makes room for n flows, unless there is too little memory.
func (b *bench) room(n int) (bool, error) {
	free, err := available()
	if err != nil {
		return false, err
	}
	if need := int64(n) * bytesPerFlow; free < need {
		say("leaves out %d flows: they need %.1f GB of memory, %.1f GB are free", n, float64(need)/1e9, float64(free)/1e9)
		return false, nil
	}
	return true, b.host.raise(n)
}

// part runs a part, prints its tables and adds them to r.
func (b *bench) part(ctx context.Context, p part, r *results) error {
	tables, err := p.run(ctx, b)
	if err := errors.Join(err, b.host.disturbed()); err != nil {
		return err
	}
	for _, t := range tables {
		t.Part = p.name
		r.add(t)
		t.print(os.Stdout)
	}
	return nil
}
