package watch

import (
	"strconv"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/conntrack8"
	"flowcut/internal/returns"
	"flowcut/internal/show"
)

// word names the kind of an event. A flow whose beginning was lost in an overrun
// and that the listing has is new.
func word(k conntrack.EventKind) string {
	if k == conntrack.EventSync {
		k = conntrack.EventNew
	}
	return k.String()
}

// lived returns how long a flow lived that an event ends; ok is false if that is
// not known.
func lived(f *conntrack.Flow, v *returns.Verdict) (d time.Duration, ok bool) {
	if f.Has&conntrack.AttrStart != 0 && f.Has&conntrack.AttrStop != 0 {
		return max(0, f.Stop.Sub(f.Start)), true
	}
	return max(0, v.At.Sub(v.Began)), !v.Began.IsZero()
}

// conntrack8 has no word for returns.
func appendConntrack(b []byte, e *conntrack.Event, _ *returns.Verdict) []byte {
	var format conntrack8.Format
	if e.Kind == conntrack.EventSync {
		e.Kind = conntrack.EventNew
	}
	return format.AppendEvent(b, e, "")
}

// Columns of a line of text.
const (
	colEvent = 14
	colProto = 23
	colState = 32
	colFlow  = 45
)

// text renders lines for a person.
type text struct{ colour bool }

func (t text) append(b []byte, e *conntrack.Event, v *returns.Verdict) []byte {
	start, f := len(b), e.Flow
	b = v.At.Local().AppendFormat(b, "15:04:05.000")
	b = pad(b, start+colEvent)
	paint := ""
	if t.colour && word(e.Kind) == "new" {
		paint = show.Green
	}
	b = t.paint(b, paint, word(e.Kind))
	if paint != "" {
		start += len(paint) + len(show.Normal)
	}
	b = append(pad(b, start+colProto), f.Orig.Proto.String()...)
	b = append(pad(b, start+colState), show.State(f)...)
	b = show.AppendPath(pad(b, start+colFlow), f)
	b = show.AppendNotes(b, f)
	if e.Kind == conntrack.EventDestroy {
		b = appendEnd(b, e, v)
	}
	if v.Returned {
		b = t.appendReturn(append(b, "  "...), e, v)
	}
	return b
}

func (t text) paint(b []byte, paint, s string) []byte {
	if !t.colour || paint == "" {
		return append(b, s...)
	}
	return append(append(append(b, paint...), s...), show.Normal...)
}

// pad appends blanks up to a length, one at least.
func pad(b []byte, to int) []byte {
	b = append(b, ' ')
	for len(b) < to {
		b = append(b, ' ')
	}
	return b
}

// appendEnd appends what is known at the end of a flow.
func appendEnd(b []byte, e *conntrack.Event, v *returns.Verdict) []byte {
	join := "  "
	if d, ok := lived(e.Flow, v); ok {
		b = appendSpan(append(append(b, join...), "lived "...), d)
		join = ", "
	}
	if e.Flow.Has&(conntrack.AttrOrigCounters|conntrack.AttrReplyCounters) != 0 {
		b = show.AppendBytes(append(b, join...), e.Flow.OrigCounters.Bytes+e.Flow.ReplyCounters.Bytes)
		join = ", "
	}
	if e.PortID != 0 {
		b = append(append(b, join...), "deleted by a program"...)
	}
	return b
}

// appendReturn marks a return; its first event has the story.
func (t text) appendReturn(b []byte, e *conntrack.Event, v *returns.Verdict) []byte {
	b = t.paint(b, show.Red, "RETURNED")
	l := v.Earlier
	if l == nil || !v.First {
		return b
	}
	switch {
	case l.Ended.IsZero():
		b = append(b, ", its entry had gone unannounced"...)
	case l.Program != 0:
		b = append(appendSpan(append(b, ", "...), v.At.Sub(l.Ended)), " after a program deleted its entry"...)
	default:
		b = append(appendSpan(append(b, ", "...), v.At.Sub(l.Ended)), " after its entry ended"...)
	}
	b = show.AppendPath(append(b, " (was "...), &l.Flow)
	if !l.Ended.IsZero() && !l.Began.IsZero() {
		b = appendSpan(append(b, ", lived "...), l.Ended.Sub(l.Began))
	}
	if n, ok := l.Bytes(); ok {
		b = show.AppendBytes(append(b, ", "...), n)
	}
	return append(b, ')')
}

// appendSpan appends a time, to a tenth of a second if it is short.
func appendSpan(b []byte, d time.Duration) []byte {
	switch d = max(0, d); {
	case d < time.Millisecond:
		return append(b, "under 1ms"...)
	case d < time.Second:
		return append(strconv.AppendInt(b, d.Milliseconds(), 10), "ms"...)
	case d < time.Minute:
		return append(strconv.AppendFloat(b, float64(d/(100*time.Millisecond))/10, 'f', 1, 64), 's')
	}
	return show.AppendDuration(b, d)
}

// appendBegin appends what all lines of JSON begin with.
func appendBegin(b []byte, event string, v *returns.Verdict) []byte {
	b = append(append(append(b, `{"event":"`...), event...), '"')
	return appendTime(b, "time", v.At)
}

// AppendJSON appends an event of a flow as one JSON object; flowcut(8) has its
// fields.
func AppendJSON(b []byte, e *conntrack.Event, v *returns.Verdict) []byte {
	b = appendBegin(b, word(e.Kind), v)
	b = strconv.AppendBool(append(b, `,"returned":`...), v.Returned)
	if e.PortID != 0 {
		b = appendNumber(b, "portid", uint64(e.PortID))
	}
	if e.Kind == conntrack.EventDestroy {
		if d, ok := lived(e.Flow, v); ok {
			b = appendNumber(b, "duration_ms", uint64(d.Milliseconds()))
		}
	}
	if v.Earlier != nil {
		b = appendLife(append(b, `,"earlier":`...), v.Earlier)
	}
	b = e.Flow.AppendJSON(append(b, `,"flow":`...))
	return append(b, '}')
}

// appendLife renders an earlier life as one JSON object.
func appendLife(b []byte, l *returns.Life) []byte {
	b = l.Flow.Orig.AppendJSON(append(b, `{"orig":`...))
	b = l.Flow.Reply.AppendJSON(append(b, `,"reply":`...))
	if z := l.Flow.Zone | l.Flow.OrigZone | l.Flow.ReplyZone; z != 0 {
		b = appendNumber(b, "zone", uint64(z))
	}
	b = strconv.AppendBool(append(b, `,"reversed":`...), l.Reversed)
	if !l.Began.IsZero() {
		b = appendTime(b, "began", l.Began)
	}
	if !l.Ended.IsZero() {
		b = appendTime(b, "ended", l.Ended)
	}
	if !l.Began.IsZero() && !l.Ended.IsZero() {
		b = appendNumber(b, "duration_ms", uint64(max(0, l.Ended.Sub(l.Began)).Milliseconds()))
	}
	if l.Program != 0 {
		b = appendNumber(b, "portid", uint64(l.Program))
	}
	if n, ok := l.Packets(); ok {
		b = appendNumber(b, "packets", n)
		n, _ = l.Bytes()
		b = appendNumber(b, "bytes", n)
	}
	return append(b, '}')
}

func appendTime(b []byte, name string, t time.Time) []byte {
	b = append(append(append(b, `,"`...), name...), `":"`...)
	return append(t.UTC().AppendFormat(b, time.RFC3339Nano), '"')
}

func appendNumber(b []byte, name string, n uint64) []byte {
	b = append(append(append(b, `,"`...), name...), `":`...)
	return strconv.AppendUint(b, n, 10)
}
