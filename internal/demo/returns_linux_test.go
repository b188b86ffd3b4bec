package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"flowcut/conntrack"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/watch"
	"flowcut/selector"
)

// flowcut watch marks every return that the old methods leave, and none in
// flowcut's; whether it hears of the connections from their beginning, or begins
// when they are there, whose deletion the kernel does not announce.
func TestReturns(t *testing.T) {
	for _, m := range methods() {
		for _, when := range []string{"from the beginning", "begun later"} {
			t.Run(m.name+"/"+when, func(t *testing.T) {
				t.Parallel() // most of it is waiting
				testReturns(t, m, when == "begun later")
			})
		}
	}
}

func testReturns(t *testing.T, m method, later bool) {
	ctx := labtest.Context(t)
	s, err := newSite(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}()
	start := func() (selected, all *watched) {
		return s.see(t, "-g", "-r", s.server.String()), s.see(t)
	}
	var selected, all *watched
	if !later {
		selected, all = start()
	}
	if err := s.load(ctx); err != nil {
		t.Fatal(err)
	}
	if later {
		selected, all = start()
	}
	before, cut := s.table(t), map[conntrack.Tuple]bool{}
	for f := range before {
		if f.Reply.Src == s.server && f.Status&conntrack.StatusDstNAT != 0 {
			cut[f.Orig], cut[f.Reply] = true, true
		}
	}
	if err := s.net.Gateway.Unforward(port); err != nil {
		t.Fatal(err)
	}
	if _, err := m.run(ctx, s); err != nil {
		t.Fatal(err)
	}
	if err := s.watch(ctx, time.Now().Add(time.Second), 500*time.Millisecond, &result{}); err != nil {
		t.Fatal(err)
	}
	back, want := s.back(ctx, t, m.name != "flowcut", cut)
	t.Logf("%d connections, %d of them in the table again", len(cut)/2, len(back))
	if len(cut)/2 != streams+idles || len(back) != want {
		t.Errorf("%d connections, %d of them in the table again, want %d of %d", len(cut)/2, len(back), want, streams+idles)
	}
	held(t, "selected", selected.end(t), back, cut)
	known := map[conntrack.Tuple]bool{}
	for f := range before {
		known[f.Orig], known[f.Reply] = true, m.name != "flowcut"
	}
	if m.name != "loop" { // which deletes those of bystanders, too
		known = cut
	}
	held(t, "all", all.end(t), back, known)
}

// back lists what has come back of the cut flows. All do, after an old method.
func (s *site) back(ctx context.Context, t *testing.T, old bool, cut map[conntrack.Tuple]bool) (back map[conntrack.Tuple]bool, want int) {
	t.Helper()
	if old {
		want = streams + idles
	}
	back = map[conntrack.Tuple]bool{}
	if err := lab.Until(ctx, "all that comes back", func() (bool, error) {
		for f := range s.table(t) {
			if cut[f.Orig] && f.PickedUp() {
				back[f.Orig] = true
			}
		}
		return len(back) >= want, nil
	}); err != nil {
		t.Error(err)
	}
	return back, want
}

// held holds what a watch has marked to what has come back, and to where anything
// can have.
func held(t *testing.T, what string, marked []line, back, may map[conntrack.Tuple]bool) {
	t.Helper()
	found := map[conntrack.Tuple]bool{}
	for _, l := range marked {
		found[l.Flow.Orig] = true
		if !may[l.Flow.Orig] {
			t.Errorf("%s: %v is marked: nobody has deleted it", what, l.Flow.Orig)
		}
		if l.Earlier.Orig.Proto == "" || l.Earlier.Reply.Proto == "" {
			t.Errorf("%s: %v has no earlier life: %+v", what, l.Flow.Orig, l.Earlier)
		}
	}
	for o := range back {
		if !found[o] {
			t.Errorf("%s: %v has come back and is not marked", what, o)
		}
	}
	if len(back) == 0 && len(marked) != 0 {
		t.Errorf("%s: %d are marked, none has come back", what, len(marked))
	}
	t.Logf("%s: %d returns of %d flows", what, len(marked), len(found))
}

// table lists the gateway's flows.
func (s *site) table(t *testing.T) map[*conntrack.Flow]bool {
	t.Helper()
	out := map[*conntrack.Flow]bool{}
	for f, err := range s.ct.Dump(t.Context(), conntrack.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		out[f.Clone()] = true
	}
	return out
}

// line is a line of flowcut watch.
type line struct {
	Event    string
	Returned bool
	Flow     conntrack.Flow
	Earlier  struct{ Orig, Reply struct{ Proto string } }
}

// watched is a running flowcut watch.
type watched struct {
	out  bytes.Buffer
	errs lockedBuffer
	stop context.CancelFunc
	g    errgroup.Group
}

// see starts one on the gateway and waits until it has seen the table.
func (s *site) see(t *testing.T, selection ...string) *watched {
	t.Helper()
	sel, err := selector.Parse(selection)
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{}
	ctx, cancel := context.WithCancel(labtest.Context(t))
	w.stop = cancel
	o := watch.Options{NetNS: s.net.Gateway.NS.Fd(), Selector: sel, Format: "json", Out: &w.out, Err: &w.errs}
	w.g.Go(func() error { return watch.Run(ctx, o, nil) })
	t.Cleanup(func() { cancel(); _ = w.g.Wait() })
	if err := lab.Until(ctx, "watching", func() (bool, error) {
		return strings.Contains(w.errs.String(), "watching"), nil
	}); err != nil {
		t.Fatal(err, w.errs.String())
	}
	return w
}

// end stops the watch and returns its events that tell of a new return.
func (w *watched) end(t *testing.T) []line {
	t.Helper()
	w.stop()
	if err := w.g.Wait(); err != nil {
		t.Fatal(err)
	}
	var marked []line
	for b := range bytes.Lines(w.out.Bytes()) {
		var l line
		if err := json.Unmarshal(b, &l); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		if l.Event == "overrun" {
			t.Error("events were lost")
		}
		if l.Event == "new" && l.Returned {
			marked = append(marked, l)
		}
	}
	return marked
}

// lockedBuffer is written and read at once.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
