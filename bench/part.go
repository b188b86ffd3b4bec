//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
)

// part is a part of the benchmark: some works, one after the other.
type part struct {
	name  string
	title string // of its section in the report
	once  bool   // needs no full table, and runs once, whatever the sizes
	run   func(context.Context, *bench) ([]*table, error)
}

// parts are all parts, in the order of the report. A new one is a line here
// and a function that returns its tables; [bench.duel] makes one of a work in
// which programs compete.
var parts = []part{
	{name: "list", title: "List the whole table", run: runList},
	{name: "filter", title: "List a tenth of the table", run: runFilter},
	{name: "delete", title: "Delete a tenth of the table", run: runDelete},
	{name: "cut", title: "Cut a tenth of the table", run: runCut},
	{name: "top", title: "Watch the table", run: runTop},
	{name: "events", title: "Follow events", once: true, run: runEvents},
	{name: "silence", title: "Time to silence", once: true, run: runSilence},
	{name: "churn", title: "Cut while other flows begin", once: true, run: runChurn},
	{name: "live", title: "Cut live connections", once: true, run: runLive},
	{name: "cutter", title: "Cut many selectors from a program", run: runCutter},
	{name: "cost", title: "Cut by long lists", once: true, run: runCost},
}

// work is something that several programs can do.
type work struct {
	name       string // within its part
	title      string
	contenders []contender // the first is ours, and the others are compared with it
	deletes    bool        // the flows to the server, which are then made anew
}

// contender is one of the programs that do a work.
type contender struct {
	name string
	who  string // us, tool, library, floor, or another name
	argv []string
	most int // it is left out of larger tables; 0: of none
	want int // how many flows it must count

	// count finds in its output how many flows it says there were, and
	// what else there is to note.
	count func(o output, m *measure) error

	keep  bool // count reads its standard output, which else is /dev/null
	clock bool // it took the time itself, and printed it first
	lines int  // it says no number: it must print as many lines, when tried before the rounds
}

// duel lets the contenders of a work compete: each in turn, then all again.
func (b *bench) duel(ctx context.Context, w work) (*table, error) {
	t := &table{Work: w.name, Title: w.title, Size: b.site.size, Env: b.env}
	w.contenders = slices.DeleteFunc(w.contenders, func(c contender) bool { return c.most > 0 && b.site.size > c.most })
	for _, c := range w.contenders {
		t.Rows = append(t.Rows, row{Name: c.name, Who: c.who})
		if c.lines > 0 {
			if err := b.try(ctx, c); err != nil {
				return nil, err
			}
		}
	}
	rounds := b.roundsOf(b.site.size)
	for round := range rounds {
		say("%s, %s flows: round %d of %d", w.name, thousands(b.site.size), round+1, rounds)
		for i, c := range w.contenders {
			m, err := b.turn(ctx, w, c)
			if err != nil {
				return nil, fmt.Errorf("%s, %d flows, round %d, %s: %w", w.title, b.site.size, round+1, c.name, err)
			}
			t.Rows[i].Rounds = append(t.Rows[i].Rounds, m)
		}
	}
	return t, nil
}

// turn runs a contender once and holds it to what it should have done.
func (b *bench) turn(ctx context.Context, w work, c contender) (measure, error) {
	p, err := b.site.start(ctx, b.dir, c.argv, c.keep)
	if err != nil {
		return measure{}, err
	}
	m, o, err := p.wait(ctx)
	if err != nil {
		return m, err
	}
	if c.clock {
		if m, err = parseMeasure(o.stdout); err != nil {
			return m, fmt.Errorf("its own measure, %q: %w", o.stdout, err)
		}
	}
	m.Count = c.want
	if c.count != nil {
		if err := c.count(o, &m); err != nil {
			return m, fmt.Errorf("%w; exit code %d; it says: %s%s", err, m.Exit, o.stdout, o.stderr)
		}
	}
	if m.Count != c.want {
		return m, fmt.Errorf("counted %d flows, not %d", m.Count, c.want)
	}
	if !w.deletes {
		return m, b.site.expect(b.site.size)
	}
	if err := b.site.expect(b.site.size - targets(b.site.size)); err != nil {
		return m, fmt.Errorf("after it: %w", err)
	}
	return m, b.site.refill(ctx)
}

// try runs a contender that says no number and counts the lines that it prints.
func (b *bench) try(ctx context.Context, c contender) error {
	p, err := b.site.start(ctx, b.dir, c.argv, true)
	if err != nil {
		return err
	}
	m, o, err := p.wait(ctx)
	if err == nil && (m.Exit != 0 || o.lines != c.lines) {
		err = fmt.Errorf("%s printed %d lines, not %d, and ended with %d: %s", c.name, o.lines, c.lines, m.Exit, o.stderr)
	}
	return err
}
