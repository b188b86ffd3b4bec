package top

import (
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"flowcut/internal/oneline"
	"flowcut/internal/show"
	"flowcut/internal/tally"
)

// column is a column of the table. The last one is as wide as the rest of the line.
type column struct {
	title string
	width int
	from  int  // the width of the screen from which on it is there
	sort  Sort // it is also there when rows are in this order, if sorted
	text  func(b []byte, s *Snapshot, i int) []byte

	left   bool
	sorted bool
}

const unknown = "-"

var flowColumns = []column{
	{title: "RATE", width: 12, text: func(b []byte, s *Snapshot, i int) []byte {
		r := s.Rows[i]
		return appendRate(b, r.Rate, r.Rated && s.Counted)
	}},
	{title: "BYTES", width: 10, text: func(b []byte, s *Snapshot, i int) []byte {
		return appendBytes(b, s.Rows[i].bytes(), s.Counted)
	}},
	{title: "PACKETS", width: 10, from: 120, sort: Count, sorted: true, text: func(b []byte, s *Snapshot, i int) []byte {
		if !s.Counted {
			return append(b, unknown...)
		}
		return append(b, thousands(int(s.Rows[i].packets()))...)
	}},
	{title: "AGE", width: 7, from: 100, sort: Age, sorted: true, text: func(b []byte, s *Snapshot, i int) []byte {
		return appendAge(b, s.Rows[i].Start, s.Now)
	}},
	{title: "PROTO", width: 6, left: true, text: func(b []byte, s *Snapshot, i int) []byte {
		return append(b, s.Rows[i].Orig.Proto.String()...)
	}},
	{title: "STATE", width: 11, from: 110, left: true, text: func(b []byte, s *Snapshot, i int) []byte {
		return append(b, show.State(s.Rows[i].Flow)...)
	}},
	{title: "FLOW", left: true, text: func(b []byte, s *Snapshot, i int) []byte {
		return show.AppendNotes(show.AppendPath(b, s.Rows[i].Flow), s.Rows[i].Flow)
	}},
}

var groupColumns = []column{
	{title: "FLOWS", width: 10, text: func(b []byte, s *Snapshot, i int) []byte {
		b = append(b, thousands(s.Groups[i].Flows)...)
		if s.AtLeast {
			b = append(b, '+')
		}
		return b
	}},
	{title: "UNREPLIED", width: 10, from: 70, text: func(b []byte, s *Snapshot, i int) []byte {
		return append(b, thousands(s.Groups[i].Unreplied)...)
	}},
	{title: "RATE", width: 12, text: func(b []byte, s *Snapshot, i int) []byte {
		return appendRate(b, s.Groups[i].Rate, s.Rated && s.Counted)
	}},
	{title: "BYTES", width: 10, text: func(b []byte, s *Snapshot, i int) []byte {
		return appendBytes(b, s.Groups[i].Bytes, s.Counted)
	}},
	{title: "OLDEST", width: 7, from: 100, sort: Age, sorted: true, text: func(b []byte, s *Snapshot, i int) []byte {
		return appendAge(b, s.Groups[i].Oldest, s.Now)
	}},
	{left: true, text: func(b []byte, s *Snapshot, i int) []byte {
		return append(b, groupName(s.Groups[i].Key)...)
	}},
}

// groupName is what a group is called. Zone 0 is the one without a name.
func groupName(k tally.Key) string { return oneline.Value(k.String()) }

func appendRate(b []byte, rate float64, known bool) []byte {
	if !known {
		return append(b, unknown...)
	}
	return append(show.AppendBytes(b, uint64(rate)), "/s"...)
}

func appendBytes(b []byte, n uint64, known bool) []byte {
	if !known {
		return append(b, unknown...)
	}
	return show.AppendBytes(b, n)
}

func appendAge(b []byte, start, now time.Time) []byte {
	if start.IsZero() {
		return append(b, unknown...)
	}
	return show.AppendDuration(b, max(0, now.Sub(start)))
}

// columnsFor returns the columns that a screen has room for.
func columnsFor(s *Snapshot, width int) []column {
	all := flowColumns
	if s.View != Flows {
		all = groupColumns
	}
	var out []column
	for _, c := range all {
		if width >= c.from || c.sorted && c.sort == s.Sort {
			out = append(out, c)
		}
	}
	if last := &out[len(out)-1]; last.title == "" {
		last.title = strings.ToUpper(s.View.String())
	}
	return out
}

// gutter is in front of each row: the cursor, the mark, a blank.
const gutter = "   "

func head(cols []column) string {
	b := []byte(gutter)
	for _, c := range cols {
		b = c.append(b, []byte(c.title))
	}
	return string(b)
}

// rowText is a row without its gutter.
func rowText(cols []column, s *Snapshot, i int) string {
	var b, cell []byte
	for _, c := range cols {
		cell = c.text(cell[:0], s, i)
		b = c.append(b, cell)
	}
	return string(b)
}

// append appends a cell, and a blank.
func (c *column) append(b, cell []byte) []byte {
	fill := strings.Repeat(" ", max(0, c.width-ansi.StringWidth(string(cell))))
	switch {
	case c.width == 0:
		return append(b, cell...)
	case c.left:
		return append(append(append(b, cell...), fill...), ' ')
	}
	return append(append(append(b, fill...), cell...), ' ')
}

// drawRow draws a row: the cursor shows by its sign, and by inversion where the
// terminal has that.
func (m *model) drawRow(cols []column, i int) string {
	at, marked := " ", " "
	_, isMarked := m.marks[m.keyOf(i)]
	if i == m.at.index {
		at = ">"
	}
	if isMarked {
		marked = "*"
	}
	text := at + marked + " " + rowText(cols, m.snap, i)
	switch {
	case i == m.at.index:
		return invert + pad(ansi.Truncate(text, m.width, ""), m.width) + normal
	case isMarked:
		return yellow + text + normal
	}
	return text
}
