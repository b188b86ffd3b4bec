package top

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"flowcut/cut"
	"flowcut/internal/tally"
)

// row returns the row under the cursor.
func (p *player) row() string {
	for l := range strings.Lines(p.screen()) {
		if l[0] == '>' {
			return strings.Join(strings.Fields(l[2:]), " ")
		}
	}
	return ""
}

func (p *player) want(t *testing.T, what string) {
	t.Helper()
	if !strings.Contains(p.screen(), what) {
		t.Errorf("the screen does not say %q:\n%s", what, p.screen())
	}
}

// The cursor moves within the rows, and stays on its row when the order changes.
func TestCursor(t *testing.T) {
	p := newPlayer(t, 80, 24)
	for _, c := range []struct{ key, row string }{
		{"up", "192.0.2.1:"}, {"down", "192.0.2.2:"}, {"j", "192.0.2.3:"}, {"pgdown", "192.0.2.20:"}, {"end", "gre"},
		{"down", "gre"}, {"pgup", "192.0.2.29:"}, {"k", "192.0.2.28:"}, {"home", "192.0.2.1:"}, {"G", "gre"}, {"g", "192.0.2.1:"},
	} {
		p.keys(t, c.key)
		if !strings.Contains(p.row(), c.row) {
			t.Errorf("after %s the cursor is on %q, want %s", c.key, p.row(), c.row)
		}
	}
	p.keys(t, "down", "down")
	flow := func() string { return strings.Fields(p.row())[5] }
	before := flow()
	f := p.world.flows[30]
	f.OrigCounters.Bytes += 1 << 30 // the thirty-first is now the first
	p.world.now = p.world.now.Add(time.Second)
	p.world.walkAll(t)
	p.say(tick{})
	at := p.at.index
	if at == 2 || flow() != before {
		t.Errorf("the cursor was on %q, and is on %q, row %d", before, flow(), at)
	}
	p.world.ended(p.snap.Rows[at].Flow)
	p.say(tick{})
	if p.at.index != at || flow() == before {
		t.Errorf("its row has ended, and the cursor is on %q, row %d", flow(), p.at.index)
	}
}

// Each view and order has its key, and the screen says which they are.
func TestChoose(t *testing.T) {
	p := newPlayer(t, 80, 24)
	for i, v := range Views {
		p.keys(t, fmt.Sprint(i+1))
		p.want(t, "["+v.String()+"]")
		for _, s := range Sorts {
			p.keys(t, s.String()[:1])
			p.want(t, "["+s.String()+"]")
		}
	}
	p.keys(t, "tab")
	p.want(t, "[flows]")
	p.keys(t, "shift+tab", "s")
	p.want(t, "[zone]")
	p.want(t, "[rate]")
}

// While what is typed does not parse the last good filter holds, and the screen says why.
func TestFilter(t *testing.T) {
	p := newPlayer(t, 80, 24)
	filter := func() string { return p.table.Filter().String() }
	p.keys(t, "/", "'-d 203.0.113.1'")
	if filter() != "" {
		t.Errorf("the filter is %q while somebody types", filter())
	}
	p.say(settled{p.changes - 1})
	if filter() != "" {
		t.Errorf("an older pause takes the filter %q", filter())
	}
	p.say(settled{p.changes})
	same(t, "after a pause", filter(), "--orig-dst 203.0.113.1")
	p.keys(t, "' -p tpc'")
	p.want(t, "--proto tpc: unknown protocol")
	p.say(settled{p.changes})
	p.keys(t, "enter")
	same(t, "what is wrong is not taken", filter(), "--orig-dst 203.0.113.1")
	p.want(t, "filter> -d 203.0.113.1 -p tpc")
	p.keys(t, "ctrl+w", "tcp", "left", "left", "delete", "'c'", "home", "end", "backspace", "backspace", "'cp'", "enter")
	same(t, "after enter", filter(), "--proto tcp --orig-dst 203.0.113.1")
	p.keys(t, "/", "ctrl+u", "esc")
	same(t, "after esc", filter(), "--proto tcp --orig-dst 203.0.113.1")
	p.keys(t, "/", "'@x'")
	p.want(t, "read at the start alone")
	p.keys(t, "esc", "/", "ctrl+u", "enter")
	same(t, "emptied", filter(), "")
	p.keys(t, "/")
	p.say(tea.PasteMsg{Content: "--sport\n1\x1b[2J"})
	p.want(t, "filter> --sport 1[2J")
	p.keys(t, "ctrl+c")
	if !p.quit {
		t.Error("ctrl+c does not quit while somebody types")
	}
}

