package conntrack8

import (
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	"flowcut/conntrack"
)

// appendFlowXML appends a flow as an element.
func (o *Format) appendFlowXML(b []byte, f *conntrack.Flow, kind conntrack.EventKind) []byte {
	x := element(b)
	x.begin(kind)
	x.direction("original", &f.Orig)
	if f.Has&conntrack.AttrOrigZone != 0 {
		x.number("zone", uint64(f.OrigZone))
	}
	x.counters(f, conntrack.AttrOrigCounters, f.OrigCounters)
	x.raw("</meta>")
	x.direction("reply", &f.Reply)
	if f.Has&conntrack.AttrReplyZone != 0 {
		x.number("zone", uint64(f.ReplyZone))
	}
	x.counters(f, conntrack.AttrReplyCounters, f.ReplyCounters)
	x.raw(`</meta><meta direction="independent">`)
	if s := stateName(f); s != "" {
		x.text("state", s)
	}
	if f.Has&conntrack.AttrTimeout != 0 {
		x.number("timeout", uint64(f.Timeout/time.Second))
	}
	x.marks(o, f)
	x.entry(f)
	x.times(o, f)
	x.raw("</meta>")
	if o.Timestamp {
		x.when(o.local(o.now()))
	}
	if f.Has&conntrack.AttrHelper != 0 {
		x.text("helper", f.Helper)
	}
	x.raw("</flow>")
	return x
}

// element is an element under construction.
type element []byte

// begin appends the start of a flow or an expectation.
func (x *element) begin(kind conntrack.EventKind) {
	switch kind {
	case conntrack.EventNew:
		x.raw(`<flow type="new">`)
	case conntrack.EventUpdate:
		x.raw(`<flow type="update">`)
	case conntrack.EventDestroy:
		x.raw(`<flow type="destroy">`)
	default:
		x.raw("<flow>")
	}
}

func (x *element) raw(s string) { *x = append(*x, s...) }

func (x *element) open(name string) { *x = append(append(append(*x, '<'), name...), '>') }

func (x *element) close(name string) { *x = append(append(append(*x, "</"...), name...), '>') }

func (x *element) number(name string, n uint64) {
	x.open(name)
	*x = strconv.AppendUint(*x, n, 10)
	x.close(name)
}

func (x *element) text(name, s string) {
	x.open(name)
	*x = appendEscaped(*x, s)
	x.close(name)
}

func (x *element) addr(name string, a netip.Addr) {
	x.open(name)
	*x = appendAddr(*x, a)
	x.close(name)
}

// layer appends the start of a layer.
func (x *element) layer(tag string, n uint8, name string) {
	*x = strconv.AppendUint(append(*x, tag...), uint64(n), 10)
	x.raw(`" protoname="`)
	x.raw(name)
	x.raw(`">`)
}

func (x *element) layer3(f conntrack.Family) {
	x.layer(`<layer3 protonum="`, uint8(f), familyName(f))
}

func (x *element) layer4(p conntrack.Proto) {
	x.layer(`<layer4 protonum="`, uint8(p), protoName(p))
}

func (x *element) addrs(t *conntrack.Tuple) {
	x.addr("src", t.Src)
	x.addr("dst", t.Dst)
}

// ports appends ports or keys; ICMP has nothing in XML.
func (x *element) ports(t *conntrack.Tuple) {
	switch {
	case t.HasPorts():
		x.number("sport", uint64(t.SrcPort))
		x.number("dport", uint64(t.DstPort))
	case t.Proto == conntrack.ProtoGRE:
		x.raw("<srckey>0x")
		*x = strconv.AppendUint(*x, uint64(t.SrcPort), 16)
		x.raw("</srckey><dstkey>0x")
		*x = strconv.AppendUint(*x, uint64(t.DstPort), 16)
		x.raw("</dstkey>")
	}
}

// direction appends a tuple and leaves its meta open.
func (x *element) direction(name string, t *conntrack.Tuple) {
	x.raw(`<meta direction="`)
	x.raw(name)
	x.raw(`">`)
	x.layer3(t.Family())
	x.addrs(t)
	x.raw("</layer3>")
	x.layer4(t.Proto)
	x.ports(t)
	x.raw("</layer4>")
}

