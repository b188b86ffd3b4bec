package conntrack8

import (
	"encoding/binary"
	"net/netip"
	"time"

	"flowcut/conntrack"
)

// saveCommand returns the command that repeats an event.
func saveCommand(kind conntrack.EventKind) string {
	switch kind {
	case conntrack.EventUpdate:
		return "-U"
	case conntrack.EventDestroy:
		return "-D"
	}
	return "-A"
}

// appendSave appends the command line that makes a flow again. Marks, labels
// and helpers are not in it: conntrack(8) leaves them out. ended tells that f
// is what the kernel says of a flow at its end, which is less.
func appendSave(b []byte, f *conntrack.Flow, command string, ended bool) []byte {
	l := line(b)
	l.word(command)
	if f.Has&conntrack.AttrTimeout != 0 {
		l.number("-t ", uint64(f.Timeout/time.Second))
	}
	if f.Has&conntrack.AttrStatus != 0 {
		l.saveStatus(f.Status)
	}
	if f.Has&conntrack.AttrSecMark != 0 {
		l.number("-c ", uint64(f.SecMark))
	}
	if f.Has&conntrack.AttrZone != 0 {
		l.number("-w ", uint64(f.Zone))
	}
	if f.Has&conntrack.AttrOrigZone != 0 {
		l.number("--orig-zone ", uint64(f.OrigZone))
	}
	if f.Has&conntrack.AttrReplyZone != 0 {
		l.number("--reply-zone ", uint64(f.ReplyZone))
	}
	l.saveTuples(f)
	l.saveProto(&f.Orig, f)
	l.saveState(f, ended)
	return l[:len(l)-1] // without the last blank
}

// saveStatus appends -u with the bits that it takes, lowest first.
func (l *line) saveStatus(s conntrack.Status) {
	b := append(*l, "-u "...)
	start := len(b)
	for _, bit := range [...]struct {
		status conntrack.Status
		name   string
	}{
		{conntrack.StatusExpected, "EXPECTED,"},
		{conntrack.StatusSeenReply, "SEEN_REPLY,"},
		{conntrack.StatusAssured, "ASSURED,"},
		{conntrack.StatusFixedTimeout, "FIXED_TIMEOUT,"},
	} {
		if s&bit.status != 0 {
			b = append(b, bit.name...)
		}
	}
	if len(b) == start {
		b = append(b, "UNSET,"...)
	}
	b[len(b)-1] = ' ' // the last comma
	*l = b
}

// saveTuples appends the addresses of both directions, those that NAT made as
// what NAT is to be.
func (l *line) saveTuples(f *conntrack.Flow) {
	translated := func(done conntrack.Status, from, to netip.Addr) bool {
		return from != to && (f.Has&conntrack.AttrStatus == 0 || f.Status&done != 0)
	}
	src, dst := "-r ", "-q "
	if translated(conntrack.StatusDstNATDone, f.Orig.Dst, f.Reply.Src) {
		src = "-g "
	}
	if translated(conntrack.StatusSrcNATDone, f.Orig.Src, f.Reply.Dst) {
		dst = "-n "
	}
	l.addr("-s ", f.Orig.Src)
	l.addr("-d ", f.Orig.Dst)
	if f.Reply.Src.IsValid() {
		l.addr(src, f.Reply.Src)
		l.addr(dst, f.Reply.Dst)
	}
}

// saveProto appends the protocol and what its tuples have.
func (l *line) saveProto(t *conntrack.Tuple, f *conntrack.Flow) {
	if !hasName(t.Proto) {
		l.number("-p ", uint64(t.Proto))
		return
	}
	l.text("-p ", protoName(t.Proto))
	switch {
	case t.Proto == conntrack.ProtoGRE:
		l.savePorts(f, "--srckey ", "--dstkey ", "--reply-key-src ", "--reply-key-dst ")
	case t.Proto == conntrack.ProtoICMP:
		l.saveICMP(t, "--icmp-type ", "--icmp-code ", "--icmp-id ")
	case t.Proto == conntrack.ProtoICMPv6:
		l.saveICMP(t, "--icmpv6-type ", "--icmpv6-code ", "--icmpv6-id ")
	case t.Proto == conntrack.ProtoDCCP && f.Has&conntrack.AttrDCCP == 0:
		// A kernel without DCCP has no ports of it.
	default:
		l.savePorts(f, "--sport ", "--dport ", "--reply-port-src ", "--reply-port-dst ")
	}
}

// saveState appends the protocol's state.
func (l *line) saveState(f *conntrack.Flow, ended bool) {
	if s := stateName(f); s != "" {
		l.text("--state ", s)
	}
	switch {
	case f.Has&conntrack.AttrSCTP != 0:
		if ended && f.SCTP.OrigVTag|f.SCTP.ReplyVTag == 0 {
			return
		}
		l.number("--orig-vtag ", uint64(SwapVTag(f.SCTP.OrigVTag)))
		l.number("--reply-vtag ", uint64(SwapVTag(f.SCTP.ReplyVTag)))
	case f.Has&conntrack.AttrDCCP != 0:
		switch {
		case f.DCCP.Role != 0:
			l.text("--role ", "server")
		case !ended:
			l.text("--role ", "client")
		}
	}
}

func (l *line) savePorts(f *conntrack.Flow, src, dst, replySrc, replyDst string) {
	l.number(src, uint64(f.Orig.SrcPort))
	l.number(dst, uint64(f.Orig.DstPort))
	if f.Reply.Src.IsValid() {
		l.number(replySrc, uint64(f.Reply.SrcPort))
		l.number(replyDst, uint64(f.Reply.DstPort))
	}
}

func (l *line) saveICMP(t *conntrack.Tuple, typ, code, id string) {
	l.number(typ, uint64(t.ICMPType))
	l.number(code, uint64(t.ICMPCode))
	l.number(id, uint64(t.ICMPID))
}

// SwapVTag turns a verification tag into the number that --orig-vtag and
// --reply-vtag have for it, and back. conntrack(8) takes the tag, a number in
// network byte order, for one in the host's, when it prints and when it reads.
func SwapVTag(tag uint32) uint32 {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], tag)
	return binary.NativeEndian.Uint32(b[:])
}
