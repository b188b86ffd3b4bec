package personality

import (
	"iter"

	"flowcut/conntrack"
	"flowcut/internal/conntrack8"
)

const (
	documentConntrack = "conntrack"
	documentExpect    = "expect"
)

// list is -L.
func (s *session) list(l *line) error {
	sel := l.selection()
	if l.has("zero") && l.table == tableConntrack {
		for _, name := range l.given {
			switch name {
			case "zero", "family", "output", "src-nat", "dst-nat", "any-nat", "mask-src", "mask-dst", "labelmap":
			default:
				return usage("Can't use -z with filtering parameters")
			}
		}
	}
	if l.has("status") && l.status.set|l.status.clear == 0 && l.table == tableConntrack {
		return failure("Operation failed: invalid parameters") // as the kernel says of UNSET
	}
	c, err := s.dial()
	if err != nil {
		return err
	}
	if err := s.begin(&l.out, documentConntrack); err != nil {
		return err
	}
	for f, err := range s.dump(c, l, sel) {
		if err != nil {
			return operation('L', err)
		}
		if !sel.match(f) {
			continue
		}
		if err := s.print(l.out.AppendFlow(s.buf[:0], f, conntrack8.Listed)); err != nil {
			return err
		}
		s.shown++
	}
	return nil
}

// dump returns the listing that a line of -L asks for.
func (s *session) dump(c *conntrack.Client, l *line, sel *selection) iter.Seq2[*conntrack.Flow, error] {
	switch {
	case l.table == tableDying:
		return c.DumpDying(s.ctx, l.family)
	case l.table == tableUnconfirmed:
		return c.DumpUnconfirmed(s.ctx, l.family)
	case l.has("zero"):
		return c.DumpZero(s.ctx, l.family)
	}
	return c.Dump(s.ctx, sel.filter)
}

// get is -G.
func (s *session) get(l *line) error {
	sel := l.selection()
	c, err := s.dial()
	if err != nil {
		return err
	}
	f, err := c.Get(s.ctx, l.wanted(), l.zone)
	if err != nil {
		return operation('G', err)
	}
	if err := s.begin(&l.out, documentConntrack); err != nil {
		return err
	}
	if sel.match(&f) {
		if err := s.print(l.out.AppendFlow(s.buf[:0], &f, conntrack8.Listed)); err != nil {
			return err
		}
		s.shown++
	}
	return nil
}

// wanted returns the tuple that -G looks up: the original one if its addresses
// were given, else the reply's. The kernel finds a flow by either.
func (l *line) wanted() conntrack.Tuple {
	t := l.orig
	if l.has("src") && l.has("dst") {
		return t
	}
	const ports = conntrack.FieldSrcPort | conntrack.FieldDstPort
	t.Src, t.Dst = l.reply.Src, l.reply.Dst
	if l.replyHas&ports != 0 {
		t.SrcPort, t.DstPort = l.reply.SrcPort, l.reply.DstPort
	} else {
		t.SrcPort, t.DstPort = l.orig.DstPort, l.orig.SrcPort
	}
	if t.IsICMP() {
		ping := conntrack.Tuple{Src: t.Src, Dst: t.Dst, Proto: t.Proto, ICMPType: t.ICMPType, ICMPCode: t.ICMPCode, ICMPID: t.ICMPID}.Invert()
		t.ICMPType = ping.ICMPType
	}
	return t
}
