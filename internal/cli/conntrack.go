package cli

import (
	"net/netip"
	"strconv"
	"time"

	"flowcut/conntrack"
)

// appendConntrack appends the line that conntrack(8) -L prints by default.
//
// Source: the output of conntrack-tools 1.4.7 and 1.4.9.
func appendConntrack(b []byte, f *conntrack.Flow, now time.Time) []byte {
	l := fields{b, len(b)}
	l.proto(f.Orig.Proto)
	if f.Has&conntrack.AttrTimeout != 0 {
		l.number("", uint64(f.Timeout/time.Second))
	}
	l.state(f)
	l.tuple(&f.Orig)
	l.zone("zone-orig=", f.OrigZone)
	l.counters(f, conntrack.AttrOrigCounters, f.OrigCounters)
	if f.Status&conntrack.StatusSeenReply == 0 {
		l.word("[UNREPLIED]")
	}
	l.tuple(&f.Reply)
	l.zone("zone-reply=", f.ReplyZone)
	l.counters(f, conntrack.AttrReplyCounters, f.ReplyCounters)
	l.status(f.Status)
	l.meta(f, now)
	return l.b[:len(l.b)-1] // without the last blank
}

// fields is a line under construction; each field is followed by a blank.
type fields struct {
	b     []byte
	start int
}

func (l *fields) word(w string) {
	l.b = append(append(l.b, w...), ' ')
}

func (l *fields) number(name string, n uint64) {
	l.b = append(strconv.AppendUint(append(l.b, name...), n, 10), ' ')
}

// proto appends the protocol's name, eight wide, and number.
func (l *fields) proto(p conntrack.Proto) {
	name := p.String()
	if name[0] <= '9' {
		name = "unknown"
	}
	l.b = append(l.b, name...)
	for len(l.b) < l.start+8 {
		l.b = append(l.b, ' ')
	}
	l.b = append(l.b, ' ')
	l.number("", uint64(p))
}

func (l *fields) state(f *conntrack.Flow) {
	switch {
	case f.Has&conntrack.AttrTCP != 0:
		l.word(f.TCP.State.String())
	case f.Has&conntrack.AttrSCTP != 0:
		l.word(f.SCTP.State.String())
	case f.Has&conntrack.AttrDCCP != 0:
		l.word(f.DCCP.State.String())
	}
}

func (l *fields) tuple(t *conntrack.Tuple) {
	l.addr("src=", t.Src)
	l.addr("dst=", t.Dst)
	switch {
	case t.HasPorts():
		l.number("sport=", uint64(t.SrcPort))
		l.number("dport=", uint64(t.DstPort))
	case t.Proto == conntrack.ProtoGRE:
		l.b = append(strconv.AppendUint(append(l.b, "srckey=0x"...), uint64(t.SrcPort), 16), ' ')
		l.b = append(strconv.AppendUint(append(l.b, "dstkey=0x"...), uint64(t.DstPort), 16), ' ')
	case t.IsICMP():
		l.number("type=", uint64(t.ICMPType))
		l.number("code=", uint64(t.ICMPCode))
		l.number("id=", uint64(t.ICMPID))
	}
}

// addr appends an address as inet_ntop(3) does, which writes an IPv6 address
// that holds an IPv4 address in its last bytes and nothing before as ::1.2.3.4.
func (l *fields) addr(name string, a netip.Addr) {
	l.b = append(l.b, name...)
	if v6 := a.As16(); a.Is6() && [12]byte(v6[:12]) == [12]byte{} && v6[12]|v6[13] != 0 {
		l.b = append(l.b, "::"...)
		a = netip.AddrFrom4([4]byte(v6[12:]))
	}
	l.b = append(a.AppendTo(l.b), ' ')
}

func (l *fields) zone(name string, z conntrack.Zone) {
	if z != 0 {
		l.number(name, uint64(z))
	}
}

func (l *fields) counters(f *conntrack.Flow, has conntrack.Attr, c conntrack.Counters) {
	if f.Has&has != 0 {
		l.number("packets=", c.Packets)
		l.number("bytes=", c.Bytes)
	}
}

func (l *fields) status(s conntrack.Status) {
	switch {
	case s&conntrack.StatusHWOffload != 0:
		l.word("[HW_OFFLOAD]")
	case s&conntrack.StatusOffload != 0:
		l.word("[OFFLOAD]")
	case s&conntrack.StatusAssured != 0:
		l.word("[ASSURED]")
	}
}

func (l *fields) meta(f *conntrack.Flow, now time.Time) {
	if f.Has&conntrack.AttrMark != 0 {
		l.number("mark=", uint64(f.Mark))
	}
	if f.Has&conntrack.AttrSecMark != 0 {
		l.number("secmark=", uint64(f.SecMark))
	}
	if f.Has&conntrack.AttrSecCtx != 0 {
		l.word("secctx=" + f.SecCtx)
	}
	l.zone("zone=", f.Zone)
	if f.Has&conntrack.AttrStart != 0 {
		l.number("delta-time=", uint64(max(0, now.Sub(f.Start)/time.Second)))
	}
	if f.Has&conntrack.AttrHelper != 0 {
		l.word("helper=" + f.Helper)
	}
	if f.Has&conntrack.AttrUse != 0 {
		l.number("use=", uint64(f.Use))
	}
}
