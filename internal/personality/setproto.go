package personality

import (
	"strings"

	"flowcut/conntrack"
	"flowcut/internal/conntrack8"
)

// The setters below take the values of protocols' options.

func (l *line) setSrcPort(v string) error {
	return setPort(v, "sport", &l.orig.SrcPort, &l.origHas, conntrack.FieldSrcPort)
}

func (l *line) setDstPort(v string) error {
	return setPort(v, "dport", &l.orig.DstPort, &l.origHas, conntrack.FieldDstPort)
}

func (l *line) setReplySrcPort(v string) error {
	return setPort(v, "reply-port-src", &l.reply.SrcPort, &l.replyHas, conntrack.FieldSrcPort)
}

func (l *line) setReplyDstPort(v string) error {
	return setPort(v, "reply-port-dst", &l.reply.DstPort, &l.replyHas, conntrack.FieldDstPort)
}

func (l *line) setMaskSrcPort(v string) error {
	return setPort(v, "mask-port-src", &l.mask.SrcPort, &l.maskHas, conntrack.FieldSrcPort)
}

func (l *line) setMaskDstPort(v string) error {
	return setPort(v, "mask-port-dst", &l.mask.DstPort, &l.maskHas, conntrack.FieldDstPort)
}

func (l *line) setTupleSrcPort(v string) error {
	return setPort(v, "tuple-port-src", &l.expected.SrcPort, &l.expHas, conntrack.FieldSrcPort)
}

func (l *line) setTupleDstPort(v string) error {
	return setPort(v, "tuple-port-dst", &l.expected.DstPort, &l.expHas, conntrack.FieldDstPort)
}

func (l *line) setSrcKey(v string) error {
	return setKey(v, "srckey", &l.orig.SrcPort, &l.origHas, conntrack.FieldSrcPort)
}

func (l *line) setDstKey(v string) error {
	return setKey(v, "dstkey", &l.orig.DstPort, &l.origHas, conntrack.FieldDstPort)
}

func (l *line) setReplySrcKey(v string) error {
	return setKey(v, "reply-key-src", &l.reply.SrcPort, &l.replyHas, conntrack.FieldSrcPort)
}

func (l *line) setReplyDstKey(v string) error {
	return setKey(v, "reply-key-dst", &l.reply.DstPort, &l.replyHas, conntrack.FieldDstPort)
}

func (l *line) setMaskSrcKey(v string) error {
	return setKey(v, "mask-key-src", &l.mask.SrcPort, &l.maskHas, conntrack.FieldSrcPort)
}

func (l *line) setMaskDstKey(v string) error {
	return setKey(v, "mask-key-dst", &l.mask.DstPort, &l.maskHas, conntrack.FieldDstPort)
}

func (l *line) setTupleSrcKey(v string) error {
	return setKey(v, "tuple-key-src", &l.expected.SrcPort, &l.expHas, conntrack.FieldSrcPort)
}

func (l *line) setTupleDstKey(v string) error {
	return setKey(v, "tuple-key-dst", &l.expected.DstPort, &l.expHas, conntrack.FieldDstPort)
}

func setPort(v, name string, port *uint16, has *conntrack.TupleFields, field conntrack.TupleFields) error {
	n, ok := decimal(v, 1<<16-1)
	if !ok {
		return usage("--%s `%s' is no port from 0 to 65535", name, v)
	}
	*port, *has = uint16(n), *has|field
	return nil
}

func setKey(v, name string, key *uint16, has *conntrack.TupleFields, field conntrack.TupleFields) error {
	n, ok := cNumber(v, 1<<16-1)
	if !ok {
		return usage("--%s `%s' is no key from 0 to 65535", name, v)
	}
	*key, *has = uint16(n), *has|field
	return nil
}

func (l *line) setICMPType(v string) error {
	return l.setICMPByte(v, "type", &l.orig.ICMPType, conntrack.FieldICMPType)
}

func (l *line) setICMPCode(v string) error {
	return l.setICMPByte(v, "code", &l.orig.ICMPCode, conntrack.FieldICMPCode)
}

func (l *line) setICMPByte(v, name string, to *uint8, field conntrack.TupleFields) error {
	n, ok := decimal(v, 1<<8-1)
	if !ok {
		return usage("--%s-%s `%s' is no number from 0 to 255", l.proto.name, name, v)
	}
	*to, l.origHas = uint8(n), l.origHas|field
	return nil
}

func (l *line) setICMPID(v string) error {
	n, ok := decimal(v, 1<<16-1)
	if !ok {
		return usage("--%s-id `%s' is no number from 0 to 65535", l.proto.name, v)
	}
	l.orig.ICMPID, l.origHas = uint16(n), l.origHas|conntrack.FieldICMPID
	return nil
}

// The names of states are in capitals: conntrack(8) takes no others.

func (l *line) setTCPState(v string) error {
	s, err := conntrack.ParseTCPState(v)
	if err != nil || v != s.String() && v != "LISTEN" || isNumber(v) {
		return usage("unknown TCP state `%s'", v)
	}
	l.state = uint8(s)
	return nil
}

func (l *line) setSCTPState(v string) error {
	s, err := conntrack.ParseSCTPState(v)
	if err != nil || v != s.String() || isNumber(v) {
		return usage("unknown SCTP state `%s'", v)
	}
	l.state = uint8(s)
	return nil
}

func (l *line) setDCCPState(v string) error {
	s, err := conntrack.ParseDCCPState(v)
	if err != nil || v != s.String() || isNumber(v) {
		return usage("Unknown DCCP state `%s'", v)
	}
	l.state = uint8(s)
	return nil
}

func isNumber(v string) bool { return v != "" && v[0] >= '0' && v[0] <= '9' }

func (l *line) setOrigVTag(v string) error  { return setVTag(v, "orig-vtag", &l.vtags[0]) }
func (l *line) setReplyVTag(v string) error { return setVTag(v, "reply-vtag", &l.vtags[1]) }

func setVTag(v, name string, to *uint32) error {
	n, ok := decimal(v, 1<<32-1)
	if !ok {
		return usage("--%s `%s' is no number from 0 to 4294967295", name, v)
	}
	*to = conntrack8.SwapVTag(uint32(n))
	return nil
}

func (l *line) setRole(v string) error {
	for i, name := range []string{"client", "server"} {
		if v != "" && len(v) <= len(name) && strings.EqualFold(name[:len(v)], v) {
			l.role = uint8(i)
			return nil
		}
	}
	return usage("Unknown DCCP role `%s'", v)
}
