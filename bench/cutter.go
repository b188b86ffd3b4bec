//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"flowcut/cut"
	"flowcut/selector"

	"golang.org/x/sys/unix"
)

const (
	cutterLeast = 1_000
	cutterMost  = 1_000_000
	singlesMost = 100_000 // largest table on which selectors are cut one after the other
	singlesSome = 50      // that are: the rest would take as long again, and again
	cutterRatio = "time / that of one cut"
)

// cutter is a way to cut the flows of many addresses inside this process.
type cutter struct {
	name  string
	first bool // begins a comparison: those up to the next are compared with it
	most  int  // addresses; the time is multiplied
	o     cut.Options
	run   func(context.Context, cut.Options, []selector.Selector) error
}

// runCutter cuts the flows of 1,000 addresses, selected one by one.
func runCutter(ctx context.Context, b *bench) ([]*table, error) {
	if n := b.site.size; n < cutterLeast || n > cutterMost {
		return nil, nil
	}
	t := &table{
		Work: "cutter", Title: fmt.Sprintf("Cut the flows of %s addresses, inside a process", thousands(chosenMost)), Size: b.site.size, Env: b.env,
	}
	ways := b.cutters()
	for _, w := range ways {
		t.Rows = append(t.Rows, row{Name: w.name, Who: us})
	}
	for i := range b.rounds {
		say("cutter, %s flows: round %d of %d", thousands(b.site.size), i+1, b.rounds)
		for j, w := range ways {
			m, err := b.cutInside(ctx, w)
			if err != nil {
				return nil, fmt.Errorf("%s, %d flows: %w", w.name, b.site.size, err)
			}
			t.Rows[j].Rounds = append(t.Rows[j].Rounds, m)
		}
	}
	compare(t, ways)
	return []*table{t}, nil
}

// compare compares each way with the first of its kind.
func compare(t *table, ways []cutter) {
	first := 0
	for i := range ways {
		if i+1 == len(ways) || ways[i+1].first {
			(&table{Rows: t.Rows[first : i+1]}).relate(wall, cutterRatio)
			first = i + 1
		}
	}
}

// cutters are all ways that this table is tried with.
func (b *bench) cutters() []cutter {
	fast := cut.Options{NoKick: true, Settle: cut.None, Hold: cut.None}
	var whole cut.Options // as the program has it
	n := thousands(chosenMost)
	ways := []cutter{
		{name: "one cut.Run of all", first: true, most: chosenMost, o: fast, run: cutAtOnce},
		{name: n + " selectors by a cut.Cutter", most: chosenMost, o: fast, run: cutQueued},
	}
	if b.site.size <= singlesMost {
		ways = append(ways, cutter{name: fmt.Sprintf("%s × cut.Run, from %d of them", n, singlesSome), most: singlesSome, o: fast, run: cutSingly})
	}
	return append(ways,
		cutter{name: "one cut.Run, with kicks and guard", first: true, most: chosenMost, o: whole, run: cutAtOnce},
		cutter{name: n + " selectors by a cut.Cutter, with kicks and guard", most: chosenMost, o: whole, run: cutQueued})
}

// cutInside runs one way once.
func (b *bench) cutInside(ctx context.Context, w cutter) (measure, error) {
	if err := b.site.choose(ctx, w.most); err != nil {
		return measure{}, err
	}
	list := make([]selector.Selector, w.most)
	for i := range list {
		var err error
		if list[i], err = selector.Parse([]string{"--host", chosenAddr(i).String()}); err != nil {
			return measure{}, err
		}
	}
	w.o.NetNS, w.o.Timeout, w.o.AcceptSilent = b.site.gateway.Fd(), 10*time.Minute, true
	m, err := inside(func() error { return w.run(ctx, w.o, list) })
	if err != nil {
		return m, err
	}
	m.Wall *= time.Duration(chosenMost / w.most)
	m.CPU *= time.Duration(chosenMost / w.most)
	return m, b.site.expect(b.site.size)
}

// cutQueued queues one selector after the other and waits for all.
func cutQueued(ctx context.Context, o cut.Options, list []selector.Selector) error {
	c := cut.NewCutter(o)
	results := make([]<-chan cut.Result, len(list))
	for i, s := range list {
		results[i] = c.Queue(ctx, s)
	}
	c.Close()
	for i, result := range results {
		r := <-result
		if err := wants(r.Receipt, r.Err, chosenEach); err != nil {
			return fmt.Errorf("selector %d: %w", i, err)
		}
	}
	return nil
}

// cutSingly cuts one after the other.
func cutSingly(ctx context.Context, o cut.Options, list []selector.Selector) error {
	for i, s := range list {
		o.Selector = s
		r, err := cut.Run(ctx, o)
		if err := wants(r, err, chosenEach); err != nil {
			return fmt.Errorf("selector %d: %w", i, err)
		}
	}
	return nil
}

// cutAtOnce cuts with one selector that has all addresses.
func cutAtOnce(ctx context.Context, o cut.Options, list []selector.Selector) error {
	all := make([]string, len(list))
	for i := range list {
		all[i] = chosenAddr(i).String()
	}
	var err error
	if o.Selector, err = selector.Parse([]string{"--host", strings.Join(all, ",")}); err != nil {
		return err
	}
	r, err := cut.Run(ctx, o)
	return wants(r, err, len(list)*chosenEach)
}

// wants holds a receipt to the number of flows.
func wants(r *cut.Receipt, err error, n int) error {
	if err != nil {
		return err
	}
	if f := r.Flows; f.Matched != n || f.Deleted != n || f.Remaining != 0 {
		return fmt.Errorf("the receipt says %+v, not %d flows: %s", f, n, r.Reason)
	}
	return nil
}

// inside measures f in this process: its memory is what the process had more,
// at the peak, than before.
func inside(f func() error) (m measure, err error) {
	debug.FreeOSMemory()
	const resetPeak = "5"
	if err := os.WriteFile("/proc/self/clear_refs", []byte(resetPeak), 0); err != nil {
		return m, fmt.Errorf("reset the peak of memory: %w", err)
	}
	base, err := residentPeak()
	if err != nil {
		return m, err
	}
	var before, after unix.Rusage
	err = unix.Getrusage(unix.RUSAGE_SELF, &before)
	begin := time.Now()
	err = errors.Join(err, f())
	m.Wall = time.Since(begin)
	peak, perr := residentPeak()
	if err := errors.Join(err, perr, unix.Getrusage(unix.RUSAGE_SELF, &after)); err != nil {
		return m, err
	}
	m.CPU = time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	m.Memory = peak - base
	return m, nil
}

// residentPeak returns the largest resident set since it was reset, in bytes.
func residentPeak() (int64, error) {
	text, err := field("/proc/self/status", "VmHWM")
	if err != nil {
		return 0, err
	}
	var kib int64
	if _, err := fmt.Sscan(text, &kib); err != nil {
		return 0, fmt.Errorf("peak of memory: %q: %w", text, err)
	}
	return kib << 10, nil
}
