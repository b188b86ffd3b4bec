package explain

import (
	"strings"
	"unicode/utf8"

	"flowcut/conntrack"
	"flowcut/internal/show"
)

// Columns of an explanation, which is as wide as a terminal usually is.
const (
	width  = 80
	indent = 12
)

// AppendText appends statements about a flow, for a person to read: the flow, then
// each statement behind its topic, and commands on lines of their own.
func AppendText(b []byte, f *conntrack.Flow, list []Statement, colour bool) []byte {
	if colour {
		b = append(b, bold...)
	}
	b = append(append(b, f.Orig.Proto.String()...), ' ')
	b = show.AppendPath(b, f)
	if colour {
		b = append(b, plain...)
	}
	b = append(b, '\n')
	topic := ""
	for i := range list {
		s := &list[i]
		name := s.Topic
		if name == topic {
			name = ""
		}
		topic = s.Topic
		b = appendStatement(b, name, s.Text, colour)
		if s.Command == "" {
			continue
		}
		b = append(b, strings.Repeat(" ", indent+2)...)
		if colour {
			b = append(b, bold...)
		}
		b = append(b, s.Command...)
		if colour {
			b = append(b, plain...)
		}
		b = append(b, '\n')
	}
	return b
}

const (
	bold  = "\x1b[1m"
	cyan  = "\x1b[36m"
	plain = "\x1b[0m"
)

// appendStatement appends text behind a topic, in lines that keep to the width.
func appendStatement(b []byte, topic, text string, colour bool) []byte {
	b = append(b, ' ')
	if colour && topic != "" {
		b = append(append(append(b, cyan...), topic...), plain...)
	} else {
		b = append(b, topic...)
	}
	b = append(b, strings.Repeat(" ", indent-1-len(topic))...)
	column := indent
	for i, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case column+1+n > width:
			b = append(append(b, '\n'), strings.Repeat(" ", indent)...)
			column = indent
		default:
			b = append(b, ' ')
			column++
		}
		b = append(b, word...)
		column += n
	}
	return append(b, '\n')
}
