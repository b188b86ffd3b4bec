// Package conntrack8 shows flows, events and expectations as conntrack(8) does.
//
// [Format] renders them in each form that conntrack(8) has, to the letter of
// conntrack-tools 1.4.9 with libnetfilter_conntrack 1.1.1.
package conntrack8

import (
	"strconv"
	"time"

	"flowcut/conntrack"
)

// Format is what -o asks for. The zero value is the default line.
//
// XML and Save are forms of their own; the fields after them say what a line
// or an element has beyond its usual parts. Values may be copied, and used at
// once if LabelName and Now may.
type Format struct {
	XML  bool // elements of a document, see AppendBegin
	Save bool // options of conntrack(8) that make the entry again; no field below changes it

	Extended   bool // lines begin with the layer 3 protocol
	ID         bool // lines have the ID, as XML always has
	Timestamp  bool // events and expectations have the time at which they are shown
	KTimestamp bool // flows have the kernel's start and stop, in local time

	// LabelName names a label; "" is a label without a name, which is left
	// out. Nil leaves all labels out.
	LabelName func(bit int) string

	// Now is the time that ages count to and Timestamp shows; nil is time.Now.
	Now func() time.Time

	zone *time.Location // of the times of day, nil is time.Local
}

// Done says what has become of a flow that is shown.
type Done uint8

// What becomes of flows.
const (
	Listed  Done = iota // by -L, -G
	Updated             // by -U, which shows no start and stop
	Deleted             // by -D, which shows neither them nor labels
)

// AppendFlow appends a flow as the commands that are no -E show it, without a
// line break.
func (o *Format) AppendFlow(b []byte, f *conntrack.Flow, done Done) []byte {
	if o.Save {
		if done == Deleted {
			return appendSave(b, f, "-D", false)
		}
		return appendSave(b, f, "-A", false)
	}
	s := *o
	s.Timestamp = false
	s.KTimestamp = s.KTimestamp && done == Listed
	if done == Deleted {
		s.LabelName = nil
	}
	if s.XML {
		return s.appendFlowXML(b, f, 0)
	}
	return s.appendLine(b, f, 0)
}

// AppendEvent appends an event as -E shows it, without a line break. program
// is the name of the program that owns the event's port ID, "" if that is not
// known.
func (o *Format) AppendEvent(b []byte, e *conntrack.Event, program string) []byte {
	switch {
	case e.Expect != nil:
		return o.appendExpectation(b, e.Expect, e.Kind)
	case o.XML:
		return o.appendFlowXML(b, e.Flow, e.Kind)
	case o.Save:
		b = appendSave(b, e.Flow, saveCommand(e.Kind), e.Kind == conntrack.EventDestroy)
	default:
		if o.Timestamp {
			b = o.appendEventTime(b, e)
		}
		b = o.appendLine(b, e.Flow, e.Kind)
	}
	if e.PortID != 0 {
		b = strconv.AppendUint(append(b, " [USERSPACE] portid="...), uint64(e.PortID), 10)
		if program != "" {
			b = appendPrintable(append(b, " progname="...), program)
		}
	}
	return b
}

// appendPrintable appends a name, which may be anything, such as a program's, so
// that it cannot pass for a line of its own or reach into a terminal.
func appendPrintable(b []byte, s string) []byte {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			b = append(b, '?')
		} else {
			b = append(b, s[i])
		}
	}
	return b
}

// AppendExpectation appends an expectation as -L shows it, without a line
// break. Save, Extended, ID, KTimestamp and LabelName do not matter.
func (o *Format) AppendExpectation(b []byte, e *conntrack.Expectation) []byte {
	return o.appendExpectation(b, e, 0)
}

// AppendBegin appends what comes before the first entry of a table,
// "conntrack" or "expect", with its line breaks: nothing unless XML.
func (o *Format) AppendBegin(b []byte, table string) []byte {
	if !o.XML {
		return b
	}
	return append(append(append(b, "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<"...), table...), ">\n"...)
}

// AppendEnd appends what comes after the last entry, the counterpart of
// AppendBegin.
func (o *Format) AppendEnd(b []byte, table string) []byte {
	if !o.XML {
		return b
	}
	return append(append(append(b, "</"...), table...), ">\n"...)
}

// now returns the time that ages count to.
func (o *Format) now() time.Time {
	if o.Now == nil {
		return time.Now()
	}
	return o.Now()
}

// local returns t by the clock on the wall.
func (o *Format) local(t time.Time) time.Time {
	if o.zone == nil {
		return t.In(time.Local)
	}
	return t.In(o.zone)
}

// appendEventTime appends when an event was, by the kernel or else by now.
func (o *Format) appendEventTime(b []byte, e *conntrack.Event) []byte {
	t := e.Time
	if t.IsZero() {
		t = o.now()
	}
	b = appendPadded(append(b, '['), t.Unix(), 8)
	b = appendPadded(append(b, '.'), int64(t.Nanosecond()/1000), 6)
	return append(b, "]\t"...)
}

// appendPadded appends n, which is not negative, in width digits at least.
func appendPadded(b []byte, n int64, width int) []byte {
	limit := int64(1)
	for range width - 1 {
		limit *= 10
	}
	for ; limit > 1 && n < limit; limit /= 10 {
		b = append(b, '0')
	}
	return strconv.AppendInt(b, n, 10)
}
