package personality

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Limits of a file of -R, in bytes and words.
const (
	maxLineBytes = 10239
	maxWordBytes = 1023
	maxWords     = 253 // and the name of the program
)

// load is -R: a file of command lines, which are all read before any is run.
// The first that the kernel refuses ends it.
func (s *session) load(path string) error {
	var in io.Reader = patientReader{ctx: s.ctx, read: s.config.Stdin.Read}
	if path != "-" {
		f, err := Within(s.ctx, 0, func() (*os.File, error) { return os.Open(path) }) // waits if it is a FIFO
		if s.ctx.Err() != nil {
			return err
		}
		if err != nil {
			return usage("Failed to open file %s for reading", path)
		}
		defer func() { _ = f.Close() }() // it was only read
		in = patientReader{ctx: s.ctx, read: f.Read}
	}
	lines, err := s.readLines(in)
	if err != nil {
		return err
	}
	s.batch = true
	for _, l := range lines {
		if err := s.do(l); err != nil {
			return err
		}
	}
	return nil
}

// readLines parses the lines of a file.
func (s *session) readLines(in io.Reader) ([]*line, error) {
	var lines []*line
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, maxLineBytes+1)
	sc.Split(scanLines)
	n := 0
	for sc.Scan() {
		n++
		text := strings.TrimLeft(sc.Text(), " \t")
		if text == "" || text[0] == '#' {
			continue
		}
		l, err := s.readLine(text)
		if err != nil {
			return nil, inLine(n, err)
		}
		lines = append(lines, l)
	}
	if err := sc.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, usage("line %d is longer than %d bytes", n+1, maxLineBytes)
	} else if err != nil && s.ctx.Err() != nil {
		return nil, err
	} else if err != nil {
		return nil, usage("read line %d: %s", n+1, cause(err))
	}
	return lines, nil
}

// scanLines is bufio.ScanLines, but for a carriage return, which is of the last
// word: a file from elsewhere is not to be half understood.
func scanLines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// readLine parses one line.
func (s *session) readLine(text string) (*line, error) {
	args, err := splitLine(text)
	if err != nil {
		return nil, err
	}
	l, err := s.parse(args)
	if err == nil && !l.loadable() {
		err = usage("Cannot use command `%s' with --load-file", l.commandText())
	}
	return l, err
}

// inLine says in which line a problem is.
func inLine(n int, err error) error {
	if p, ok := errors.AsType[*problem](err); ok {
		return &problem{p.code, fmt.Sprintf("line %d: %s", n, p.text)}
	}
	return err
}

// loadable tells whether a line's command may stand in a file.
func (l *line) loadable() bool {
	return l.command != nil && !l.command.expect && strings.IndexByte("IAUDF", l.command.short) >= 0
}

// commandText returns the command as one types it.
func (l *line) commandText() string {
	if l.command == nil {
		return "unknown"
	}
	text := "-" + string(l.command.short)
	if l.command.expect {
		text += " expect"
	}
	return text
}

// splitLine takes a line apart into words. Blanks divide words, unless between
// quotes, where \ takes the meaning from the character behind it.
func splitLine(text string) ([]string, error) {
	split := splitPlain
	if strings.IndexByte(text, '"') >= 0 {
		split = splitQuoted
	}
	words, err := split(text)
	if err == nil && len(words) > maxWords {
		return nil, usage("more than %d words", maxWords)
	}
	return words, err
}

// splitPlain takes a line without quotes apart. The words are parts of it.
func splitPlain(text string) ([]string, error) {
	words := make([]string, 0, 1+strings.Count(text, " "))
	start := 0
	for i := range len(text) + 1 {
		if i < len(text) && text[i] != ' ' && text[i] != '\t' {
			continue
		}
		if i-start > maxWordBytes {
			return nil, errLongWord
		}
		if i > start {
			words = append(words, text[start:i])
		}
		start = i + 1
	}
	return words, nil
}

// errLongWord refuses a line.
var errLongWord = usage("a word is longer than %d bytes", maxWordBytes)

// splitQuoted takes a line with quotes apart.
func splitQuoted(text string) ([]string, error) {
	var words []string
	var word []byte
	quoted, escaped := false, false
	for i := range len(text) {
		c := text[i]
		end := false
		switch {
		case escaped:
			word, escaped = append(word, c), false
		case quoted && c == '\\':
			escaped = true
		case quoted && c != '"':
			word = append(word, c)
		case c == '"':
			quoted, end = !quoted, quoted
		case c == ' ' || c == '\t':
			end = len(word) > 0
		default:
			word = append(word, c)
		}
		if len(word) > maxWordBytes {
			return nil, errLongWord
		}
		if end {
			words, word = append(words, string(word)), word[:0]
		}
	}
	if quoted {
		return nil, usage("a quote is not closed: %s", text)
	}
	if len(word) > 0 {
		words = append(words, string(word))
	}
	return words, nil
}