func (x *element) counters(f *conntrack.Flow, has conntrack.Attr, c conntrack.Counters) {
	if f.Has&has != 0 {
		x.raw("<counters>")
		x.number("packets", c.Packets)
		x.number("bytes", c.Bytes)
		x.raw("</counters>")
	}
}

func (x *element) marks(o *Format, f *conntrack.Flow) {
	if f.Has&conntrack.AttrMark != 0 {
		x.number("mark", uint64(f.Mark))
	}
	if o.LabelName != nil && f.Has&conntrack.AttrLabels != 0 {
		x.raw("<labels>")
		for n := range conntrack.NumLabels {
			if name := o.labelName(f, n); name != "" {
				x.text("label", name)
			}
		}
		x.raw("</labels>")
	}
	if f.Has&conntrack.AttrSecMark != 0 {
		x.number("secmark", uint64(f.SecMark))
	}
	if f.Has&conntrack.AttrSecCtx != 0 {
		x.text("secctx", f.SecCtx)
	}
	if f.Has&conntrack.AttrZone != 0 {
		x.number("zone", uint64(f.Zone))
	}
}

// entry appends what the kernel says of the entry itself.
func (x *element) entry(f *conntrack.Flow) {
	if f.Has&conntrack.AttrUse != 0 {
		x.number("use", uint64(f.Use))
	}
	if f.Has&conntrack.AttrID != 0 {
		x.number("id", uint64(f.ID))
	}
	if f.Has&conntrack.AttrStatus == 0 {
		return
	}
	if f.Status&conntrack.StatusAssured != 0 {
		x.raw("<assured/>")
	}
	if f.Status&conntrack.StatusSeenReply == 0 {
		x.raw("<unreplied/>")
	}
}

// times appends start and stop, in nanoseconds since 1970, and the age. That
// of a flow that has ended is rounded, other than in a line, after the
// subtraction.
func (x *element) times(o *Format, f *conntrack.Flow) {
	start, stop := f.Has&conntrack.AttrStart != 0, f.Has&conntrack.AttrStop != 0
	if o.KTimestamp && (start || stop) {
		x.raw("<timestamp>")
		if start {
			x.number("start", uint64(f.Start.UnixNano()))
		}
		if stop {
			x.number("stop", uint64(f.Stop.UnixNano()))
		}
		x.raw("</timestamp>")
	}
	if !start {
		return
	}
	age := o.age(f)
	x.number("deltatime", uint64(max(0, age)))
}

// age returns the age of a flow in XML, in seconds.
func (o *Format) age(f *conntrack.Flow) int64 {
	if f.Has&conntrack.AttrStop != 0 {
		return int64(f.Stop.Sub(f.Start) / time.Second)
	}
	return o.now().Unix() - f.Start.Unix()
}

// when appends a time of day; days of the week count from Sunday, which is 1.
func (x *element) when(t time.Time) {
	x.raw("<when>")
	x.number("hour", uint64(t.Hour()))
	x.twoDigits("min", t.Minute())
	x.twoDigits("sec", t.Second())
	x.number("wday", uint64(t.Weekday())+1)
	x.number("day", uint64(t.Day()))
	x.number("month", uint64(t.Month()))
	x.number("year", uint64(t.Year()))
	x.raw("</when>")
}

func (x *element) twoDigits(name string, n int) {
	x.open(name)
	*x = appendPadded(*x, int64(n), 2)
	x.close(name)
}

// appendEscaped appends text so that it is nothing but text in XML. What XML
// has no way to say becomes U+FFFD.
func appendEscaped(b []byte, s string) []byte {
	for _, r := range s { // bytes that are no UTF-8 come as U+FFFD
		switch {
		case r == '&':
			b = append(b, "&amp;"...)
		case r == '<':
			b = append(b, "&lt;"...)
		case r == '>':
			b = append(b, "&gt;"...)
		case r < ' ' && r != '\t' && r != '\n', r == 0xfffe, r == 0xffff:
			b = utf8.AppendRune(b, utf8.RuneError)
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return b
}
