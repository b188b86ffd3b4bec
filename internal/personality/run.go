// Package personality answers to the command lines of conntrack(8).
//
// A command line is parsed into a line (line.go) by the grammar in two tables
// (matrix.go, protocol.go). What selects flows becomes a selection
// (selection.go), which stands on selector and conntrack; the commands are in
// the files called after them, and what they print comes from package
// conntrack8. Where conntrack(8) is known to do harm or to be wrong, this does
// the right thing: the man page has the list.
package personality

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"unicode"
	"unicode/utf8"

	"flowcut/conntrack"
	"flowcut/internal/conntrack8"
	"flowcut/internal/oneline"
)

// version is the version of conntrack-tools that this answers as.
const version = "1.4.9"

// outputSize is how much is written at once.
const outputSize = 64 << 10

// Config is what the personality runs with.
type Config struct {
	Args           []string // without the program's name
	Stdin          io.Reader
	Stdout, Stderr io.Writer

	Version string // of flowcut, for messages
	Hint    string // printed on Stderr after -D deleted entries; "" for none
}

// Run runs one command line and returns conntrack(8)'s exit code: 0 done, 1
// failed or nothing found, 2 wrong usage, with nothing changed. A signal ends
// -E with 0; other commands it ends early, and the caller knows the code.
func Run(ctx context.Context, c Config) int {
	w := newPatientWriter(ctx, c.Stdout.Write)
	defer w.close()
	s := &session{ctx: ctx, config: c, out: bufio.NewWriterSize(w, outputSize)}
	err := s.run()
	if ended := s.end(); err == nil {
		err = ended
	}
	if flushed := s.flushOut(); err == nil {
		err = flushed
	}
	if s.client != nil {
		err = errors.Join(err, s.client.Close())
	}
	return s.report(err)
}

// session is one run of the program.
type session struct {
	ctx    context.Context
	config Config
	out    *bufio.Writer
	client *conntrack.Client

	shown int    // entries, or events
	batch bool   // -R: no summaries
	foot  []byte // what ends the document that was begun
	buf   []byte
	mute  error // why nothing is printed any more of what is changed
}

// problem is an error that ends the program with a code.
type problem struct {
	code int
	text string
}

func (p *problem) Error() string { return p.text }

// usage returns the error of a wrong command line.
func usage(format string, args ...any) error { return &problem{2, fmt.Sprintf(format, args...)} }

// failure returns the error of a command that failed.
func failure(format string, args ...any) error { return &problem{1, fmt.Sprintf(format, args...)} }

// errNothing ends the program with code 1 and no word: nothing was found.
var errNothing = &problem{code: 1}

// run finds out what is asked for and does it.
func (s *session) run() error {
	a := s.config.Args
	if len(a) > 1 && (a[0] == "-R" || a[0] == "--load-file") {
		return s.load(a[1])
	}
	l, err := s.parse(a)
	if err != nil {
		return err
	}
	if l.command == nil {
		return s.help(l)
	}
	return s.do(l)
}

// parse parses a line and prints its warnings.
func (s *session) parse(args []string) (*line, error) {
	l, err := parse(args)
	for _, w := range l.warnings {
		s.say("%s\n", w)
	}
	if err == nil {
		err = s.resolveLabels(l)
	}
	return l, err
}

// do runs the command of a line, and sums up.
func (s *session) do(l *line) error {
	s.shown = 0
	if err := l.command.run(s, l); err != nil {
		return err
	}
	err := errors.Join(s.mute, s.end(), s.flushOut())
	s.mute = nil
	if l.command.changes() && errors.Is(err, syscall.EPIPE) {
		err = nil // the work is done, whoever looks at it
	}
	if err != nil && !l.command.changes() || l.command.done == "" || s.batch {
		return err
	}
	s.message("%d %s.", s.shown, l.command.done)
	switch {
	case err != nil:
		return err
	case s.shown == 0 && l.command.short != 'L' && l.command.short != 'E':
		return errNothing
	case l.command.short == 'D' && s.config.Hint != "":
		s.say("%s\n", s.config.Hint)
	}
	return nil
}

