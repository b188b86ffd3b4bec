//go:build linux

// Command runsoak runs scenarios of package soak until it is told to stop, or
// until there have been enough, and exits with 1 when a promise was broken.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"flowcut/internal/soak"

	"golang.org/x/sys/unix"
)

func main() {
	count := flag.Int("count", 500, "how many scenarios; 0: as many as -seconds has room for")
	seconds := flag.Int("seconds", 0, "begin no scenario after so long; 0: no limit")
	seed := flag.Uint64("seed", 0, "seed of the first scenario, the next one's is one more; 0: from the clock")
	program := flag.String("program", "./flowcut", "the built program")
	draw := flag.Bool("draw", false, "print the scenarios, run none")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if *seed == 0 {
		*seed = uint64(time.Now().Unix()) * 1000
	}
	os.Exit(run(ctx, *seed, *count, time.Duration(*seconds)*time.Second, *program, *draw))
}

// run returns the exit code.
func run(ctx context.Context, seed uint64, count int, limit time.Duration, program string, draw bool) int {
	began, done, bad := time.Now(), 0, []uint64(nil)
	for ; ctx.Err() == nil && (count == 0 || done < count) && (limit == 0 || time.Since(began) < limit); seed++ {
		s := soak.Draw(seed)
		if draw {
			fmt.Printf("%d %s\n", seed, s)
			done++
			continue
		}
		r, err := soak.Run(ctx, s, soak.Tools{Program: program})
		if ctx.Err() != nil {
			break
		}
		done++
		if err != nil {
			r = &soak.Report{Broken: []string{err.Error()}}
		}
		fmt.Printf("%d %s | %s\n", seed, r, s)
		for _, b := range r.Broken {
			fmt.Printf("\t%s\n", b)
		}
		if len(r.Broken) > 0 {
			fmt.Printf("\treason: %s\n\tagain: make soak SEED=%d COUNT=1\n", r.Reason, seed)
			bad = append(bad, seed)
		}
	}
	fmt.Printf("%d scenarios in %v, %d broken", done, time.Since(began).Round(time.Second), len(bad))
	for _, s := range bad {
		fmt.Printf(" %d", s)
	}
	fmt.Println()
	if len(bad) > 0 {
		return 1
	}
	return 0
}
