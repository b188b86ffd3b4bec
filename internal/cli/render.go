package cli

import (
	"io"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/conntrack8"
	"flowcut/internal/show"
)

// renderer prints a stream of flows, a line each, in one of the formats of
// "flowcut list". It keeps no flow.
type renderer interface {
	flow(*conntrack.Flow) error
	end() error
}

// newRenderer returns the renderer of a format; now is what ages count to.
func newRenderer(w io.Writer, format string, now time.Time) renderer {
	switch format {
	case "json":
		return &lines{w: w, append: func(b []byte, f *conntrack.Flow) []byte {
			return f.AppendJSON(b)
		}}
	case "conntrack":
		o := conntrack8.Format{Now: func() time.Time { return now }}
		return &lines{w: w, append: func(b []byte, f *conntrack.Flow) []byte {
			return o.AppendFlow(b, f, conntrack8.Listed)
		}}
	}
	return &table{lines{w: w, append: func(b []byte, f *conntrack.Flow) []byte {
		return show.AppendRow(b, f, now)
	}}, false}
}

// lines prints a line a flow.
type lines struct {
	w      io.Writer
	buf    []byte
	append func([]byte, *conntrack.Flow) []byte
}

func (l *lines) flow(f *conntrack.Flow) error {
	l.buf = append(l.append(l.buf[:0], f), '\n')
	_, err := l.w.Write(l.buf)
	return err
}

func (l *lines) end() error { return nil }

// table prints lines under a header.
type table struct {
	lines
	headed bool
}

func (t *table) flow(f *conntrack.Flow) error {
	if err := t.head(); err != nil {
		return err
	}
	return t.lines.flow(f)
}

func (t *table) end() error { return t.head() }

func (t *table) head() error {
	if t.headed {
		return nil
	}
	t.headed = true
	_, err := io.WriteString(t.w, show.Header)
	return err
}
