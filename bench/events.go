//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

const (
	eventTime = 5 * time.Second // of each round
	tick      = 5 * time.Millisecond

	// eventQueue is what programs are told to have for events that wait.
	eventQueue = "67108864"

	cpuPerEvent = "µs of CPU an event"
	lostPart    = "% of events lost"
	eventRate   = "events a second"
)

// runEvents follows the events of flows that come and go: at a rate that all
// can keep up with, at a greater one, and as fast as they can be made.
func runEvents(ctx context.Context, b *bench) ([]*table, error) {
	var tables []*table
	for _, rate := range []int{50_000, 200_000, 0} {
		title := fmt.Sprintf("Follow %s events a second", thousands(rate))
		if rate == 0 {
			title = "Follow as many events as can be made"
		}
		t := &table{
			Work: fmt.Sprintf("events-%d", rate), Title: title, Env: b.env, By: cpuPerEvent,
			Note: library + " v1.3.1 has no events of connection tracking.",
		}
		watchers := b.watchers()
		for _, c := range watchers {
			t.Rows = append(t.Rows, row{Name: c.name, Who: c.who})
		}
		for round := range b.roundsOf(0) {
			say("%s: round %d of %d", strings.ToLower(title), round+1, b.roundsOf(0))
			for i, c := range watchers {
				m, err := b.watch(ctx, c, rate)
				if err != nil {
					return nil, fmt.Errorf("%s, round %d, %s: %w", title, round+1, c.name, err)
				}
				t.Rows[i].Rounds = append(t.Rows[i].Rounds, m)
			}
		}
		tables = append(tables, t)
	}
	return tables, nil
}

// watchers are the programs that follow events.
func (b *bench) watchers() []contender {
	line := []string{"-E", "-b", eventQueue, "-o", "timestamp,extended,id"}
	return []contender{
		{name: "flowcut conntrack -E", who: us, argv: append([]string{b.flowcut, "conntrack"}, line...), count: shown},
		{name: "conntrack -E", who: tool, argv: append([]string{b.conntrack}, line...), count: shown},
		{name: floor, who: floor, argv: []string{b.dir + "/floor", "events"}, keep: true, count: printed},
	}
}

// watch runs a program that follows events while flows are made and deleted.
func (b *bench) watch(ctx context.Context, c contender, rate int) (measure, error) {
	p, err := b.site.start(ctx, b.dir, c.argv, c.keep)
	if err != nil {
		return measure{}, err
	}
	begin := time.Now()
	made, err := b.churn(ctx, rate)
	took := time.Since(begin)
	if err == nil {
		err = b.site.await(ctx, "nothing waits in its queue", func(l listeners) bool { return l.waiting == 0 })
	}
	if kerr := p.interrupt(); err == nil {
		err = kerr
	}
	m, o, werr := p.wait(ctx)
	if err != nil || werr != nil {
		return m, fmt.Errorf("%w (it: %v)", err, werr)
	}
	if err := c.count(o, &m); err != nil {
		return m, fmt.Errorf("%w; it says: %s%s", err, o.stdout, o.stderr)
	}
	if m.Count > made || m.Count == 0 {
		return m, fmt.Errorf("it counted %d of %d events", m.Count, made)
	}
	m.Values = map[string]float64{
		cpuPerEvent: float64(m.CPU.Microseconds()) / float64(m.Count),
		lostPart:    100 * float64(made-m.Count) / float64(made),
		eventRate:   float64(made) / took.Seconds(),
	}
	return m, nil
}

// churn makes and deletes flows once somebody listens, and returns how many
// events that were. A rate of 0 is as fast as it goes.
func (b *bench) churn(ctx context.Context, rate int) (int, error) {
	if err := b.site.await(ctx, "it listens", func(l listeners) bool { return l.n == 1 }); err != nil {
		return 0, err
	}
	g, err := b.site.newGenerator()
	if err != nil {
		return 0, err
	}
	defer g.close()
	clock := time.NewTicker(tick)
	defer clock.Stop()
	flows := 0
	for begin := time.Now(); time.Since(begin) < eventTime; {
		due := 1000
		if rate > 0 {
			due = int(time.Since(begin).Seconds()*float64(rate)/2) - flows
			select {
			case <-clock.C:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if err := g.cycle(flows, due); err != nil {
			return 0, err
		}
		flows += due
	}
	return 2 * flows, nil
}

// listeners are the sockets inside the gateway that hear of flows.
type listeners struct {
	n       int
	waiting int // bytes in their queues
}

// await waits until the listeners are as wanted.
func (s *site) await(ctx context.Context, what string, good func(listeners) bool) error {
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	clock := time.NewTicker(tick)
	defer clock.Stop()
	for {
		l, err := s.listeners()
		if err != nil || good(l) {
			return err
		}
		select {
		case <-clock.C:
		case <-limit.Done():
			return fmt.Errorf("waited until %s: %w", what, context.Cause(limit))
		}
	}
}

// listeners reads the kernel's list of netlink sockets.
func (s *site) listeners() (l listeners, err error) {
	err = s.gateway.Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/netlink")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			// sk Eth Pid Groups Rmem ...
			var sk, groups string
			var protocol, port, waiting int
			if _, err := fmt.Sscan(line, &sk, &protocol, &port, &groups, &waiting); err != nil {
				continue // the heading
			}
			const netfilter = 12 // NETLINK_NETFILTER
			if protocol == netfilter && strings.Trim(groups, "0") != "" {
				l.n++
				l.waiting += waiting
			}
		}
		return nil
	})
	return l, err
}
