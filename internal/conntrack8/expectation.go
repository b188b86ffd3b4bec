package conntrack8

import (
	"strconv"
	"time"

	"flowcut/conntrack"
)

// appendExpectation appends an expectation in the form asked for.
func (o *Format) appendExpectation(b []byte, e *conntrack.Expectation, kind conntrack.EventKind) []byte {
	if o.XML {
		return o.appendExpectationXML(b, e, kind)
	}
	if o.Timestamp {
		b = appendBlankPadded(b, o.now())
	}
	l := line(appendKind(b, kind))
	l.number("", uint64(e.Timeout/time.Second))
	l.number("proto=", uint64(e.Tuple.Proto))
	l.tuple(&e.Tuple, "src=", "dst=")
	l.tuple(&e.Mask, "mask-src=", "mask-dst=")
	l.tuple(&e.Master, "master-src=", "master-dst=")
	if e.Zone != 0 {
		l.number("zone=", uint64(e.Zone))
	}
	l.expectFlags(e.Flags)
	l.number("class=", uint64(e.Class))
	if e.Helper != "" {
		l.text("helper=", e.Helper)
	}
	return l[:len(l)-1] // without the last blank
}

// appendBlankPadded appends the time of an expectation, which conntrack(8)
// pads with blanks behind where it pads that of a flow with zeros before.
func appendBlankPadded(b []byte, t time.Time) []byte {
	pad := func(b []byte, n int64, width int) []byte {
		start := len(b)
		for b = strconv.AppendInt(b, n, 10); len(b) < start+width; {
			b = append(b, ' ')
		}
		return b
	}
	b = pad(append(b, '['), t.Unix(), 8)
	b = pad(append(b, '.'), int64(t.Nanosecond()/1000), 6)
	return append(b, "]\t"...)
}

// expectFlags appends the names of flags.
func (l *line) expectFlags(flags conntrack.ExpectFlags) {
	if flags == 0 {
		return
	}
	b := *l
	for _, f := range [...]struct {
		flag conntrack.ExpectFlags
		name string
	}{
		{conntrack.ExpectPermanent, "PERMANENT"},
		{conntrack.ExpectInactive, "INACTIVE"},
		{conntrack.ExpectUserspace, "USERSPACE"},
	} {
		if flags&f.flag == 0 {
			continue
		}
		if len(b) > len(*l) {
			b = append(b, ',')
		}
		b = append(b, f.name...)
	}
	*l = append(b, ' ')
}

// appendExpectationXML appends an expectation as an element, which is called
// flow as well.
func (o *Format) appendExpectationXML(b []byte, e *conntrack.Expectation, kind conntrack.EventKind) []byte {
	x := element(b)
	x.begin(kind)
	x.layer3(e.Tuple.Family())
	x.raw("<expected>")
	x.addrs(&e.Tuple)
	x.raw("</expected><mask>")
	x.addrs(&e.Mask)
	x.raw("</mask><master>")
	x.addrs(&e.Master)
	x.raw("</master></layer3>")
	x.layer4(e.Tuple.Proto)
	x.raw("<expected>")
	x.ports(&e.Tuple)
	x.raw("</expected><mask>")
	x.ports(&e.Mask)
	x.raw("</mask><master>")
	x.ports(&e.Master)
	x.raw("</master></layer4><meta>")
	if e.Helper != "" {
		x.text("helper-name", e.Helper)
	}
	x.number("timeout", uint64(e.Timeout/time.Second))
	x.number("class", uint64(e.Class))
	if e.Zone != 0 {
		x.number("zone", uint64(e.Zone))
	}
	if o.Timestamp {
		x.when(o.local(o.now()))
	}
	if e.Flags&conntrack.ExpectPermanent != 0 {
		x.raw("<permanent/>")
	}
	if e.Flags&conntrack.ExpectInactive != 0 {
		x.raw("<inactive/>")
	}
	if e.Flags&conntrack.ExpectUserspace != 0 {
		x.raw("<userspace/>")
	}
	x.raw("</meta></flow>")
	return x
}
