package cut_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/selector"
)

// A program that has just removed the rule which forwarded to 192.168.1.100
// ends what still goes through it.
func ExampleRun() {
	s, err := selector.Parse([]string{"--dst-nat", "192.168.1.100", "-p", "tcp"})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	r, err := cut.Run(ctx, cut.Options{Selector: s, Timeout: 20 * time.Second, Flows: true})
	switch {
	case errors.Is(err, os.ErrPermission):
		log.Fatal("run it with CAP_NET_ADMIN and CAP_NET_RAW")
	case errors.Is(err, conntrack.ErrNotSupported):
		log.Fatalf("not on this kernel: %v", err)
	case err != nil: // r, unless nil, says how far it came
		log.Fatal(err)
	case !r.Proven:
		log.Fatalf("not proven: %s", r.Reason)
	}
	fmt.Printf("%d flows, silent after %v\n", r.Flows.Matched, r.Fence.SilentAfterMS)
	for _, f := range r.Flow {
		fmt.Println(f.Outcome, f.Flow.Orig, f.Originator, f.Responder)
	}
}

// What a cut would do can be looked at first.
func ExampleNewPlan() {
	s, err := selector.Parse([]string{"--host", "198.51.100.7"})
	if err != nil {
		log.Fatal(err)
	}
	p, err := cut.NewPlan(context.Background(), cut.Options{Selector: s})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(p.Flows.Matched, "flows")
	fmt.Print(p.Rules)
}

// A program that bans addresses all day queues each as it comes. What gathers
// while a cut is under way is cut together.
func ExampleCutter() {
	c := cut.NewCutter(cut.Options{Hold: 2 * time.Second})
	defer c.Close() // waits for what is queued
	banned := []string{"198.51.100.7", "198.51.100.8", "198.51.100.9"}
	var results []<-chan cut.Result
	for _, addr := range banned {
		s, err := selector.Parse([]string{"--host", addr})
		if err != nil {
			log.Fatal(err)
		}
		results = append(results, c.Queue(context.Background(), s))
	}
	for i, result := range results {
		r := <-result
		if r.Err != nil {
			log.Fatalf("%s: %v", banned[i], r.Err)
		}
		fmt.Println(banned[i], r.Receipt.Flows.Matched, "flows, proven:", r.Receipt.Proven)
	}
}
