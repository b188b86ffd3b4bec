package selector

import "flowcut/conntrack"

// Match reports whether a flow is meant.
//
// It needs the tuples, zones, status, mark, labels, TCP state and id of the
// flow, as far as the kernel sends them. It does not allocate, and its time
// grows with the logarithm of the lists.
func (s *Selector) Match(f *conntrack.Flow) bool {
	return s.matchFamily(f) &&
		s.Proto.match(f.Orig.Proto) &&
		s.Status.match(f.Status) &&
		s.matchPorts(f) &&
		s.matchNAT(f) &&
		s.matchAddrs(f) &&
		s.Mark.match(f.Mark) &&
		s.matchZones(f) &&
		s.State.match(f) &&
		s.Labels.match(&f.Labels) &&
		s.ID.match(f.ID) &&
		(s.PickedUp == Any || s.PickedUp.match(f.PickedUp()))
}

func (s *Selector) matchFamily(f *conntrack.Flow) bool {
	switch s.Family {
	case conntrack.FamilyIPv4:
		return f.Orig.Src.Is4()
	case conntrack.FamilyIPv6:
		return f.Orig.Src.Is6()
	}
	return true
}

func (s *Selector) matchAddrs(f *conntrack.Flow) bool {
	return s.OrigSrc.match(f.Orig.Src) &&
		s.OrigDst.match(f.Orig.Dst) &&
		s.ReplySrc.match(f.Reply.Src) &&
		s.ReplyDst.match(f.Reply.Dst) &&
		s.matchHost(f)
}

func (s *Selector) matchHost(f *conntrack.Flow) bool {
	if !s.Host.Set {
		return true
	}
	found := s.Host.contains(f.Orig.Src) || s.Host.contains(f.Orig.Dst) ||
		s.Host.contains(f.Reply.Src) || s.Host.contains(f.Reply.Dst)
	return found != s.Host.Negated
}

func (s *Selector) matchPorts(f *conntrack.Flow) bool {
	p := f.Orig.Proto
	return s.OrigSrcPort.match(p, f.Orig.SrcPort) &&
		s.OrigDstPort.match(p, f.Orig.DstPort) &&
		s.ReplySrcPort.match(p, f.Reply.SrcPort) &&
		s.ReplyDstPort.match(p, f.Reply.DstPort)
}

func (s *Selector) matchNAT(f *conntrack.Flow) bool {
	if s.DstNAT.Set && s.DstNAT.matchDst(f) == s.DstNAT.Negated {
		return false
	}
	if s.SrcNAT.Set && s.SrcNAT.matchSrc(f) == s.SrcNAT.Negated {
		return false
	}
	return !s.AnyNAT.Set || (s.AnyNAT.matchDst(f) || s.AnyNAT.matchSrc(f)) != s.AnyNAT.Negated
}

// matchZones: the kernel keeps one zone an entry and the directions it holds
// for, and sends it in one of three attributes; the other two are zero.
func (s *Selector) matchZones(f *conntrack.Flow) bool {
	return s.Zone.match(f.Zone|f.OrigZone|f.ReplyZone) &&
		s.OrigZone.match(f.Zone|f.OrigZone) &&
		s.ReplyZone.match(f.Zone|f.ReplyZone)
}

// Mirror returns the selector of reversed flows: original and reply are
// swapped, and so are DNAT and SNAT. It matches a flow exactly when the
// original matches that flow reversed, and its own mirror is the original.
//
// A flow that the kernel adopts in the wrong direction after a delete is such
// a mirror, and looks picked up: set PickedUp of the mirror to Yes to find it.
// Conditions on what an entry carries by itself (status, state, mark, labels,
// id) stay as they are, so where they are set a mirror may escape.
func (s Selector) Mirror() Selector {
	m := s
	m.OrigSrc, m.ReplySrc = s.ReplySrc, s.OrigSrc
	m.OrigDst, m.ReplyDst = s.ReplyDst, s.OrigDst
	m.OrigSrcPort, m.ReplySrcPort = s.ReplySrcPort, s.OrigSrcPort
	m.OrigDstPort, m.ReplyDstPort = s.ReplyDstPort, s.OrigDstPort
	m.OrigZone, m.ReplyZone = s.ReplyZone, s.OrigZone
	m.DstNAT, m.SrcNAT = s.SrcNAT.reversed(), s.DstNAT.reversed()
	m.AnyNAT = s.AnyNAT.reversed()
	m.Status.Bits = reverseStatus(s.Status.Bits)
	m.Status.Clear = reverseStatus(s.Status.Clear)
	return m
}

func (n NAT) reversed() NAT {
	n.Reversed = !n.Reversed && len(n.Targets) > 0
	return n
}

// reverseStatus swaps the bits of the two kinds of translation.
func reverseStatus(s conntrack.Status) conntrack.Status {
	const src, dst = conntrack.StatusSrcNAT, conntrack.StatusDstNAT
	out := s &^ (src | dst)
	if s&src != 0 {
		out |= dst
	}
	if s&dst != 0 {
		out |= src
	}
	return out
}
