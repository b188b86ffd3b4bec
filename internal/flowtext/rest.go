package flowtext

import (
	"fmt"
	"math"
	"strings"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/oneline"
)

// part is something that may be behind the two directions, in any order.
type part struct {
	name string // that its word begins with
	read func(l *lineReader, value string) error
}

// parts are those there are.
var parts = []part{
	{"[ASSURED]", status(conntrack.StatusAssured)},
	{"[OFFLOAD]", status(conntrack.StatusOffload)},
	{"[HW_OFFLOAD]", status(conntrack.StatusOffload | conntrack.StatusHWOffload)},
	{"mark=", func(l *lineReader, v string) error {
		l.entry.Flow.Has |= conntrack.AttrMark
		return number(&l.entry.Flow.Mark, "mark=", v, 10, 32)
	}},
	{"secmark=", func(l *lineReader, v string) error {
		l.entry.Flow.Has |= conntrack.AttrSecMark
		return number(&l.entry.Flow.SecMark, "secmark=", v, 10, 32)
	}},
	{"secctx=", func(l *lineReader, v string) error {
		l.entry.Flow.Has |= conntrack.AttrSecCtx
		l.entry.Flow.SecCtx = v
		return nil
	}},
	{"zone=", func(l *lineReader, v string) error {
		err := number(&l.entry.Flow.Zone, "zone=", v, 10, 16)
		if l.entry.Flow.Zone != 0 { // /proc shows 0, too, which is no zone
			l.entry.Flow.Has |= conntrack.AttrZone
		}
		return err
	}},
	{"delta-time=", (*lineReader).age},
	{"[start=", func(l *lineReader, v string) error {
		return l.clock(v, &l.entry.Flow.Start, conntrack.AttrStart)
	}},
	{"[stop=", func(l *lineReader, v string) error {
		return l.clock(v, &l.entry.Flow.Stop, conntrack.AttrStop)
	}},
	{"helper=", func(l *lineReader, v string) error {
		l.entry.Flow.Has |= conntrack.AttrHelper
		l.entry.Flow.Helper = v
		return nil
	}},
	{"use=", func(l *lineReader, v string) error {
		l.entry.Flow.Has |= conntrack.AttrUse
		return number(&l.entry.Flow.Use, "use=", v, 10, 32)
	}},
	{"id=", func(l *lineReader, v string) error {
		l.entry.Flow.Has |= conntrack.AttrID
		return number(&l.entry.Flow.ID, "id=", v, 10, 32)
	}},
	{"labels=", (*lineReader).labels},
	{"labels", func(l *lineReader, _ string) error { // none that is set has a name
		l.entry.Flow.Has |= conntrack.AttrLabels
		return nil
	}},
	{userspace, func(l *lineReader, _ string) error { // who caused the event is told, and is no part of the flow
		l.rest = ""
		return nil
	}},
}

const userspace = "[USERSPACE]"

// more reads one part.
func (l *lineReader) more() error {
	for _, p := range parts {
		if v, ok := l.take(p.name); ok {
			return p.read(l, v)
		}
	}
	return fmt.Errorf("not of a line of conntrack(8): %s", oneline.Value(l.peek()))
}

func status(s conntrack.Status) func(*lineReader, string) error {
	return func(l *lineReader, v string) error {
		if v != "" {
			return fmt.Errorf("not of a line of conntrack(8): %s", oneline.Value(v))
		}
		l.entry.Flow.Status |= s
		return nil
	}
}

// age reads how long the flow has lived, whole seconds. [start= says it better.
func (l *lineReader) age(v string) error {
	var s uint32
	if err := number(&s, "delta-time=", v, 10, 32); err != nil {
		return err
	}
	return l.moment(l.Now.Add(-time.Duration(s)*time.Second), &l.entry.Flow.Start, conntrack.AttrStart)
}

// clock reads a time as ctime(3) writes it, of which v is the first word.
func (l *lineReader) clock(v string, to *time.Time, has conntrack.Attr) error {
	more, rest, ok := strings.Cut(l.rest, "]")
	text := strings.Join(strings.Fields(v+" "+more), " ")
	t, err := time.ParseInLocation("Mon Jan 2 15:04:05 2006", text, l.Location)
	if !ok || err != nil {
		return fmt.Errorf("no time: %s", oneline.Value(text))
	}
	l.rest = strings.TrimLeft(rest, " ")
	return l.moment(t, to, has)
}

// moment takes a time that the kernel can have, which counts nanoseconds from 1970.
func (l *lineReader) moment(t time.Time, to *time.Time, has conntrack.Attr) error {
	if t.Before(time.Unix(0, 0)) || t.After(time.Unix(0, math.MaxInt64)) {
		return fmt.Errorf("no time of a flow: %s", t.Format(time.DateTime))
	}
	l.entry.Flow.Has |= has
	*to = t.UTC()
	return nil
}

// labels reads names, which may have blanks in them and reach up to the end of
// the line or to what follows in an event.
func (l *lineReader) labels(text string) error {
	if l.rest != "" {
		more, _, _ := strings.Cut(" "+l.rest, " "+userspace)
		text += more
	}
	l.rest = ""
	l.entry.Flow.Has |= conntrack.AttrLabels
	if l.Label == nil {
		return nil
	}
	for name := range strings.SplitSeq(text, ",") {
		bit, ok := l.Label(name)
		if !ok {
			continue
		}
		if err := l.entry.Flow.Labels.Set(bit); err != nil {
			return err
		}
	}
	return nil
}
