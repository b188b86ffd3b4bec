package personality

import (
	"cmp"
	"errors"
	"syscall"

	"flowcut/conntrack"
	"flowcut/internal/conntrack8"
)

// update is -U.
func (s *session) update(l *line) error {
	c, err := s.dial()
	if err != nil {
		return err
	}
	u := change{s: s, client: c, line: l}
	s.mute = s.begin(&l.out, documentConntrack)
	sel := l.selection()
	for f, err := range c.Dump(s.ctx, sel.filter) {
		if err != nil {
			return operation('U', err)
		}
		if !sel.match(f) {
			continue
		}
		if err := u.apply(f); isRefusal(err) {
			u.refused = cmp.Or(u.refused, err)
		} else if err != nil {
			return err
		}
	}
	return operation('U', u.refused)
}

// isRefusal tells whether an error is the kernel's word on one entry, so that
// others may fare better.
func isRefusal(err error) bool {
	_, ok := errors.AsType[*conntrack.Error](err)
	return ok
}

// change is one run of -U.
type change struct {
	s      *session
	client *conntrack.Client
	line   *line

	refused error // the first refusal; the flows behind it are changed all the same
}

// apply changes a flow, unless it is as it should be, and prints what became
// of it. A flow that has ended meanwhile is none.
func (u *change) apply(f *conntrack.Flow) error {
	to, changed := u.to(f)
	if !changed {
		return nil
	}
	err := u.client.Update(u.s.ctx, to)
	switch {
	case errors.Is(err, syscall.ENOENT):
		return nil
	case errors.Is(err, syscall.ENOSPC) && to.Has&conntrack.AttrLabels != 0 && f.Has&conntrack.AttrLabels == 0:
		return nil // the flow was born where no rule uses labels: it has no room for any
	case err != nil:
		return err
	}
	now, err := u.client.Get(u.s.ctx, f.Orig, f.Key().Zone)
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	u.s.shown++
	u.s.tell(u.line.out.AppendFlow(u.s.buf[:0], &now, conntrack8.Updated))
	return nil
}

// to returns what a flow is to become, and whether it is not that already.
func (u *change) to(f *conntrack.Flow) (to *conntrack.Flow, changed bool) {
	l := u.line
	to = &conntrack.Flow{Orig: f.Orig}
	to.Has = conntrack.AttrOrig | f.Has&(conntrack.AttrZone|conntrack.AttrOrigZone)
	to.Zone, to.OrigZone = f.Zone, f.OrigZone
	set := func(a conntrack.Attr, differs bool) {
		to.Has |= a
		changed = changed || differs
	}
	if l.has("timeout") {
		to.Timeout = l.timeout
		set(conntrack.AttrTimeout, f.Timeout != l.timeout)
	}
	if l.has("status") {
		to.Status = f.Status | l.status.set
		set(conntrack.AttrStatus, to.Status != f.Status)
	}
	if l.has("mark") {
		to.Mark = f.Mark&^l.mark.mask ^ l.mark.value
		set(conntrack.AttrMark, to.Mark != f.Mark)
	}
	if l.has("label-add") || l.has("label-del") && f.Has&conntrack.AttrLabels != 0 {
		to.Labels = u.labels(f.Labels)
		// Like conntrack(8), count a flow that has, or has not, the labels already.
		named := l.has("label-add") || len(l.labelsDeleted.names) > 0
		set(conntrack.AttrLabels, named || to.Labels != f.Labels)
	}
	u.state(f, to, set)
	return to, changed
}

// labels returns the labels that a flow with some is to have.
func (u *change) labels(have conntrack.Labels) conntrack.Labels {
	for i := range have {
		switch {
		case u.line.has("label-add"):
			have[i] |= u.line.labelsAdded.bits[i]
		case len(u.line.labelsDeleted.names) > 0:
			have[i] &^= u.line.labelsDeleted.bits[i]
		default:
			have[i] = 0
		}
	}
	return have
}

// state sets the state of the protocol. TCP is no longer held to its windows
// then, which the kernel has not seen on the way to that state.
func (u *change) state(f, to *conntrack.Flow, set func(conntrack.Attr, bool)) {
	l := u.line
	switch {
	case l.has("state") && f.Has&conntrack.AttrTCP != 0:
		to.TCP = f.TCP
		to.TCP.State = conntrack.TCPState(l.state)
		l.liberal(&to.TCP)
		set(conntrack.AttrTCP, to.TCP.State != f.TCP.State)
	case f.Has&conntrack.AttrSCTP != 0 && (l.has("state") || l.has("orig-vtag") || l.has("reply-vtag")):
		to.SCTP = f.SCTP
		if l.has("state") {
			to.SCTP.State = conntrack.SCTPState(l.state)
		}
		l.tags(&to.SCTP)
		set(conntrack.AttrSCTP, to.SCTP != f.SCTP)
	case l.has("state") && f.Has&conntrack.AttrDCCP != 0:
		to.DCCP = f.DCCP
		to.DCCP.State = conntrack.DCCPState(l.state)
		set(conntrack.AttrDCCP, to.DCCP != f.DCCP)
	}
}

// liberal sets the flags without which an entry that nobody saw a handshake of
// would find every packet invalid.
func (l *line) liberal(t *conntrack.TCP) {
	flags := conntrack.TCPBeLiberal | conntrack.TCPSackPerm
	if t.State >= conntrack.TCPTimeWait {
		flags |= conntrack.TCPCloseInit // may be opened anew at once
	}
	t.OrigFlags |= flags
	t.ReplyFlags |= flags
}

