package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/internal/oneline"
	"flowcut/internal/show"
	"flowcut/selector"
)

// Exit codes.
const (
	codeOK       = 0 // done; proven
	codeFailed   = 1 // failed; not proven
	codeUsage    = 2 // wrong usage, nothing changed
	codeRefused  = 3 // not permitted or not supported here, nothing changed
	codeBySignal = 128
)

// usageError is a mistake on the command line.
type usageError struct {
	what string // one line
	hint string // one line, what to do
}

func (e *usageError) Error() string { return e.what }

// usage returns a usageError.
func usage(hint, format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...), hint}
}

// exitError ends the program with a code. Without an error nothing is printed:
// what there is to say has been said.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// Signal is the cause of a context that a signal ended.
type Signal struct{ Number syscall.Signal }

// Error names the signal.
func (s Signal) Error() string { return s.Number.String() }

// together is how long after a signal another one is taken for the same.
const together = 300 * time.Millisecond

// NotifySignals returns a context that SIGINT, SIGTERM and SIGHUP end, with a
// Signal as its cause; a second signal ends the process, unless it comes with the
// first, as timeout(1) sends it to a process and to its group. What was ignored
// when the process began, as under nohup(1), stays so. From then on writing to a
// closed pipe is an error instead of the end of the process.
//
// It starts a goroutine, which stop ends.
func NotifySignals(parent context.Context) (ctx context.Context, stop func()) {
	signal.Ignore(syscall.SIGPIPE)
	ctx, cancel := context.WithCancelCause(parent)
	c := make(chan os.Signal, 1)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			signal.Notify(c, s)
		}
	}
	go func() {
		select {
		case s := <-c:
			cancel(Signal{s.(syscall.Signal)})
			time.AfterFunc(together, func() { signal.Stop(c) })
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(c)
		cancel(nil)
	}
}

// report prints an error and returns the exit code for it.
func report(ctx context.Context, stderr io.Writer, err error) int {
	code := exitCode(ctx, err)
	if code == codeOK || code >= codeBySignal {
		return code
	}
	if e, ok := errors.AsType[*exitError](err); ok && e.err == nil {
		return code
	}
	what, hint := describe(err)
	fmt.Fprintf(stderr, "flowcut: %s\n", oneline.Text(what))
	if hint != "" {
		fmt.Fprintln(stderr, hint)
	}
	return code
}

// exitCode returns the exit code for an error.
func exitCode(ctx context.Context, err error) int {
	if err == nil {
		return codeOK
	}
	if s, ok := errors.AsType[Signal](context.Cause(ctx)); ok {
		return codeBySignal + int(s.Number)
	}
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	switch {
	case errors.Is(err, errClosedPipe):
		return codeOK
	case isUsage(err):
		return codeUsage
	case errors.Is(err, os.ErrPermission), isUnsupported(err):
		return codeRefused
	}
	return codeFailed
}

// errClosedPipe says that the reader of our output, such as head(1), has enough
// of it. That is no failure.
var errClosedPipe = fmt.Errorf("the reader of the output is gone: %w", syscall.EPIPE)

// pipe is the standard output.
type pipe struct{ io.Writer }

func (p pipe) Write(b []byte) (int, error) {
	n, err := p.Writer.Write(b)
	if errors.Is(err, syscall.EPIPE) {
		err = errClosedPipe
	}
	return n, err
}

func isUsage(err error) bool {
	_, ours := errors.AsType[*usageError](err)
	_, selectors := errors.AsType[*selector.Error](err)
	return ours || selectors
}

func isUnsupported(err error) bool {
	return errors.Is(err, conntrack.ErrNotSupported) || errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EPROTONOSUPPORT) ||
		errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EOPNOTSUPP)
}

// describe returns what went wrong in one line, and what to do in another.
func describe(err error) (what, hint string) {
	if e, ok := errors.AsType[*usageError](err); ok {
		return e.what, e.hint
	}
	if e, ok := errors.AsType[*selector.Error](err); ok {
		return e.What(), e.Hint
	}
	if e, ok := errors.AsType[*cut.TooManyError](err); ok && e.Backend != "" {
		return fmt.Sprintf("at least %s match, more than the %d that a fence of %s takes: nothing was changed", show.Count(e.Found, "flow"), e.Max, e.Backend),
			"cut them in parts, by a narrower selection"
	} else if ok {
		return fmt.Sprintf("at least %s match, more than --max %d: nothing was changed", show.Count(e.Found, "flow"), e.Max),
			"see which with \"flowcut list\" or --dry-run, then narrow the selection or give a larger --max"
	}
	what = strings.ReplaceAll(err.Error(), "\n", "; ")
	switch {
	case errors.Is(err, os.ErrPermission):
		hint = "this needs CAP_NET_ADMIN, to cut CAP_NET_RAW too, and CAP_SYS_ADMIN for --netns: run it as root, or with sudo"
	case errors.Is(err, conntrack.ErrNotSupported):
	case isUnsupported(err):
		hint = "the kernel needs nfnetlink and ctnetlink: load the module nf_conntrack_netlink"
	}
	return what, hint
}
