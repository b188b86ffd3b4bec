package cli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"unicode"

	"flowcut/selector"
)

// maxBatchLine is the length of the longest line of a batch.
const maxBatchLine = 1 << 20

// batch reads selections, one a line: either the flags of a selection with
// blanks between them, or a JSON object as selector.ParseJSON takes it. Empty
// lines, and those that begin with #, are passed over. There are no quotes, and
// no line can name standard input.
type batch struct {
	r    *bufio.Reader
	sets func(family, table, set string) ([]selector.AddrRange, error)
	all  bool // lines need not narrow
	line int  // number of the last one read
}

// selection is one line of a batch.
type selection struct {
	line     int // number, from 1
	text     string
	selector selector.Selector
}

// newBatch reads a batch from a stream. The sets are those of selector.Flags.
func newBatch(r io.Reader, sets func(family, table, set string) ([]selector.AddrRange, error), all bool) *batch {
	return &batch{r: bufio.NewReaderSize(r, maxBatchLine), sets: sets, all: all}
}

// selections yields each line as soon as it is there, until the stream ends. A
// line that is wrong comes with an error that names it, and the next line
// follows; an error of the stream is the last.
func (b *batch) selections() iter.Seq2[selection, error] {
	return func(yield func(selection, error) bool) {
		for {
			text, err := b.next()
			if errors.Is(err, io.EOF) {
				return
			}
			s := selection{line: b.line, text: text}
			_, wrong := errors.AsType[*usageError](err)
			ends := err != nil && !wrong
			if err == nil {
				s.selector, err = b.parse(text)
			}
			if !yield(s, err) || ends {
				return
			}
		}
	}
}

// next returns the next line that has something to say. It is io.EOF behind the
// last one, and a usageError where a line is too long.
func (b *batch) next() (string, error) {
	for {
		raw, err := b.r.ReadSlice('\n')
		if len(raw) == 0 && errors.Is(err, io.EOF) {
			return "", io.EOF
		}
		b.line++
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return "", b.tooLong()
		case err != nil && !errors.Is(err, io.EOF): // half a line may mean something else
			return "", fmt.Errorf("line %d: %w", b.line, err)
		}
		if b.line == 1 {
			raw = bytes.TrimPrefix(raw, []byte("\ufeff")) // byte order mark
		}
		if text := strings.TrimSpace(string(raw)); text != "" && text[0] != '#' {
			return text, nil
		}
	}
}

// tooLong skips the rest of a line. An error of the stream comes up again.
func (b *batch) tooLong() error {
	err := bufio.ErrBufferFull
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = b.r.ReadSlice('\n')
	}
	return usage("make several lines of it, or name a file of addresses in it: --host @FILE",
		"line %d: longer than %d MiB", b.line, maxBatchLine>>20)
}

// parse reads the selection of a line.
func (b *batch) parse(text string) (selector.Selector, error) {
	if strings.ContainsFunc(text, func(c rune) bool { return unicode.IsControl(c) && c != '\t' }) {
		return selector.Selector{}, usage("write text, a line each, that end in a newline", "line %d: it has a control character", b.line)
	}
	var s selector.Selector
	var err error
	flags := selector.Flags{NFT: b.sets}
	if text[0] == '{' {
		s, err = flags.ParseJSON([]byte(text), nil)
	} else {
		s, err = flags.Parse(strings.Fields(text), nil)
	}
	bad, wrong := errors.AsType[*selector.Error](err)
	switch {
	case wrong && bad.Hint == "":
		bad.Hint = "a line has flags of a selection alone, such as --host 192.0.2.1 -p tcp"
	case wrong && strings.ContainsAny(text, `"'`) && text[0] != '{':
		bad.Hint = `write the values without quotes, or the line in JSON, such as {"host": "192.0.2.1"}`
	}
	switch {
	case wrong:
		return selector.Selector{}, usage(bad.Hint, "line %d: %s", b.line, bad.What())
	case err != nil:
		return selector.Selector{}, fmt.Errorf("line %d: %w", b.line, err)
	}
	if needNarrow(s, b.all) != nil {
		return selector.Selector{}, usage("narrow it by an address, a port or the like, or give --all if every such flow is meant",
			"line %d: nothing narrows the selection", b.line)
	}
	return s, nil
}
