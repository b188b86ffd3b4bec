//go:build linux

// Command runsoak runs scenarios of package soak until it is told to stop, or
// until there have been enough, and exits with 1 when a promise was broken.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"time"

	"flowcut/cut"
	"flowcut/internal/soak"

	"golang.org/x/sys/unix"
)

func main() {
	r := runner{}
	flag.IntVar(&r.count, "count", 500, "how many scenarios; 0: as many as -for has room for")
	flag.DurationVar(&r.limit, "for", 0, "begin no scenario after so long; 0: no limit")
	flag.Uint64Var(&r.next, "seed", 0, "seed of the first scenario, the next one's is one more; 0: from the clock")
	flag.StringVar(&r.program, "program", "./flowcut", "the built program")
	flag.StringVar((*string)(&r.fence), "fence", "", "backend of all cuts: nf_tables or iptables; empty: what the kernel has")
	parallel := flag.Int("parallel", 1, "how many scenarios run at once, each in namespaces of its own")
	draw := flag.Bool("draw", false, "print the scenarios, but for the selectors, and run none")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if r.next == 0 {
		r.next = uint64(time.Now().Unix()) * 1000
	}
	if *draw {
		for range r.count {
			fmt.Printf("%d %s\n", r.next, soak.Draw(r.next))
			r.next++
		}
		return
	}
	os.Exit(r.run(ctx, *parallel))
}

// runner runs scenarios.
type runner struct {
	program string
	fence   cut.Backend
	count   int
	limit   time.Duration
	began   time.Time

	mu   sync.Mutex
	next uint64 // seed
	done int
	bad  []uint64
}

// run returns the exit code.
func (r *runner) run(ctx context.Context, parallel int) int {
	r.began = time.Now()
	var all sync.WaitGroup
	for range parallel {
		all.Go(func() {
			for ctx.Err() == nil {
				seed, ok := r.seed()
				if !ok {
					return
				}
				r.one(ctx, seed)
			}
		})
	}
	all.Wait()
	slices.Sort(r.bad)
	fmt.Printf("%d scenarios in %v, %d broken %v\n", r.done, time.Since(r.began).Round(time.Second), len(r.bad), r.bad)
	if len(r.bad) > 0 {
		return 1
	}
	return 0
}

// seed takes the next seed, if there is to be another scenario.
func (r *runner) seed() (uint64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.count > 0 && r.done == r.count || r.limit > 0 && time.Since(r.began) > r.limit {
		return 0, false
	}
	r.done++
	r.next++
	return r.next - 1, true
}

// one runs a scenario and says what came of it.
func (r *runner) one(ctx context.Context, seed uint64) {
	s := soak.Draw(seed)
	if s.Beyond(r.fence) {
		fmt.Printf("%d beyond %s | %s\n", seed, r.fence, s)
		return
	}
	report, err := soak.Run(ctx, s, soak.Tools{Program: r.program, Fence: r.fence})
	if ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		report = &soak.Report{Broken: []string{"the lab: " + err.Error()}}
	}
	fmt.Printf("%d %s | %s\n", seed, report, s)
	if len(report.Broken) == 0 {
		return
	}
	r.bad = append(r.bad, seed)
	for _, b := range report.Broken {
		fmt.Printf("\t%s\n", b)
	}
	for _, x := range report.Receipts {
		x.Flow = nil // there can be many
		text, _ := json.Marshal(x)
		fmt.Printf("\treceipt: %s\n", text)
	}
	fmt.Printf("\tagain: make soak SEED=%d COUNT=1\n", seed)
}
