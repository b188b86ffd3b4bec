package selector

import (
	"strings"

	"flowcut/internal/oneline"
)

// Error says why words on a command line are no selector.
//
// It is always the user's mistake: nothing was asked of the kernel yet.
// Err is the cause where there is one, such as a file that does not open.
type Error struct {
	Flag    string // long name without dashes; empty for a word without a flag
	Value   string // the part of the value that is wrong, may be empty
	Problem string // what is wrong with it
	Hint    string // what to do instead, may be empty
	Err     error
}

// Error returns the mistake and the hint in one line.
func (e *Error) Error() string {
	if e.Hint == "" {
		return "selector: " + e.What()
	}
	return "selector: " + e.What() + ": " + e.Hint
}

// What returns the mistake alone, without the hint, for a line of its own.
func (e *Error) What() string {
	var b strings.Builder
	if e.Flag != "" {
		b.WriteString("--" + e.Flag)
	}
	if e.Value != "" {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(oneline.Value(e.Value))
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(e.Problem)
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return oneline.Text(b.String())
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// wrong is an Error about a value; the flag's name is filled in by the caller.
func wrong(value, problem, hint string) *Error {
	return &Error{Value: value, Problem: problem, Hint: hint}
}
