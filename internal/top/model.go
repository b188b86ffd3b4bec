package top

import (
	"context"
	"time"

	tea "charm.land/bubbletea/v2"

	"flowcut/cut"
	"flowcut/internal/tally"
	"flowcut/selector"
)

// hands are what the model does to the world: each runs apart from it, and what it
// returns comes back as a message.
type hands struct {
	refresh  func(ctx context.Context, rows []*Row) error
	plan     func(ctx context.Context, list []selector.Selector) (*cut.Plan, error)
	cut      func(ctx context.Context, list []selector.Selector, progress func(cut.Step)) []cut.Result
	settings func() (settings, error)
	switchOn func() error
}

// settings are the sysctls that decide what the kernel counts; see sysctl.Get.
type settings struct{ acct, timestamp int }

// off names those that can be switched on, for a person.
func (s settings) off() string {
	switch {
	case s.acct != 0:
		return "timestamp"
	case s.timestamp != 0:
		return "acct"
	}
	return "acct and _timestamp"
}

// mode is what keys mean.
type mode uint8

const (
	browsing mode = iota
	typing        // a filter
	asking        // for accounting
	paging        // through a text: help, a plan, a receipt
	planning      // a dry run is under way
	cutting       // a cut is
)

// model is the screen.
type model struct {
	table *Table
	hands hands
	ctx   context.Context // of all that runs apart
	run   func(func() tea.Msg)
	send  func(tea.Msg)
	every time.Duration

	width, height int
	mode          mode
	view          View
	sort          Sort
	snap          *Snapshot
	at            cursor
	marks         map[any]mark
	numbered      int // marks made so far

	filter  line   // as it is typed
	good    string // the last that parsed
	before  string // when typing began
	wrong   string // why it does not parse
	changes int    // of the filter
	peeking bool   // a peek is to come

	refreshing bool // rows are asked for

	page   page
	job    *job
	note   string // about the last key
	set    settings
	failed error
}

// cursor is where the cursor is: on a row, wherever that moves.
type cursor struct {
	key    any // of the row; nil: none
	index  int
	offset int // of the first row on the screen
}

// mark is a row that was marked.
type mark struct {
	number int  // marks are numbered in the order in which they were made
	row    *Row // nil: it is a group
	group  tally.Key
	filter selector.Selector // that it was marked under
}

// Messages.
type (
	tick      struct{}
	peek      struct{}
	refreshed struct{ err error }
	settled   struct{ changes int } // nobody has typed for a while
	known     struct {
		settings
		err error
	}
	planned struct {
		job  *job
		plan *cut.Plan
		err  error
	}
	stepped  struct{ step cut.Step }
	finished struct {
		job     *job
		results []cut.Result
	}
	failure struct{ err error }
)

func (m *model) Init() tea.Cmd {
	m.run(m.askSettings)
	return m.next(0)
}

// next comes back after a while.
func (m *model) next(d time.Duration) tea.Cmd {
	return tea.Tick(d, func(time.Time) tea.Msg { return tick{} })
}

func (m *model) askSettings() tea.Msg {
	s, err := m.hands.settings()
	return known{s, err}
}

// look brings what is known to the screen.
func (m *model) look() {
	m.snap = m.table.Look(m.view, m.sort)
	m.follow()
}

// soon is how often the screen is drawn while the first walk is under way.
const soon = 60 * time.Millisecond

// Update takes a message.
func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	cmd := m.take(msg)
	if !m.snap.Whole && !m.peeking {
		m.peeking = true
		cmd = tea.Batch(cmd, tea.Tick(soon, func(time.Time) tea.Msg { return peek{} }))
	}
	return m, cmd
}

func (m *model) take(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
		m.look()
	case tea.KeyPressMsg:
		return m.key(msg)
	case tea.PasteMsg:
		if m.mode == typing && m.filter.insert(msg.Content) {
			return m.retyped()
		}
	case tick:
		m.look()
		if rows := m.visible(); len(rows) > 0 && !m.refreshing {
			m.refreshing = true
			m.run(func() tea.Msg { return refreshed{m.hands.refresh(m.ctx, rows)} })
		}
		return m.next(m.every)
	case peek:
		m.peeking = false
		m.look()
	case refreshed:
		m.refreshing = false
		if msg.err != nil && m.ctx.Err() == nil {
			return m.fail(msg.err)
		}
		m.look()
	case settled:
		if msg.changes == m.changes {
			m.apply()
		}
	case known:
		m.set = msg.settings
		if msg.err != nil {
			m.note = words(msg.err)
		}
	case failure:
		return m.fail(msg.err)
	default:
		m.cutMessage(msg)
	}
	return nil
}

// fail ends the program.
func (m *model) fail(err error) tea.Cmd {
	m.failed = err
	return tea.Quit
}

// rows returns how many rows the snapshot has.
func (m *model) rows() int { return len(m.snap.Rows) + len(m.snap.Groups) }

// keyOf returns what names row i in a map.
func (m *model) keyOf(i int) any {
	if m.snap.View == Flows {
		return m.snap.Rows[i].Key()
	}
	return m.snap.Groups[i].Key
}

// follow keeps the cursor on its row, or where that was.
func (m *model) follow() {
	p := &m.at
	n := m.rows()
	p.index = min(max(p.index, 0), max(n-1, 0))
	for i := range n {
		if p.key != nil && m.keyOf(i) == p.key {
			p.index = i
			break
		}
	}
	m.scroll()
}

// move puts the cursor on row i.
func (m *model) move(i int) {
	n := m.rows()
	m.at.index = min(max(i, 0), max(n-1, 0))
	m.at.key = nil
	if n > 0 {
		m.at.key = m.keyOf(m.at.index)
	}
	m.scroll()
}

// scroll makes the row under the cursor visible.
func (m *model) scroll() {
	p, room := &m.at, m.room()
	p.offset = min(max(p.offset, p.index-room+1, 0), p.index, max(0, m.rows()-room))
}

// visible returns the flows on the screen.
func (m *model) visible() []*Row {
	from := min(m.at.offset, len(m.snap.Rows))
	return m.snap.Rows[from:min(from+m.room(), len(m.snap.Rows))]
}

// show goes to another view or order.
func (m *model) show(v View, s Sort) {
	m.view, m.sort, m.at = v, s, cursor{}
	m.look()
}
