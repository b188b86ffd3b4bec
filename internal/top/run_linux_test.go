package top

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/netns"
	"flowcut/internal/tally"
	"flowcut/selector"
)

// scratch is a namespace with a table of its own.
func scratch(t *testing.T) (*netns.NS, *conntrack.Client) {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	c, err := conntrack.Dial(conntrack.Config{NetNS: ns.Fd()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return ns, c
}

// put makes flows numbered from..to-1 in the kernel.
func put(t *testing.T, c *conntrack.Client, from, to int) {
	t.Helper()
	n, err := c.CreateAll(t.Context(), func(yield func(*conntrack.Flow) bool) {
		for i := from; i < to; i++ {
			f := flow(i, 0)
			f.Orig.Src = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			f.Reply, f.Timeout = f.Orig.Invert(), time.Hour
			f.Has &^= conntrack.AttrID | conntrack.AttrOrigCounters | conntrack.AttrReplyCounters | conntrack.AttrStart
			if !yield(f) {
				return
			}
		}
	})
	if err != nil || n != to-from {
		t.Fatalf("made %d of %d flows: %v", n, to-from, err)
	}
}

// One walk and the events after it tell how many flows there are, and of which
// servers; what ends unannounced is found when its row is looked at.
func TestWalkAndHear(t *testing.T) {
	_, c := scratch(t)
	ctx, cancel := context.WithCancel(labtest.Context(t))
	defer cancel()
	table := NewTable(parse(t, "-p tcp"), time.Now)
	hearing, deafen := context.WithCancel(ctx)
	heard := make(chan error, 1)
	go func() { heard <- table.Hear(hearing, c) }()
	n := 0
	for ; !table.knowsAny(); n += 3 { // until somebody listens
		put(t, c, n, n+3)
	}
	walked := make(chan error, 1)
	go func() { walked <- table.Walk(ctx, c, time.Hour) }()
	is := func(n, server int) {
		t.Helper()
		labtest.Until(t, fmt.Sprintf("there are %d flows, %d to a server", n, server), func() bool {
			s := table.Look(ViewBy(tally.Server), Count)
			i := slices.IndexFunc(s.Groups, func(g tally.Row) bool { return g.Key.String() == "203.0.113.1" })
			return s.Whole && s.Matched == n && i >= 0 && s.Groups[i].Flows == server
		})
	}
	is(n, n/3)
	put(t, c, n, n+300)
	is(n+300, n/3+100)
	var keys []conntrack.Key
	for f, err := range c.Dump(ctx, conntrack.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if f.Orig.Dst.String() == "203.0.113.1" && int(f.Orig.SrcPort) >= 40000+n && len(keys) < 10 {
			keys = append(keys, f.Key())
		}
	}
	remove(t, c, keys)
	is(n+290, n/3+90)
	if s := table.Look(Flows, Rate); s.Lost || s.Every != 0 {
		t.Errorf("after one walk: lost %v, every %v", s.Lost, s.Every)
	}
	deafen()
	if err := <-heard; err != nil {
		t.Error(err)
	}
	rows := table.Look(Flows, Rate).Rows[:2]
	remove(t, c, []conntrack.Key{rows[0].Key()})
	if err := table.Refresh(ctx, c, rows); err != nil {
		t.Fatal(err)
	}
	if s := table.Look(Flows, Rate); s.Matched != n+289 || s.Rows[0].Key() != rows[1].Key() {
		t.Errorf("%d flows, want %d; the first is %v, want %v", s.Matched, n+289, s.Rows[0].Key(), rows[1].Key())
	}
	cancel()
	if err := <-walked; err != nil {
		t.Error(err)
	}
}

func remove(t *testing.T, c *conntrack.Client, keys []conntrack.Key) {
	t.Helper()
	if n, err := c.Delete(t.Context(), keys, nil); err != nil || n != len(keys) {
		t.Fatalf("deleted %d of %d flows: %v", n, len(keys), err)
	}
}

// knowsAny tells whether the table has a flow.
func (t *Table) knowsAny() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen.used > 0
}

// A flood of events is not heard to its end, and the screen can say so; a walk sets
// the counts right.
func TestFlood(t *testing.T) {
	_, c := scratch(t)
	ctx, cancel := context.WithCancel(labtest.Context(t))
	defer cancel()
	table := NewTable(selector.Selector{}, time.Now)
	table.flood = 20
	heard := make(chan error, 1)
	go func() { heard <- table.Hear(ctx, c) }()
	n := 0
	for ; !table.Look(Flows, Rate).Lost; n += 500 {
		put(t, c, n, n+500)
	}
	if _, err := table.walkOnce(ctx, c, newBudget(time.Now, spent)); err != nil {
		t.Fatal(err)
	}
	if s := table.Look(Flows, Rate); s.Lost || s.Matched != n {
		t.Errorf("%d of %d flows after a walk, lost %v", s.Matched, n, s.Lost)
	}
	cancel()
	if err := <-heard; err != nil {
		t.Error(err)
	}
}

// start runs the program with its keys from a pipe, on a screen that nobody sees.
func start(t *testing.T, ctx context.Context, o Config) (keys, screen *os.File, done chan error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "screen"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, f := range []*os.File{r, w, out} {
			_ = f.Close()
		}
	})
	o.Input, o.Output, o.Every = r, out, 100*time.Millisecond
	done = make(chan error, 1)
	go func() { done <- Run(ctx, o) }()
	return w, out, done
}

