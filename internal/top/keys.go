package top

import (
	"errors"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"flowcut/internal/oneline"
	"flowcut/internal/tally"
	"flowcut/selector"
)

// help says what the keys do.
const help = `up down pgup pgdn home end  move, also k j g G
tab shift+tab 1-7           flows, or groups of them
r b a c                     sort by rate, bytes, age, count; s: by the next
/                           type a filter, in the flags of "flowcut list":
                            -p tcp --dport 443; enter takes it, esc does not
enter                       of a group: show its flows
space                       mark, or unmark; u unmarks all
x                           cut what is marked, else the row under the cursor:
                            first a dry run, then the cut, then the receipt
A                           have the kernel count, if it does not
q ctrl+c                    quit

RATE and BYTES are of both directions. The rows on the screen are read again
each second. Groups are counted by a walk through the whole table; how often
one is made says the line below the rows. Between walks events tell of flows
that begin and end. COUNT is of the flows of a group, of the packets of a flow.
A cut is that of "flowcut cut" with its defaults: it spares your SSH session.
`

// key takes a key.
func (m *model) key(k tea.KeyPressMsg) tea.Cmd {
	name := k.String()
	switch {
	case name == "ctrl+z":
		return tea.Suspend
	case m.mode == cutting || m.mode == planning:
		if name == "ctrl+c" || name == "esc" {
			m.job.cancel(errCancelled)
		}
		return nil
	case name == "ctrl+c":
		return tea.Quit
	case m.mode == typing:
		return m.typed(k)
	case m.mode == asking:
		m.answer(name)
		return nil
	case m.mode == paging:
		m.turn(name)
		return nil
	}
	m.note = ""
	return m.browse(name)
}

// browse takes a key on the table.
func (m *model) browse(name string) tea.Cmd {
	room := m.room()
	switch name {
	case "q":
		return tea.Quit
	case "up", "k":
		m.move(m.at.index - 1)
	case "down", "j":
		m.move(m.at.index + 1)
	case "pgup":
		m.move(m.at.index - room)
	case "pgdown":
		m.move(m.at.index + room)
	case "home", "g":
		m.move(0)
	case "end", "G":
		m.move(m.rows() - 1)
	case "/":
		m.mode, m.before = typing, m.filter.String()
		m.filter = newLine(m.before)
	case "enter":
		m.open()
	case "space":
		m.mark()
	case "u":
		clear(m.marks)
	case "x":
		m.plan()
	case "A":
		m.ask()
	case "?":
		m.openPage(page{title: "Keys", lines: strings.Split(strings.TrimSuffix(help, "\n"), "\n")})
	default:
		m.choose(name)
	}
	return nil
}

// choose takes a key that chooses a view or an order.
func (m *model) choose(name string) {
	views, sorts := len(Views), len(Sorts)
	switch name {
	case "tab":
		m.show(View((int(m.view)+1)%views), m.sort)
	case "shift+tab":
		m.show(View((int(m.view)+views-1)%views), m.sort)
	case "s":
		m.show(m.view, Sort((int(m.sort)+1)%sorts))
	}
	if len(name) != 1 {
		return
	}
	if i := int(name[0]) - '1'; i >= 0 && i < views {
		m.show(View(i), m.sort)
	}
	for _, s := range Sorts {
		if name == s.String()[:1] {
			m.show(m.view, s)
		}
	}
}

// open shows the flows of a group.
func (m *model) open() {
	if m.view == Flows || m.rows() == 0 {
		return
	}
	k := m.snap.Groups[m.at.index].Key
	list, err := groupSelectors(m.table.Filter(), k)
	if err != nil {
		m.note = words(err)
		return
	}
	s := list[0]
	if k.By == tally.NATTarget {
		s = m.table.Filter()
		s.AnyNAT = selector.NAT{Set: true, Targets: []selector.NATTarget{{Addrs: only(k.Addr).Ranges[0]}}}
	}
	m.filter, m.good, m.wrong = newLine(s.String()), s.String(), ""
	m.table.SetFilter(s)
	m.show(Flows, m.sort)
}

// mark marks the row under the cursor, or unmarks it.
func (m *model) mark() {
	if m.rows() == 0 {
		return
	}
	key := m.keyOf(m.at.index)
	if _, ok := m.marks[key]; ok {
		delete(m.marks, key)
	} else {
		m.marks[key] = m.under()
		m.numbered++
	}
	m.move(m.at.index + 1)
}

// under returns the row under the cursor as one that is marked.
func (m *model) under() mark {
	u := mark{number: m.numbered, filter: m.table.Filter()}
	if m.view == Flows {
		u.row = m.snap.Rows[m.at.index]
	} else {
		u.group = m.snap.Groups[m.at.index].Key
	}
	return u
}

// calm is how long nobody types before the table is read by a new filter.
const calm = 250 * time.Millisecond

// typed takes a key of the filter.
func (m *model) typed(k tea.KeyPressMsg) tea.Cmd {
	switch k.String() {
	case "enter":
		m.apply()
		m.mode = browsing
		if m.wrong != "" {
			m.mode = typing
		}
		return nil
	case "esc":
		m.mode, m.filter = browsing, newLine(m.before)
		m.apply()
		return nil
	}
	if !m.filter.key(k) {
		return nil
	}
	return m.retyped()
}

// retyped says at once whether a new filter parses.
func (m *model) retyped() tea.Cmd {
	m.changes++
	n := m.changes
	m.wrong = ""
	if _, err := parseFilter(m.filter.String()); err != nil {
		m.wrong = words(err)
		return nil
	}
	return tea.Tick(calm, func(time.Time) tea.Msg { return settled{n} })
}

// apply makes the typed filter the table's, unless it does not parse.
func (m *model) apply() {
	m.changes++
	text := m.filter.String()
	s, err := parseFilter(text)
	m.wrong = ""
	if err != nil {
		m.wrong = words(err)
		return
	}
	if s.String() != m.good {
		m.good = s.String()
		m.table.SetFilter(s)
		m.show(m.view, m.sort)
	}
}

// parseFilter reads a filter as it is typed. A list in a file is not read with each
// key.
func parseFilter(text string) (selector.Selector, error) {
	fields := strings.Fields(text)
	for _, w := range fields {
		if strings.Contains(w, "@") {
			return selector.Selector{}, errors.New("lists (@FILE, @nft:...) are read at the start alone: give them as flags of \"flowcut top\"")
		}
	}
	return selector.Parse(fields)
}

// words returns an error for the screen.
func words(err error) string {
	if e, ok := errors.AsType[*selector.Error](err); ok {
		return oneline.Text(e.What())
	}
	return oneline.Text(err.Error())
}

// ask offers to switch on what the kernel does not count.
func (m *model) ask() {
	switch {
	case m.set.acct == 0 || m.set.timestamp == 0:
		m.mode = asking
	case m.set.acct < 0:
		m.note = "this kernel cannot count bytes"
	default:
		m.note = "the kernel counts bytes and notes when flows begin already"
	}
}

// answer takes the answer to that.
func (m *model) answer(name string) {
	m.mode = browsing
	if name != "y" {
		m.note = "nothing was changed"
		return
	}
	m.run(func() tea.Msg {
		err := m.hands.switchOn()
		s, serr := m.hands.settings()
		return known{s, errors.Join(err, serr)}
	})
}