// tags sets the verification tags that were given.
func (l *line) tags(t *conntrack.SCTP) {
	if l.has("orig-vtag") {
		t.OrigVTag = l.vtags[0]
	}
	if l.has("reply-vtag") {
		t.ReplyVTag = l.vtags[1]
	}
}

// create is -I, and -A, which changes an entry that exists.
func (s *session) create(l *line) error {
	letter := l.command.short
	f, t, err := l.flow()
	if err != nil {
		return err
	}
	if l.has("label-add") {
		f.Has, f.Labels = f.Has|conntrack.AttrLabels, l.labelsAdded.bits
	}
	c, err := s.dial()
	if err != nil {
		return err
	}
	if err := c.Put(s.ctx, f, t, letter == 'I'); err != nil {
		return operation(letter, err)
	}
	s.shown++
	return nil
}

// flow returns the flow that -I and -A make, and what it is translated to.
func (l *line) flow() (*conntrack.Flow, conntrack.Translation, error) {
	f := &conntrack.Flow{Has: conntrack.AttrOrig | conntrack.AttrReply | conntrack.AttrTimeout, Timeout: l.timeout}
	var t conntrack.Translation
	var err error
	if f.Orig, f.Reply, err = l.tuples(); err != nil {
		return nil, t, err
	}
	if l.has("status") {
		f.Has, f.Status = f.Has|conntrack.AttrStatus, l.status.set
	}
	if l.has("mark") {
		f.Has, f.Mark = f.Has|conntrack.AttrMark, l.mark.value
	}
	for _, z := range []struct {
		name string
		has  conntrack.Attr
		to   *conntrack.Zone
		zone conntrack.Zone
	}{
		{"zone", conntrack.AttrZone, &f.Zone, l.zone},
		{"orig-zone", conntrack.AttrOrigZone, &f.OrigZone, l.zones[0]},
		{"reply-zone", conntrack.AttrReplyZone, &f.ReplyZone, l.zones[1]},
	} {
		if l.has(z.name) {
			f.Has |= z.has
			*z.to = z.zone
		}
	}
	l.protocolState(f)
	if l.dstNAT != nil {
		t.Dst, t.DstPort = l.dstNAT.addr, l.translatedPort(l.dstNAT.port, conntrack.FieldSrcPort, l.reply.SrcPort, l.orig.DstPort)
	}
	if l.srcNAT != nil {
		t.Src, t.SrcPort = l.srcNAT.addr, l.translatedPort(l.srcNAT.port, conntrack.FieldDstPort, l.reply.DstPort, l.orig.SrcPort)
	}
	return f, t, nil
}

// translatedPort returns the port of a translation: the one given with it, else
// that of the reply if it is another. -o save writes translations in two places,
// and without the second a connection that is restored would lose its port.
func (l *line) translatedPort(given uint16, field conntrack.TupleFields, reply, orig uint16) uint16 {
	if given == 0 && l.orig.HasPorts() && l.replyHas&field != 0 && reply != orig {
		return reply
	}
	return given
}

// protocolState sets the state that a new flow has.
func (l *line) protocolState(f *conntrack.Flow) {
	switch f.Orig.Proto {
	case conntrack.ProtoTCP:
		f.Has |= conntrack.AttrTCP
		f.TCP.State = conntrack.TCPState(l.state)
		l.liberal(&f.TCP)
	case conntrack.ProtoSCTP:
		f.Has |= conntrack.AttrSCTP
		f.SCTP.State = conntrack.SCTPState(l.state)
		l.tags(&f.SCTP)
	case conntrack.ProtoDCCP:
		f.Has |= conntrack.AttrDCCP
		f.DCCP.State, f.DCCP.Role = conntrack.DCCPState(l.state), l.role
	}
}

// tuples returns the tuples of a new flow. If one direction was given alone the
// other is its inverse; if both were, what a -g or -n will change may be left
// out of the reply.
func (l *line) tuples() (orig, reply conntrack.Tuple, err error) {
	const ports = conntrack.FieldSrcPort | conntrack.FieldDstPort
	hasOrig, hasReply := l.has("src") || l.has("dst"), l.has("reply-src") || l.has("reply-dst")
	if hasOrig && !hasReply {
		return l.orig, l.orig.Invert(), nil
	}
	if !hasOrig {
		reply = l.wanted()
		return reply.Invert(), reply, nil
	}
	orig, reply = l.orig, l.orig.Invert()
	reply.Src, reply.Dst = l.reply.Src, l.reply.Dst
	if l.needsReplyPorts() {
		if l.replyHas&ports == 0 {
			return orig, reply, operation(l.command.short, syscall.EINVAL) // as the kernel says of half a tuple
		}
		reply.SrcPort, reply.DstPort = l.reply.SrcPort, l.reply.DstPort
	}
	fillAddresses(&orig)
	fillAddresses(&reply)
	return orig, reply, nil
}

// needsReplyPorts tells whether the reply tuple has ports or keys of its own.
func (l *line) needsReplyPorts() bool {
	return l.orig.Proto.HasPorts() || l.orig.Proto == conntrack.ProtoGRE
}

// fillAddresses makes an address that was not given the unspecified one.
func fillAddresses(t *conntrack.Tuple) {
	switch {
	case !t.Src.IsValid():
		t.Src = unspecified(t.Dst)
	case !t.Dst.IsValid():
		t.Dst = unspecified(t.Src)
	}
}