// press types a key again and again until the program has ended: nothing tells when
// it listens.
func press(t *testing.T, keys *os.File, done chan error, key string) (err error) {
	t.Helper()
	labtest.Until(t, "the program ends", func() bool {
		_, _ = keys.WriteString(key)
		select {
		case err = <-done:
			return true
		default:
			return false
		}
	})
	return err
}

// However it ends, nothing of it is left running; a cut under way ends first, and what
// it did is said.
func TestRunEnds(t *testing.T) {
	ns, c := scratch(t)
	put(t, c, 0, 10)
	all := []selector.Selector(nil)
	planned := &cut.Plan{}
	planned.Flows.Matched = 1
	o := Config{NetNS: ns.Fd(), Plan: func(_ context.Context, list []selector.Selector) (*cut.Plan, error) {
		all = list
		return planned, nil
	}}

	keys, _, done := start(t, labtest.Context(t), o)
	if err := press(t, keys, done, "q"); err != nil {
		t.Errorf("after q: %v", err)
	}

	cause := errors.New("a signal")
	ctx, cancel := context.WithCancelCause(labtest.Context(t))
	begun := make(chan struct{})
	var screen *os.File
	o.Cut = func(ctx context.Context, _ []selector.Selector, progress func(cut.Step)) []cut.Result {
		progress(cut.Step{Name: "tell the ends"})
		close(begun)
		<-ctx.Done()
		labtest.Until(t, "the screen is closed", func() bool { // a fence takes a while to be lifted
			b, _ := os.ReadFile(screen.Name())
			return strings.Contains(string(b), "\x1b[?1049l")
		})
		return []cut.Result{{Receipt: &cut.Receipt{Selector: "this one", Reason: "it was ended"}, Err: context.Cause(ctx)}}
	}
	keys, screen, done = start(t, ctx, o)
	labtest.Until(t, "a cut is under way", func() bool {
		if b, _ := os.ReadFile(screen.Name()); !strings.Contains(string(b), "\x1b[?1049h") {
			return false
		}
		_, _ = keys.WriteString("xy")
		select {
		case <-begun:
			return true
		default:
			return false
		}
	})
	cancel(cause)
	if err := <-done; !errors.Is(err, cause) {
		t.Errorf("after a signal: %v", err)
	}
	if said, err := os.ReadFile(screen.Name()); err != nil || !strings.Contains(string(said), "this one\nnot proven") || !strings.Contains(string(said), "because  it was ended") {
		t.Errorf("what the cut did is not said: %v: %q", err, said)
	}
	if len(all) != 1 {
		t.Errorf("planned %v", all)
	}

	o.Plan = func(context.Context, []selector.Selector) (*cut.Plan, error) { panic("this is a bug") }
	keys, _, done = start(t, labtest.Context(t), o)
	if err := press(t, keys, done, "x"); err == nil || !strings.Contains(err.Error(), "this is a bug") {
		t.Errorf("after a panic: %v", err)
	}
	// The library leaves a reader behind to which keys come after its end.
	ours := func() (n int) {
		stacks := make([]byte, 1<<20)
		for g := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
			if strings.Contains(g, "flowcut/") && !strings.Contains(g, "testing.tRunner") {
				n++
			}
		}
		return n
	}
	labtest.Until(t, "nothing of ours is left running", func() bool { return ours() == 0 })
}
