// Package oneline makes a part of a message of what somebody else wrote, so
// that it neither reaches into a terminal nor hides what the message says.
package oneline

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Most bytes of a value in a message, and of a message.
const (
	mostOfValue = 100
	mostOfText  = 240
)

// Value returns a value as it is where a terminal can show it, else quoted; of a
// long one the beginning.
func Value(s string) string {
	s = cut(s, mostOfValue)
	for _, r := range s {
		if !strconv.IsPrint(r) || r == utf8.RuneError {
			return cut(strconv.Quote(s), mostOfValue+50)
		}
	}
	return s
}

// Text returns a message as one line that a terminal can show; of a long one
// the beginning.
func Text(s string) string { return cut(Whole(cut(s, mostOfText)), mostOfText) }

// Whole returns text as one line that a terminal can show, with \x1b and the
// like for what it cannot.
func Whole(s string) string {
	var b strings.Builder
	for _, r := range s {
		if strconv.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		q := strconv.QuoteRune(r)
		b.WriteString(q[1 : len(q)-1])
	}
	return b.String()
}

// cut returns what fits into a number of bytes, in whole characters.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	const more = "..."
	end := most - len(more)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + more
}
