package conntrack8

import (
	"net/netip"
	"strconv"
	"time"

	"flowcut/conntrack"
)

// appendLine appends the line of a flow, with its prefix if it is an event's.
func (o *Format) appendLine(b []byte, f *conntrack.Flow, kind conntrack.EventKind) []byte {
	l := line(appendKind(b, kind))
	if o.Extended {
		l.family(f.Orig.Family())
	}
	l.proto(f.Orig.Proto)
	if f.Has&conntrack.AttrTimeout != 0 {
		l.number("", uint64(f.Timeout/time.Second))
	}
	if s := stateName(f); s != "" {
		l.word(s)
	}
	l.tuple(&f.Orig, "src=", "dst=")
	if f.Has&conntrack.AttrOrigZone != 0 {
		l.number("zone-orig=", uint64(f.OrigZone))
	}
	l.counters(f, conntrack.AttrOrigCounters, f.OrigCounters)
	if f.Has&conntrack.AttrStatus != 0 && f.Status&conntrack.StatusSeenReply == 0 {
		l.word("[UNREPLIED]")
	}
	l.tuple(&f.Reply, "src=", "dst=")
	if f.Has&conntrack.AttrReplyZone != 0 {
		l.number("zone-reply=", uint64(f.ReplyZone))
	}
	l.counters(f, conntrack.AttrReplyCounters, f.ReplyCounters)
	l.status(f)
	l.marks(f)
	l.times(o, f)
	if f.Has&conntrack.AttrHelper != 0 {
		l.text("helper=", f.Helper)
	}
	if f.Has&conntrack.AttrUse != 0 {
		l.number("use=", uint64(f.Use))
	}
	if o.ID && f.Has&conntrack.AttrID != 0 {
		l.number("id=", uint64(f.ID))
	}
	l.labels(o, f)
	return l[:len(l)-1] // without the last blank
}

// appendKind appends the prefix of an event, ten wide.
func appendKind(b []byte, kind conntrack.EventKind) []byte {
	switch kind {
	case conntrack.EventNew:
		return append(b, "    [NEW] "...)
	case conntrack.EventUpdate:
		return append(b, " [UPDATE] "...)
	case conntrack.EventDestroy:
		return append(b, "[DESTROY] "...)
	}
	return b
}

// line is a line under construction; each field is followed by a blank.
type line []byte

func (l *line) word(w string) {
	*l = append(append(*l, w...), ' ')
}

func (l *line) text(name, s string) {
	*l = append(appendPrintable(append(*l, name...), s), ' ')
}

func (l *line) number(name string, n uint64) {
	*l = append(strconv.AppendUint(append(*l, name...), n, 10), ' ')
}

func (l *line) hex(name string, n uint16) {
	*l = append(strconv.AppendUint(append(*l, name...), uint64(n), 16), ' ')
}

// name appends a name, eight wide, and its number.
func (l *line) name(name string, n uint8) {
	*l = append(*l, name...)
	for i := len(name); i < 8; i++ {
		*l = append(*l, ' ')
	}
	*l = append(*l, ' ')
	l.number("", uint64(n))
}

func (l *line) family(f conntrack.Family)   { l.name(familyName(f), uint8(f)) }
func (l *line) proto(p conntrack.Proto)     { l.name(protoName(p), uint8(p)) }
func (l *line) addr(n string, a netip.Addr) { *l = append(appendAddr(append(*l, n...), a), ' ') }

// tuple appends addresses, if there are any, and what the protocol has.
func (l *line) tuple(t *conntrack.Tuple, src, dst string) {
	if t.Src.IsValid() {
		l.addr(src, t.Src)
		l.addr(dst, t.Dst)
	}
	switch {
	case t.HasPorts():
		l.number("sport=", uint64(t.SrcPort))
		l.number("dport=", uint64(t.DstPort))
	case t.Proto == conntrack.ProtoGRE:
		l.hex("srckey=0x", t.SrcPort)
		l.hex("dstkey=0x", t.DstPort)
	case t.IsICMP():
		l.number("type=", uint64(t.ICMPType))
		l.number("code=", uint64(t.ICMPCode))
		l.number("id=", uint64(t.ICMPID))
	}
}

func (l *line) counters(f *conntrack.Flow, has conntrack.Attr, c conntrack.Counters) {
	if f.Has&has != 0 {
		l.number("packets=", c.Packets)
		l.number("bytes=", c.Bytes)
	}
}

// status appends the one word that says most.
func (l *line) status(f *conntrack.Flow) {
	switch {
	case f.Has&conntrack.AttrStatus == 0:
	case f.Status&conntrack.StatusHWOffload != 0:
		l.word("[HW_OFFLOAD]")
	case f.Status&conntrack.StatusOffload != 0:
		l.word("[OFFLOAD]")
	case f.Status&conntrack.StatusAssured != 0:
		l.word("[ASSURED]")
	}
}

func (l *line) marks(f *conntrack.Flow) {
	if f.Has&conntrack.AttrMark != 0 {
		l.number("mark=", uint64(f.Mark))
	}
	if f.Has&conntrack.AttrSecMark != 0 {
		l.number("secmark=", uint64(f.SecMark))
	}
	if f.Has&conntrack.AttrSecCtx != 0 {
		l.text("secctx=", f.SecCtx)
	}
	if f.Has&conntrack.AttrZone != 0 {
		l.number("zone=", uint64(f.Zone))
	}
}

// times appends the age, counted in seconds of the clock as the original
// does, and start and stop.
func (l *line) times(o *Format, f *conntrack.Flow) {
	if f.Has&conntrack.AttrStart != 0 {
		end := f.Stop.Unix()
		if f.Has&conntrack.AttrStop == 0 {
			end = o.now().Unix()
		}
		l.number("delta-time=", uint64(max(0, end-f.Start.Unix())))
	}
	if !o.KTimestamp {
		return
	}
	if f.Has&conntrack.AttrStart != 0 {
		l.clock("[start=", o.local(f.Start))
	}
	if f.Has&conntrack.AttrStop != 0 {
		l.clock("[stop=", o.local(f.Stop))
	}
}

// clock appends a time as ctime(3) writes it.
func (l *line) clock(name string, t time.Time) {
	*l = append(t.AppendFormat(append(*l, name...), time.ANSIC), "] "...)
}

// labels appends the names of labels. If none has a name, the line ends in
// the bare word, which is what the original makes of it.
func (l *line) labels(o *Format, f *conntrack.Flow) {
	if o.LabelName == nil || f.Has&conntrack.AttrLabels == 0 {
		return
	}
	b := append(*l, "labels="...)
	for n := range conntrack.NumLabels {
		if name := o.labelName(f, n); name != "" {
			b = append(append(b, name...), ',')
		}
	}
	b[len(b)-1] = ' ' // the last comma, or the sign of equality
	*l = b
}

// labelName returns the name of label n if the flow has it and it has one.
func (o *Format) labelName(f *conntrack.Flow, n int) string {
	if !f.Labels.Test(n) {
		return ""
	}
	return o.LabelName(n)
}
