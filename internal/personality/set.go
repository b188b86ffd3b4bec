package personality

import (
	"strings"
	"time"

	"flowcut/conntrack"
)

// The setters below take the values of options, in the order of the matrix.

func (l *line) setSrc(v string) error {
	return l.setNetwork(v, "src", &l.orig, &l.origHas, conntrack.FieldSrc)
}
func (l *line) setDst(v string) error {
	return l.setNetwork(v, "dst", &l.orig, &l.origHas, conntrack.FieldDst)
}

func (l *line) setReplySrc(v string) error {
	return l.setAddress(v, "reply-src", &l.reply, &l.replyHas, conntrack.FieldSrc)
}

func (l *line) setReplyDst(v string) error {
	return l.setAddress(v, "reply-dst", &l.reply, &l.replyHas, conntrack.FieldDst)
}

func (l *line) setTupleSrc(v string) error {
	return l.setNetwork(v, "src", &l.expected, &l.expHas, conntrack.FieldSrc)
}

func (l *line) setTupleDst(v string) error {
	return l.setNetwork(v, "dst", &l.expected, &l.expHas, conntrack.FieldDst)
}

func (l *line) setMaskSrc(v string) error {
	return l.setAddress(v, "mask-src", &l.mask, &l.maskHas, conntrack.FieldSrc)
}

func (l *line) setMaskDst(v string) error {
	return l.setAddress(v, "mask-dst", &l.mask, &l.maskHas, conntrack.FieldDst)
}

func (l *line) setProto(v string) (err error) {
	if l.proto, err = findProtocol(v); err != nil {
		return err
	}
	l.orig.Proto, l.origHas = l.proto.number, l.origHas|conntrack.FieldProto
	return nil
}

func (l *line) setTimeout(v string) error {
	n, ok := decimal(v, 1<<32-1)
	if !ok {
		return usage("--timeout `%s' is no number of seconds", v)
	}
	l.timeout = time.Duration(n) * time.Second
	return nil
}

func (l *line) setStatus(v string) error { return l.status.add(l, v) }

func (l *line) setZero(string) error { return nil }

func (l *line) setEvents(v string) error {
	for _, word := range strings.Split(v, ",") {
		k, ok := prefixed(l, eventWords[:], word)
		if !ok {
			return usage("Bad parameter `%s'", word)
		}
		l.kinds |= k
	}
	return nil
}

func (l *line) ignoreNATRange(string) error {
	l.warnings = append(l.warnings, "WARNING: ignoring -a, deprecated option.")
	return nil
}

func (l *line) setMark(v string) error {
	value, mask, masked := strings.Cut(v, "/")
	n, ok := cNumber(value, 1<<32-1)
	m := uint64(1<<32 - 1)
	if ok && masked {
		m, ok = cNumber(mask, 1<<32-1)
	}
	if !ok {
		return unexpected(v, 'm')
	}
	l.mark = maskedMark{conntrack.Mark(n), conntrack.Mark(m)}
	return nil
}

func (l *line) setID(v string) error {
	n, ok := cNumber(v, 1<<32-1)
	if !ok {
		return unexpected(v, 'i')
	}
	l.id = uint32(n)
	return nil
}

// setFamily goes by the first four letters, as conntrack(8) does.
func (l *line) setFamily(v string) error {
	switch {
	case strings.HasPrefix(v, "ipv4"):
		return l.agree(conntrack.FamilyIPv4)
	case strings.HasPrefix(v, "ipv6"):
		return l.agree(conntrack.FamilyIPv6)
	}
	return usage("`%s' unsupported protocol", v)
}

func (l *line) setSrcNAT(v string) error { return l.setTarget(v, "src-nat", &l.srcNAT) }
func (l *line) setDstNAT(v string) error { return l.setTarget(v, "dst-nat", &l.dstNAT) }
func (l *line) setAnyNAT(v string) error { return l.setTarget(v, "any-nat", &l.anyNAT) }

func (l *line) setOutput(v string) error {
	for _, word := range strings.Split(v, ",") {
		set, ok := prefixed(l, outputWords[:], word)
		if !ok {
			return usage("Bad parameter `%s'", word)
		}
		if set != nil {
			set(l)
		}
	}
	o := &l.out
	if o.Save && (o.XML || o.Extended || o.Timestamp || o.ID || o.KTimestamp || l.named) {
		return failure("cannot combine save output with any other output type, use -o save only")
	}
	return nil
}

// setSecMark refuses: kernels have not reported secmarks since 2.6.36, so that
// the condition would hold for no flow, and conntrack(8) takes it for all.
func (l *line) setSecMark(v string) error {
	if _, ok := cNumber(v, 1<<32-1); !ok {
		return unexpected(v, 'c')
	}
	return usage("--secmark cannot select: the kernel does not report secmarks")
}

func (l *line) setBuffer(v string) error {
	n, ok := decimal(v, 1<<31-1)
	if !ok {
		return usage("--buffer-size `%s' is no number of bytes", v)
	}
	l.buffer = int(n)
	return nil
}

func (l *line) setZone(v string) error      { return setZone(&l.zone, v, 'w') }
func (l *line) setOrigZone(v string) error  { return setZone(&l.zones[0], v, '(') }
func (l *line) setReplyZone(v string) error { return setZone(&l.zones[1], v, ')') }

func setZone(z *conntrack.Zone, v string, letter byte) error {
	n, ok := cNumber(v, 1<<16-1)
	if !ok {
		return unexpected(v, letter)
	}
	*z = conntrack.Zone(n)
	return nil
}

func (l *line) setLabel(v string) error {
	l.labels.names = append(l.labels.names, strings.Split(v, ",")...)
	return nil
}

func (l *line) setLabelAdd(v string) error {
	l.labelsAdded.names = append(l.labelsAdded.names, strings.Split(v, ",")...)
	return l.oneLabelChange()
}

// setLabelDel without a value deletes all labels.
func (l *line) setLabelDel(v string) error {
	if v != "" {
		l.labelsDeleted.names = append(l.labelsDeleted.names, strings.Split(v, ",")...)
	}
	return l.oneLabelChange()
}

func (l *line) oneLabelChange() error {
	if l.has("label-add") && l.has("label-del") {
		return failure("--label-add and --label-del exclude each other")
	}
	return nil
}

func (l *line) setLabelMap(v string) error {
	if l.labelFile != "" {
		return usage("--labelmap twice: one file has the names of all labels")
	}
	if v == "" {
		return usage("--labelmap: an empty name")
	}
	l.labelFile = v
	return nil
}

// unexpected refuses a number the way conntrack(8) does since 1.4.9: as a
// failure, not as wrong usage.
func unexpected(v string, letter byte) error {
	return failure("unexpected value '%s' with -%c option", v, letter)
}
