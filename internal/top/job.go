package top

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"flowcut/cut"
	"flowcut/internal/oneline"
	"flowcut/internal/show"
	"flowcut/selector"
)

// job is a dry run, and the cut that follows it.
type job struct {
	list   []selector.Selector
	ctx    context.Context
	cancel context.CancelCauseFunc

	step    cut.Step // what the cut is doing
	results []cut.Result
	shown   bool // the results are on the screen
}

// errCancelled is why a job ends that a key has ended.
var errCancelled = errors.New("a key cancelled it")

// plan begins a dry run for what is marked, else for the row under the cursor.
func (m *model) plan() {
	chosen := slices.SortedFunc(maps.Values(m.marks), func(a, b mark) int { return cmp.Compare(a.number, b.number) })
	if len(chosen) == 0 && m.rows() > 0 {
		chosen = append(chosen, m.under())
	}
	list, err := m.selectors(chosen)
	switch {
	case err != nil:
		m.note = words(err)
		return
	case len(list) == 0:
		m.note = "there is nothing to cut"
		return
	}
	ctx, cancel := context.WithCancelCause(m.ctx)
	j := &job{list: list, ctx: ctx, cancel: cancel}
	m.job, m.mode = j, planning
	m.run(func() tea.Msg {
		plan, err := m.hands.plan(ctx, list)
		return planned{j, plan, err}
	})
}

// selectors returns what means the chosen rows. What nothing narrows is refused, as
// "flowcut cut" does without --all.
func (m *model) selectors(chosen []mark) ([]selector.Selector, error) {
	var out []selector.Selector
	for _, c := range chosen {
		var list []selector.Selector
		var err error
		if c.row != nil {
			list = make([]selector.Selector, 1)
			list[0], err = flowSelector(c.filter, c.row.Flow, m.snap.Zones)
		} else {
			list, err = groupSelectors(c.filter, c.group)
		}
		if err != nil {
			return nil, err
		}
		for _, s := range list {
			if !s.Narrows() {
				return nil, fmt.Errorf("nothing narrows %q: choose less, type a filter, or use \"flowcut cut --all\"", s)
			}
			if !s.Empty() {
				out = append(out, s)
			}
		}
	}
	return out, nil
}

// cutMessage takes what a dry run or a cut has to tell.
func (m *model) cutMessage(msg tea.Msg) {
	switch msg := msg.(type) {
	case planned:
		m.planned(msg)
	case stepped:
		if m.job != nil {
			m.job.step = msg.step
		}
	case finished:
		msg.job.cancel(nil)
		if m.mode == cutting && msg.job == m.job {
			clear(m.marks)
			msg.job.shown = true
			m.openPage(receipts(msg.results))
		}
	}
}

// mostPlanned is how many flows of a dry run are listed.
const mostPlanned = 1000

// planned shows a dry run and what it takes to go on.
func (m *model) planned(msg planned) {
	if msg.job != m.job || m.mode != planning {
		return
	}
	m.mode = browsing
	switch {
	case context.Cause(msg.job.ctx) != nil:
		m.note = "the dry run was cancelled"
		return
	case msg.err != nil:
		m.note = "dry run: " + words(msg.err)
		return
	}
	p := msg.plan
	var b []byte
	b = fmt.Appendf(b, "%s would be cut.\n", show.Count(p.Flows.Matched, "flow"))
	if p.Flows.Spared > 0 {
		b = fmt.Appendf(b, "%s would be spared: your own session.\n", show.Count(p.Flows.Spared, "flow"))
	}
	if n := p.Flows.Related + p.Flows.Mirrored; n > 0 {
		b = fmt.Appendf(b, "Of these %d go with others: %d expected by them, %d mirrors of an earlier deletion.\n", n, p.Flows.Related, p.Flows.Mirrored)
	}
	if p.Flows.Suspects > 0 {
		b = fmt.Appendf(b, "%d look like mirrors and would be left alone.\n", p.Flows.Suspects)
	}
	b = fmt.Appendf(b, "\nSelection:\n")
	for _, s := range msg.job.list {
		b = fmt.Appendf(b, "  flowcut cut %s\n", oneline.Whole(s.String()))
	}
	if len(p.Flow) > 0 {
		b = append(append(b, '\n'), show.Header...)
		for _, f := range p.Flow[:min(len(p.Flow), mostPlanned)] {
			b = append(show.AppendRow(b, f, m.snap.Now), '\n')
		}
	}
	if n := len(p.Flow) - mostPlanned; n > 0 {
		b = fmt.Appendf(b, "... and %d more\n", n)
	}
	m.openPage(page{title: "Dry run", lines: lines(b), cut: p.Flows.Matched > 0})
}

// cut begins the cut that the page is the dry run of.
func (m *model) cut() {
	j := m.job
	m.mode = cutting
	m.run(func() tea.Msg {
		return finished{j, m.hands.cut(j.ctx, j.list, func(s cut.Step) { m.send(stepped{s}) })}
	})
}

// receipts is the page of what a cut did.
func receipts(results []cut.Result) page {
	proven := 0
	for _, r := range results {
		if r.Receipt != nil && r.Receipt.Proven {
			proven++
		}
	}
	p := page{title: "Receipt"}
	if len(results) > 1 {
		p.title = fmt.Sprintf("Receipts: %d of %d proven", proven, len(results))
	}
	p.lines = lines(appendResults(nil, results, true))
	return p
}

// appendResults appends receipts, each below its selector.
func appendResults(b []byte, results []cut.Result, colour bool) []byte {
	for _, r := range results {
		if r.Receipt != nil {
			b = fmt.Appendf(b, "%s\n", oneline.Whole(r.Receipt.Selector))
			b = append(show.AppendReceipt(b, r.Receipt, colour), '\n')
		}
		if r.Err != nil {
			b = fmt.Appendf(b, "It ended early: %s\n\n", words(r.Err))
		}
	}
	return b
}

func lines(b []byte) []string { return strings.Split(strings.TrimRight(string(b), "\n"), "\n") }

// page is a text that fills the screen.
type page struct {
	title  string
	lines  []string
	offset int
	cut    bool // it is a dry run that can be followed by the cut
}

// wrapped returns the lines as they fit into a width.
func (p *page) wrapped(width int) []string {
	var out []string
	for _, l := range p.lines {
		out = append(out, strings.Split(ansi.Wrap(l, width, ""), "\n")...)
	}
	return out
}

func (m *model) openPage(p page) { m.mode, m.page = paging, p }

// turn takes a key on a page.
func (m *model) turn(name string) {
	room := m.height - pageFrame
	p := &m.page
	switch name {
	case "down", "j":
		p.offset++
	case "up", "k":
		p.offset--
	case "pgdown", "space":
		p.offset += room
	case "pgup":
		p.offset -= room
	case "home", "g":
		p.offset = 0
	case "end", "G":
		p.offset = len(p.wrapped(m.width))
	case "y":
		if p.cut {
			m.cut()
			return
		}
	case "q", "esc", "enter", "n":
		m.mode = browsing
		m.look()
	}
	p.offset = max(0, min(p.offset, len(p.wrapped(m.width))-room))
}
