package top

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"
	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/internal/example"
	"flowcut/selector"
)

var update = flag.Bool("update", false, "write the golden files anew")

// player is a model, and what runs apart from it, in turn.
type player struct {
	*model
	world  *world
	queue  []func() tea.Msg
	quit   bool
	cut    []selector.Selector // that were cut
	hold   bool                // what runs apart waits
	set    settings
	failed error // of what runs apart
}

func newPlayer(t testing.TB, width, height int) *player {
	t.Helper()
	p := &player{world: newWorld(selector.Selector{}), set: settings{1, 1}}
	p.world.SetLimits(conntrack.Limits{Count: 2401, Max: 262144})
	for i := range 40 {
		p.world.flows = append(p.world.flows, flow(i, uint64(i*i*1000)))
	}
	examples := example.Flows()
	for _, name := range []string{"dnat", "dnat6", "masquerade", "icmp", "zone", "gre"} {
		p.world.flows = append(p.world.flows, examples[name])
	}
	examples["zone"].Helper = "ftp\x1b[31m" // a name that somebody else chose
	p.world.walkAll(t)
	p.world.now = p.world.now.Add(4 * time.Second)
	for i := range 40 {
		p.world.flows[i] = flow(i, uint64(i*i*1000+(40-i)*3000))
	}
	p.world.walkAll(t)
	p.model = newModel(t.Context(), p.world.Table, Config{Every: time.Second}, hands{
		refresh:  func(context.Context, []*Row) error { return p.failed },
		plan:     p.plan,
		cut:      p.doCut,
		settings: func() (settings, error) { return p.set, nil },
		switchOn: func() error { p.set = settings{1, 1}; return nil },
	})
	p.run = func(f func() tea.Msg) { p.queue = append(p.queue, f) }
	p.send = func(msg tea.Msg) { p.take(msg) }
	p.model.Init()
	p.say(tea.WindowSizeMsg{Width: width, Height: height})
	return p
}

func (p *player) plan(_ context.Context, list []selector.Selector) (*cut.Plan, error) {
	plan := &cut.Plan{}
	set := selector.NewSet(list)
	for _, f := range p.world.flows {
		if set.Match(f) {
			plan.Flow = append(plan.Flow, f)
		}
	}
	plan.Flows.Matched = len(plan.Flow)
	return plan, p.failed
}

func (p *player) doCut(ctx context.Context, list []selector.Selector, progress func(cut.Step)) []cut.Result {
	p.cut = list
	progress(cut.Step{Name: "tell the ends", Flows: 3})
	var out []cut.Result
	for _, s := range list {
		r := &cut.Receipt{
			Selector: s.Brief(), Proven: true, Final: true, ElapsedMS: cut.Millis(1200 * time.Millisecond),
			Flows:     cut.FlowCounts{Matched: 3, Deleted: 3},
			Endpoints: cut.EndpointCounts{Dead: 6, Reset: 6},
			Fence:     cut.FenceReport{Backend: "nf_tables", Exact: true, RaisedAfterMS: cut.Millis(9 * time.Millisecond), SilentAfterMS: cut.Millis(9 * time.Millisecond), LiftedAfterMS: cut.Millis(1100 * time.Millisecond)},
		}
		if err := context.Cause(ctx); err != nil {
			r.Proven, r.Final, r.Reason = false, false, err.Error()
		}
		out = append(out, cut.Result{Receipt: r, Err: context.Cause(ctx)})
	}
	return out
}

// say gives the model a message, then what comes of it.
func (p *player) say(msg tea.Msg) {
	if _, cmd := p.Update(msg); cmd != nil && (p.model.failed != nil || isQuit(msg, p)) {
		_, p.quit = cmd().(tea.QuitMsg)
	}
	for !p.hold && len(p.queue) > 0 {
		f := p.queue[0]
		p.queue = p.queue[1:]
		if m := f(); m != nil {
			p.say(m)
		}
	}
}

// isQuit tells whether a key is one that ends the program.
func isQuit(msg tea.Msg, p *player) bool {
	k, ok := msg.(tea.KeyPressMsg)
	return ok && (k.String() == "q" && p.mode == browsing || k.String() == "ctrl+c")
}

var special = map[string]tea.Key{
	"enter": {Code: tea.KeyEnter}, "esc": {Code: tea.KeyEscape}, "tab": {Code: tea.KeyTab}, "up": {Code: tea.KeyUp}, "down": {Code: tea.KeyDown},
	"left": {Code: tea.KeyLeft}, "home": {Code: tea.KeyHome}, "end": {Code: tea.KeyEnd}, "pgdown": {Code: tea.KeyPgDown}, "pgup": {Code: tea.KeyPgUp},
	"backspace": {Code: tea.KeyBackspace}, "delete": {Code: tea.KeyDelete}, "space": {Code: tea.KeySpace, Text: " "},
	"ctrl+c": {Code: 'c', Mod: tea.ModCtrl}, "ctrl+u": {Code: 'u', Mod: tea.ModCtrl}, "ctrl+w": {Code: 'w', Mod: tea.ModCtrl},
	"shift+tab": {Code: tea.KeyTab, Mod: tea.ModShift},
}

