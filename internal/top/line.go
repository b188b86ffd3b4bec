package top

import (
	"strconv"
	"strings"

	tea "charm.land/bubbletea/v2"
)

// line is a line that is typed.
type line struct {
	text []rune
	pos  int
}

func newLine(s string) line { return line{[]rune(s), len([]rune(s))} }

func (l *line) String() string { return string(l.text) }

// key takes a key. It returns whether the text has changed.
func (l *line) key(k tea.KeyPressMsg) bool {
	n := len(l.text)
	switch k.String() {
	case "left":
		l.pos = max(0, l.pos-1)
	case "right":
		l.pos = min(n, l.pos+1)
	case "home", "ctrl+a":
		l.pos = 0
	case "end", "ctrl+e":
		l.pos = n
	case "backspace", "ctrl+h":
		l.cut(max(0, l.pos-1), l.pos)
	case "delete", "ctrl+d":
		l.cut(l.pos, min(n, l.pos+1))
	case "ctrl+u":
		l.cut(0, l.pos)
	case "ctrl+k":
		l.cut(l.pos, n)
	case "ctrl+w":
		before := strings.TrimRight(string(l.text[:l.pos]), " ")
		l.cut(len([]rune(before[:strings.LastIndexByte(before, ' ')+1])), l.pos)
	default:
		return l.insert(k.Text)
	}
	return len(l.text) != n
}

func (l *line) cut(from, to int) {
	l.text = append(l.text[:from:from], l.text[to:]...)
	l.pos = from
}

// insert puts text in, without what a terminal cannot show.
func (l *line) insert(s string) bool {
	var in []rune
	for _, r := range s {
		switch {
		case strconv.IsPrint(r):
			in = append(in, r)
		case r == '\n' || r == '\t':
			in = append(in, ' ')
		}
	}
	l.text = append(l.text[:l.pos:l.pos], append(in, l.text[l.pos:]...)...)
	l.pos += len(in)
	return len(in) > 0
}
