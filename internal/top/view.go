package top

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"flowcut/internal/oneline"
	"flowcut/internal/show"
)

// Styles, of the sixteen colours and of what terminals without any can do. Nothing is
// told by a colour alone.
const (
	bold   = "\x1b[1m"
	invert = "\x1b[7m"
	yellow = "\x1b[33m"
	red    = "\x1b[31m"
	cyan   = "\x1b[36m"
	normal = "\x1b[m"
)

// The least size of a terminal, and what is not rows.
const (
	leastWidth, leastHeight = 78, 12

	frame     = 7 // lines of the table's screen that are no rows
	pageFrame = 2 // lines of a page that are not its text
)

// room returns how many rows there is room for.
func (m *model) room() int { return max(1, m.height-frame) }

// View draws the screen.
func (m *model) View() tea.View {
	v := tea.NewView(strings.Join(m.draw(), "\n"))
	v.AltScreen = true
	v.WindowTitle = "flowcut top"
	return v
}

// draw returns the lines of the screen, each no wider than that.
func (m *model) draw() []string {
	var out []string
	switch {
	case m.width == 0 || m.snap == nil:
		return nil
	case m.width < leastWidth || m.height < leastHeight:
		out = []string{fmt.Sprintf("The terminal is %dx%d:", m.width, m.height), "flowcut top needs", fmt.Sprintf("%dx%d at least.", leastWidth, leastHeight), "Make it larger,", "or press q."}
		out = out[:min(len(out), m.height)]
	case m.mode == paging:
		out = m.drawPage()
	default:
		out = m.drawTable()
	}
	for i, l := range out {
		out[i] = ansi.Truncate(l, m.width, "")
	}
	return out
}

func (m *model) drawPage() []string {
	p, room, all := &m.page, m.height-pageFrame, m.page.wrapped(m.width)
	p.offset = max(0, min(p.offset, len(all)-room)) // the terminal may be larger now
	end := min(len(all), p.offset+room)
	out := append([]string{bold + p.title + normal}, all[p.offset:end]...)
	for len(out) < m.height-1 {
		out = append(out, "")
	}
	text := ""
	if p.cut {
		text = keys("y", "cut them", "esc", "leave them")
	} else {
		text = keys("esc", "back")
	}
	if len(all) > room {
		text += keys("up down", fmt.Sprintf("line %d to %d of %d", p.offset+1, end, len(all)))
	}
	return append(out, text)
}

func (m *model) drawTable() []string {
	s := m.snap
	out := []string{m.drawTotals(), m.drawTabs(), m.drawFilter()}
	cols := columnsFor(s, m.width)
	out = append(out, invert+pad(head(cols), m.width)+normal)
	for i := m.at.offset; i < min(m.at.offset+m.room(), m.rows()); i++ {
		out = append(out, m.drawRow(cols, i))
	}
	if m.rows() == 0 {
		out = append(out, m.nothing())
	}
	for len(out) < m.height-3 {
		out = append(out, "")
	}
	return append(out, m.drawNote(), m.drawState(), m.drawKeys())
}

// nothing says why there are no rows.
func (m *model) nothing() string {
	switch {
	case !m.snap.Whole:
		return "  reading the table ..."
	case m.filter.String() != "":
		return "  no flow is meant by the filter"
	}
	return "  none"
}

func (m *model) drawTotals() string {
	s := m.snap
	l := fmt.Sprintf("%s%s of %s flows%s (%d %%)", bold, thousands(int(s.Limits.Count)), thousands(int(s.Limits.Max)), normal,
		uint64(s.Limits.Count)*100/uint64(max(1, s.Limits.Max)))
	l += fmt.Sprintf("  +%s -%s in the last second", thousands(s.Born), thousands(s.Ended))
	if len(m.marks) > 0 {
		l += fmt.Sprintf("  %s%d marked%s", yellow, len(m.marks), normal)
	}
	return l
}

func (m *model) drawTabs() string {
	return tabs(Views, m.view)[1:] + "  by" + tabs(Sorts, m.sort)
}

