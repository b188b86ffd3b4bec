//go:build linux

// Command runfill fills the table of a gateway in the lab, compares what "flowcut stats"
// forecasts with what happens, and exits with 1 unless the full table was forecast
// ten seconds ahead.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/health/filling"
)

// least is how long ahead a full table must be forecast.
const least = 10 * time.Second

func main() {
	o := filling.Options{}
	flag.DurationVar(&o.FillIn, "in", 40*time.Second, "how long the flood takes to fill the table")
	flag.IntVar(&o.Rate, "rate", 0, "packets of the flood a second; what is left is filled before; 0: as many as fill an empty table")
	flag.BoolVar(&o.UDP, "udp", false, "datagrams instead of SYNs")
	flag.StringVar(&o.SVG, "svg", "", "a file for the picture of flowcut stats --svg")
	text := flag.Bool("text", false, "show what flowcut stats prints as text, too, in a second look")
	flag.Parse()
	if *text {
		o.Text = os.Stdout
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "runfill: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o filling.Options) error {
	r, err := filling.Run(ctx, o)
	if err != nil {
		return err
	}
	fmt.Printf("%d entries, the limit, after %.1f s of %d packets a second; %d lost by the end\n", r.Limits.Max, r.Took.Seconds(), r.Rate, r.Lost)
	fmt.Printf("stats: exit code %d; added: %s\n", r.Code, strings.Join(r.Fills, "; "))
	for _, d := range r.Do {
		fmt.Printf("  do %s\n", d)
	}
	fmt.Println("\nahead of the full table   error     range           held  warning")
	next := time.Duration(1<<63 - 1)
	inRange := 0
	for _, f := range r.Forecasts {
		if f.InRange {
			inRange++
		}
		if f.Ahead > next {
			continue
		}
		next = f.Ahead.Truncate(5*time.Second) - time.Nanosecond
		fmt.Printf("%18.1f s  %+8.2f s  %5.1f to %5.1f s  %-5v %v\n", f.Ahead.Seconds(), f.Error.Seconds(), f.Earliest.Seconds(), f.Latest.Seconds(), f.InRange, f.Warning)
	}
	fmt.Printf("%d of %d forecasts held the moment in their range\n", inRange, len(r.Forecasts))
	first, ok := r.First()
	if !ok || first.Ahead < least {
		return fmt.Errorf("no warning %v ahead", least)
	}
	fmt.Printf("first warning %.1f s ahead, wrong by %+.2f s\n", first.Ahead.Seconds(), first.Error.Seconds())
	return nil
}
