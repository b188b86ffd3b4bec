package conntrack

import (
	"errors"
	"fmt"
	"syscall"
)

// ErrClosed is returned by a [Client] or [Listener] that was closed before or
// meanwhile.
var ErrClosed = errors.New("conntrack: client is closed")

// errNoAnswer means that the answer to a request was lost.
var errNoAnswer = errors.New("the kernel's answer was lost")

// ErrNotSupported is what every [NotSupportedError] is for [errors.Is].
var ErrNotSupported = errors.New("conntrack: not supported")

// NotSupportedError says that the running kernel cannot do what was asked.
// Nothing was changed.
type NotSupportedError struct {
	Feature string // such as "flush of one family"
	Kernel  string // the first kernel that can, such as "5.3"; "" if none is known
}

// Error names the feature and the least kernel.
func (e *NotSupportedError) Error() string {
	s := "conntrack: not supported by this kernel: " + e.Feature
	if e.Kernel != "" {
		s += ", needs Linux " + e.Kernel
	}
	return s
}

// Is makes errors.Is(err, ErrNotSupported) true.
func (e *NotSupportedError) Is(target error) bool { return target == ErrNotSupported }

// Error is the kernel's refusal of a request.
type Error struct {
	Op     string        // what was asked, such as "dump", "create", "delete expectation", "CPU statistics"
	Of     string        // what it was asked for, such as a tuple; may be ""
	Errno  syscall.Errno // why not
	Text   string        // the kernel's own words, "" if it sent none
	Offset int           // where in the request the fault is, in bytes; 0 if the kernel did not say
}

// Error returns a text such as
// "conntrack: get udp 10.0.0.1:1 -> 10.0.0.2:2: no such file or directory".
func (e *Error) Error() string {
	s := "conntrack: " + e.Op
	if e.Of != "" {
		s += " " + e.Of
	}
	s += ": " + e.Errno.Error()
	if e.Text != "" {
		s += ": " + e.Text
	}
	if e.Offset != 0 {
		s += fmt.Sprintf(" (at byte %d of the request)", e.Offset)
	}
	return s
}

// Unwrap returns the errno, so that errors.Is finds [os.ErrNotExist] and the like.
func (e *Error) Unwrap() error { return e.Errno }

// newError makes an Error of an answer, nil if that is success.
func newError(op, of string, a answer) error {
	if a.errno == 0 {
		return nil
	}
	return &Error{Op: op, Of: of, Errno: a.errno, Text: a.text, Offset: int(a.offset)}
}