// changes tells whether the command changes flows that it prints.
func (c *command) changes() bool { return c.short == 'D' || c.short == 'U' }

// dial opens the client of the session.
func (s *session) dial() (*conntrack.Client, error) {
	if s.client != nil {
		return s.client, nil
	}
	c, err := conntrack.Dial(conntrack.Config{})
	if err != nil {
		return nil, failure("Can't open netlink socket: %v", err)
	}
	s.client = c
	return c, nil
}

// say prints words on the standard error.
func (s *session) say(format string, args ...any) {
	_, _ = fmt.Fprintf(s.config.Stderr, format, args...) // nobody is left to hear of it
}

// message prints a line on the standard error that says who speaks.
func (s *session) message(format string, args ...any) {
	s.say("conntrack v%s (flowcut%s): %s\n", version, suffix(s.config.Version), oneline.Text(fmt.Sprintf(format, args...)))
}

func suffix(version string) string {
	if version == "" {
		return ""
	}
	return " " + version
}

// report prints an error and returns the code for it.
func (s *session) report(err error) int {
	p, ok := errors.AsType[*problem](err)
	switch {
	case err == nil, errors.Is(err, syscall.EPIPE):
		return 0
	case s.ctx.Err() != nil:
		return 1 // the signal says enough
	case !ok:
		p = &problem{1, cause(err)}
	}
	if p.text != "" {
		s.message("%s", p.text)
	}
	if p.code == 2 {
		s.say("Try `conntrack -h' or 'conntrack --help' for more information.\n")
	}
	return p.code
}

// print prints a line of the standard output.
func (s *session) print(b []byte) error {
	s.buf = append(b, '\n')
	_, err := s.out.Write(s.buf)
	return err
}

// tell prints a line about a flow that was changed. That it cannot be printed
// stops no work.
func (s *session) tell(b []byte) {
	if s.mute == nil {
		s.mute = s.print(b)
	}
}

// begin prints the head of a document of a table's entries.
func (s *session) begin(f *conntrack8.Format, table string) error {
	s.foot = f.AppendEnd(nil, table)
	_, err := s.out.Write(f.AppendBegin(s.buf[:0], table))
	return err
}

// end prints the foot of the document that was begun, if one was.
func (s *session) end() error {
	_, err := s.out.Write(s.foot)
	s.foot = nil
	return err
}

func (s *session) flushOut() error { return s.out.Flush() }

// operation turns the kernel's refusal of what a command asked for into
// conntrack(8)'s words.
func operation(letter byte, err error) error {
	no, ok := errors.AsType[syscall.Errno](err)
	if _, done := errors.AsType[*problem](err); err == nil || done || !ok || errors.Is(err, syscall.EPIPE) {
		return err
	}
	return failure("Operation failed: %s", refusal(letter, no))
}

// refusal returns the words for an error number. Commands on expectations have
// their letter in small.
func refusal(letter byte, no syscall.Errno) string {
	in := func(letters string) bool {
		for i := range len(letters) {
			if letters[i] == letter {
				return true
			}
		}
		return false
	}
	switch {
	case no == syscall.EINVAL && letter != 'A':
		return "invalid parameters"
	case no == syscall.EEXIST && in("I"):
		return "Such conntrack exists, try -U to update"
	case no == syscall.ENOENT && in("IGDA"):
		return "such conntrack doesn't exist"
	case no == syscall.ENOMEM && in("IGA"):
		return "not enough memory"
	case no == syscall.EAFNOSUPPORT && in("G"):
		return "protocol not supported"
	case no == syscall.ETIME && in("IA"):
		return "conntrack has expired"
	case no == syscall.ENOENT && in("i"):
		return "master conntrack not found"
	case no == syscall.EPERM:
		return "sorry, you must be root or get CAP_NET_ADMIN capability to do this"
	}
	return cause(no)
}

// cause returns an error in the words of the C library, which begin with a
// capital.
func cause(err error) string {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		err = p.Err
	}
	text := err.Error()
	if _, ok := errors.AsType[syscall.Errno](err); !ok {
		return text
	}
	r, n := utf8.DecodeRuneInString(text)
	return string(unicode.ToUpper(r)) + text[n:]
}