// keys types words: names of keys, or text in quotes.
func (p *player) keys(t *testing.T, words ...string) {
	t.Helper()
	for _, w := range words {
		if k, ok := special[w]; ok {
			p.say(tea.KeyPressMsg(k))
			continue
		}
		for _, r := range strings.Trim(w, "'") {
			if r == ' ' {
				p.say(tea.KeyPressMsg(special["space"]))
				continue
			}
			p.say(tea.KeyPressMsg(tea.Key{Code: r, Text: string(r)}))
		}
	}
}

// screen is the text of the screen, without styles.
func (p *player) screen() string { return ansi.Strip(strings.Join(p.draw(), "\n")) }

// scenes are screens that are kept as golden files.
var scenes = []struct {
	name          string
	width, height int
	keys          []string
	profile       colorprofile.Profile
	before        func(*player)
}{
	{name: "flows-80x24", width: 80, height: 24, profile: colorprofile.Ascii},
	{name: "flows-120x40", width: 120, height: 40, profile: colorprofile.Ascii},
	{name: "small-40x10", width: 40, height: 10, profile: colorprofile.Ascii},
	{name: "colours-16", width: 80, height: 24, profile: colorprofile.ANSI, keys: []string{"down", "space", "space", "/", "'-p tpc'"}},
	{name: "colours-256", width: 80, height: 24, profile: colorprofile.ANSI256, keys: []string{"down", "space", "space", "/", "'-p tpc'"}},
	{name: "colours-none", width: 80, height: 24, profile: colorprofile.Ascii, keys: []string{"down", "space", "space", "/", "'-p tpc'"}},
	{name: "dumb", width: 80, height: 24, profile: colorprofile.NoTTY, keys: []string{"down", "space"}},
	{name: "groups-80x24", width: 80, height: 24, profile: colorprofile.NoTTY, keys: []string{"tab", "c"}},
	{name: "nat-120x40", width: 120, height: 40, profile: colorprofile.NoTTY, keys: []string{"6", "a"}},
	{name: "first-walk", width: 80, height: 24, profile: colorprofile.NoTTY, keys: []string{"/", "'-d 203.0.113.1'", "enter"}},
	{name: "uncounted", width: 80, height: 24, profile: colorprofile.NoTTY, before: func(p *player) {
		p.set = settings{0, 0}
		for _, f := range p.world.flows {
			f.Has &^= conntrack.AttrOrigCounters | conntrack.AttrReplyCounters | conntrack.AttrStart
		}
		walk, _ := p.world.begin(0)
		for _, f := range p.world.flows {
			p.world.visit(walk, f)
		}
		p.world.end(walk)
		p.queue = append(p.queue, p.askSettings)
	}},
	{name: "asking", width: 80, height: 24, profile: colorprofile.NoTTY, keys: []string{"A"}, before: func(p *player) { p.model.set = settings{0, 1} }},
	{name: "dry-run", width: 80, height: 24, profile: colorprofile.NoTTY, keys: []string{"down", "space", "space", "x"}},
	{name: "receipt", width: 80, height: 24, profile: colorprofile.NoTTY, keys: []string{"2", "x", "y"}},
	{name: "help", width: 80, height: 24, profile: colorprofile.NoTTY, keys: []string{"?"}},
}

// The screen looks as it did when somebody last looked at it; see -update.
func TestGolden(t *testing.T) {
	for _, s := range scenes {
		t.Run(s.name, func(t *testing.T) {
			p := newPlayer(t, s.width, s.height)
			if s.before != nil {
				s.before(p)
				p.say(tick{})
			}
			p.keys(t, s.keys...)
			var b bytes.Buffer
			w := colorprofile.Writer{Forward: &b, Profile: s.profile}
			if _, err := w.WriteString(p.View().Content + "\n"); err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
			if len(lines) > s.height {
				t.Errorf("%d lines, the screen has %d", len(lines), s.height)
			}
			for _, l := range lines {
				if n := ansi.StringWidth(l); n > s.width {
					t.Errorf("a line of %d columns: %q", n, l)
				}
			}
			golden(t, s.name, strings.ReplaceAll(b.String(), "\x1b", "^["))
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: %s", path, diff)
	}
}
