//go:build linux

// Command rundiffer gives command lines of package differ to conntrack(8) and
// to another program, and exits with 1 when they do not do the same.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"flowcut/internal/differ"

	"golang.org/x/sys/unix"
)

func main() {
	var o differ.Options
	flag.IntVar(&o.Count, "count", 3000, "how many cases")
	flag.Uint64Var(&o.Seed, "seed", 0, "seed of the first case, the next one's is one more; 0: from the clock")
	flag.StringVar(&o.Reference, "reference", "/usr/sbin/conntrack", "the program that is held to be right")
	flag.StringVar(&o.Subject, "program", "./flowcut", "the program that is held to it; it is called as conntrack")
	flag.BoolVar(&o.Strict, "strict", false, "excuse no known deviation")
	verbose := flag.Bool("v", false, "print all cases")
	flag.Parse()
	if o.Seed == 0 {
		o.Seed = uint64(time.Now().Unix()) * 1000
	}
	o.Each = func(r *differ.Result) {
		switch {
		case len(r.Differences) > 0:
			fmt.Println("DIFFERENT", r)
		case *verbose:
			fmt.Println(r.Case, r.Reason())
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	code := run(ctx, o)
	stop()
	os.Exit(code)
}

// run returns the exit code.
func run(ctx context.Context, o differ.Options) int {
	began := time.Now()
	rep, err := differ.Run(ctx, o)
	if rep != nil {
		for reason, n := range rep.Known {
			fmt.Printf("%5d known: %s\n", n, reason)
		}
		fmt.Printf("seed %d, %v: %v\n", o.Seed, time.Since(began).Round(time.Second), rep)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if rep.Different > 0 {
		return 1
	}
	return 0
}