// What is marked is cut, each flow by itself, after its dry run was shown; else the
// row under the cursor.
func TestCut(t *testing.T) {
	p := newPlayer(t, 80, 24)
	p.keys(t, "space", "space", "space", "up", "space") // the third is no more
	p.want(t, "2 marked")
	p.keys(t, "x")
	p.want(t, "2 flows would be cut")
	if p.cut != nil {
		t.Fatal("it cuts before anybody has said so")
	}
	p.keys(t, "esc")
	p.want(t, "2 marked")
	p.keys(t, "x", "down", "y")
	p.want(t, "Receipts: 2 of 2 proven")
	var cut []string
	for _, s := range p.cut {
		cut = append(cut, s.String())
	}
	want := []string{
		"--proto tcp --orig-src 192.0.2.1 --orig-dst 203.0.113.1 --orig-port-src 40000 --orig-port-dst 443 --zone 0",
		"--proto tcp --orig-src 192.0.2.2 --orig-dst 203.0.113.2 --orig-port-src 40001 --orig-port-dst 443 --zone 0",
	}
	if !slices.Equal(cut, want) {
		t.Errorf("cut %q, want %q", cut, want)
	}
	p.keys(t, "esc", "3", "c", "x", "y")
	if len(p.marks) != 0 || len(p.cut) != 1 || !strings.HasPrefix(p.cut[0].String(), "--orig-src ") {
		t.Errorf("%d marks are left, cut %v", len(p.marks), p.cut)
	}
	p.keys(t, "q", "5", "x")
	p.want(t, `nothing narrows "--proto tcp"`)
	p.keys(t, "/", "'--sport 1'", "enter", "x")
	p.want(t, "there is nothing to cut")
}

// A group can be opened: its flows are shown.
func TestOpen(t *testing.T) {
	for _, by := range tally.All {
		p := newPlayer(t, 80, 24)
		p.show(ViewBy(by), Count)
		name, n := p.snap.Groups[0].Key, p.snap.Groups[0].Flows
		p.keys(t, "enter")
		p.world.now = p.world.now.Add(time.Second)
		p.world.walkAll(t)
		p.say(peek{})
		if p.view != Flows || len(p.snap.Rows) != n {
			t.Errorf("%v %v: %d flows are shown, want %d; filter %s", by, name, len(p.snap.Rows), n, p.table.Filter())
		}
	}
}

// A dry run or a cut that a key cancels ends, and its receipt is shown.
func TestCancel(t *testing.T) {
	p := newPlayer(t, 80, 24)
	p.hold = true
	p.keys(t, "x")
	p.want(t, "dry run: looking for the flows")
	p.keys(t, "q", "esc")
	p.hold = false
	p.say(nil)
	p.want(t, "the dry run was cancelled")

	p.keys(t, "x")
	p.hold = true
	p.keys(t, "y")
	p.want(t, "cutting")
	p.keys(t, "q", "ctrl+c")
	if p.quit {
		t.Fatal("it quits before the cut has ended")
	}
	p.hold = false
	p.say(nil)
	p.want(t, "not proven")
	p.want(t, "It ended early: a key cancelled it")
	p.keys(t, "ctrl+c")
	if !p.quit {
		t.Error("it does not quit")
	}
}

// The settings are changed after a yes alone.
func TestAccounting(t *testing.T) {
	p := newPlayer(t, 80, 24)
	p.set = settings{0, 1}
	p.say(p.askSettings())
	p.keys(t, "A")
	p.want(t, "Switch on nf_conntrack_acct?")
	p.keys(t, "n")
	p.want(t, "nothing was changed")
	if p.set.acct != 0 {
		t.Error("it was switched on nevertheless")
	}
	p.keys(t, "A", "y", "A")
	p.want(t, "the kernel counts bytes and notes when flows begin already")
}

// What fails is said, in one line that a terminal can show; what cannot go on ends.
func TestFailures(t *testing.T) {
	p := newPlayer(t, 80, 24)
	p.failed = errors.New("no\x1b[2J rights\n!")
	p.keys(t, "x")
	p.want(t, `dry run: no\x1b[2J rights\n!`)
	p.say(tick{})
	if p.model.failed == nil || !p.quit {
		t.Error("it goes on without the kernel")
	}
}

// A screen of any size is drawn without a line too many, whatever it shows.
func TestSizes(t *testing.T) {
	for _, keys := range [][]string{nil, {"2"}, {"?"}, {"x"}, {"x", "y"}, {"/", "'" + strings.Repeat("-d 203.0.113.1 ", 20) + "'"}} {
		p := newPlayer(t, 80, 24)
		p.keys(t, keys...)
		for h := range 45 {
			for _, w := range []int{1, 7, 77, 78, 80, 99, 100, 119, 200} {
				p.say(tea.WindowSizeMsg{Width: w, Height: h})
				p.keys(t, "end", "up", "pgdown", "home")
				if n := len(p.draw()); n > h {
					t.Fatalf("%v at %dx%d: %d lines", keys, w, h, n)
				}
			}
		}
	}
}

// Receipts that nobody has seen are plain text.
func TestAppendResults(t *testing.T) {
	r := &cut.Receipt{Selector: "-s \x1b[31m", Proven: true}
	got := string(appendResults(nil, []cut.Result{{Receipt: r, Err: context.Canceled}}, false))
	if strings.Contains(got, "\x1b") || !strings.Contains(got, "proven: nothing matched") || !strings.Contains(got, "context canceled") {
		t.Errorf("got %q", got)
	}
}
