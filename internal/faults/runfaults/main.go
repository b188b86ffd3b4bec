//go:build linux && amd64

// Command runfaults tries cuts that meet faults, see package faults, and exits
// with 1 when a promise was broken.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"flowcut/internal/faults"

	"golang.org/x/sys/unix"
)

func main() {
	var r faults.Runner
	flag.StringVar(&r.Program, "program", "./flowcut", "the built program, not stripped")
	flag.IntVar(&r.Parallel, "parallel", 1, "how many cases run at once, each in namespaces of its own")
	flag.Uint64Var(&r.Seed, "seed", 0, "seed of the order; 0: from the clock")
	flag.IntVar(&r.Count, "count", 0, "the most cases; 0: all")
	flag.DurationVar(&r.For, "for", 0, "begin no case after so long; 0: no limit")
	flag.StringVar(&r.Only, "only", "", "only cases whose names hold this")
	one := flag.String("case", "", "this case alone, and what the program has printed")
	kept := flag.String("results", "", "file that keeps results: a later run replaces what it tries anew")
	page := flag.String("page", "", "page whose table is written from the results")
	fresh := flag.Bool("new", false, "only cases that are not among the results")
	render := flag.Bool("render", false, "try nothing, only write the page")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if r.Seed == 0 {
		r.Seed = uint64(time.Now().Unix())
	}
	book, err := faults.ReadBook(*kept)
	code := 1
	if err == nil {
		r.Known = book.Made
		if *fresh {
			r.Skip = book.Has
		}
		code, err = run(ctx, &r, book, *one, *kept, *page, *render)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "runfaults:", err)
		code = 1
	}
	stop()
	os.Exit(code) //nolint:gocritic // stop was called
}

func run(ctx context.Context, r *faults.Runner, book *faults.Book, one, kept, page string, render bool) (code int, err error) {
	if one != "" {
		c, err := faults.ParseCase(one)
		if err != nil {
			return 2, err
		}
		r.Case = &c
	}
	if !render {
		code, err = try(ctx, r, book)
		err = errors.Join(err, book.Write(kept)) // also what was tried before it ended
	}
	if page != "" && one == "" && err == nil {
		err = book.Page(page)
	}
	return code, err
}

// try runs cases and prints what came of them.
func try(ctx context.Context, r *faults.Runner, book *faults.Book) (code int, err error) {
	fmt.Printf("seed %d\n", r.Seed)
	began, n, broken := time.Now(), 0, 0
	r.Each = func(x *faults.Result) {
		n++
		book.Add(x)
		fmt.Printf("%5d %s: %s\n", n, x.Case, x)
		if r.Case != nil || len(x.Bad) > 0 {
			fmt.Printf("\tstdout: %s\n\tstderr: %s\n\tagain: %s\n", x.Stdout, x.Stderr, x.Again)
		}
		if len(x.Bad) > 0 {
			broken++
			fmt.Printf("\tonce more: make faults CASE=%s\n", x.Case)
		}
	}
	total, err := r.Run(ctx)
	fmt.Printf("%d of %d cases in %v, promises broken in %d\n", n, total, time.Since(began).Round(time.Second), broken)
	if broken > 0 || ctx.Err() != nil {
		code = 1
	}
	return code, err
}