// tabs puts the one that is chosen in brackets.
func tabs[T interface {
	comparable
	fmt.Stringer
}](all []T, chosen T) string {
	var b strings.Builder
	for _, v := range all {
		b.WriteByte(' ')
		if v == chosen {
			b.WriteString(bold + "[" + v.String() + "]" + normal)
		} else {
			b.WriteString(v.String())
		}
	}
	return b.String()
}

func (m *model) drawFilter() string {
	text := m.filter.String()
	switch {
	case m.mode == typing:
		before, at, after := string(m.filter.text[:m.filter.pos]), " ", ""
		if m.filter.pos < len(m.filter.text) {
			at, after = string(m.filter.text[m.filter.pos]), string(m.filter.text[m.filter.pos+1:])
		}
		const head = "filter> "
		if over := ansi.StringWidth(head+before) - m.width + 2; over > 0 {
			before = ansi.TruncateLeft(before, over, "")
		}
		return cyan + head + normal + before + invert + at + normal + after
	case text == "":
		return "filter: none, all flows"
	}
	return fmt.Sprintf("filter: %s%s%s  %s", bold, oneline.Whole(text), normal, show.Count(m.snap.Matched, "flow"))
}

// drawNote is about what was typed, else about the row under the cursor.
func (m *model) drawNote() string {
	s := m.snap
	switch {
	case m.mode == asking:
		return yellow + "Switch on nf_conntrack_" + m.set.off() + "? Only flows that begin then are counted. y/n" + normal
	case m.mode == planning:
		return "dry run: looking for the flows ...  (esc cancels)"
	case m.mode == cutting && m.job.step.Name == "":
		return "cutting ...  (esc cancels)"
	case m.mode == cutting:
		return fmt.Sprintf("cutting %s: %s ...  (esc cancels)", show.Count(m.job.step.Flows, "flow"), m.job.step.Name)
	case m.wrong != "":
		return red + m.wrong + normal
	case m.note != "":
		return m.note
	case s.Whole && !s.Counted && m.set.acct == 0:
		return yellow + "No rates and bytes: nf_conntrack_acct is off. A switches it on." + normal
	case s.Whole && !s.Timed && m.sort == Age && m.set.timestamp == 0:
		return yellow + "No ages: nf_conntrack_timestamp is off. A switches it on." + normal
	case m.sort == Rate && s.Whole && s.Counted && !s.Rated:
		return "rates are known after the next walk"
	case m.view == Flows && m.rows() > 0:
		r := s.Rows[m.at.index]
		return show.State(r.Flow) + " " + string(show.AppendNotes(show.AppendPath(nil, r.Flow), r.Flow))
	}
	return ""
}

// drawState says how old what is shown can be.
func (m *model) drawState() string {
	s := m.snap
	out := fmt.Sprintf("%d of %s", m.rows(), thousands(s.All))
	if s.AtLeast {
		out += "+"
	}
	switch {
	case !s.Whole:
		return fmt.Sprintf("the first walk is under way: %s flows so far", thousands(s.Matched))
	case s.Every == 0:
		out += ", walked once"
	default:
		out += fmt.Sprintf(", whole table every %s", rounded(s.Every))
	}
	if m.view == Flows {
		out += fmt.Sprintf(", these rows every %s", rounded(m.every))
	}
	if s.Lost {
		out += ", too many events to count between"
	}
	return out
}

func rounded(d time.Duration) string {
	if d < 10*time.Second {
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	}
	return strconv.Itoa(int(d.Seconds()+0.5)) + " s"
}

func (m *model) drawKeys() string {
	if m.mode == typing {
		return keys("enter", "take it", "esc", "the one before")
	}
	return keys("tab", "view", "s", "sort", "/", "filter", "space", "mark", "x", "cut", "A", "accounting", "?", "help", "q", "quit")
}

// keys writes pairs of a key and what it does.
func keys(pairs ...string) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		fmt.Fprintf(&b, "%s%s%s %s  ", cyan, pairs[i], normal, pairs[i+1])
	}
	return b.String()
}

// thousands writes a number with commas.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// pad fills a line up with blanks.
func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-ansi.StringWidth(s)))
}
