package conntrack

// Merge brings into f what g has; of what only f has nothing changes. So a
// flow is kept up by its events, each of which tells some of it.
func (f *Flow) Merge(g *Flow) {
	f.Has |= g.Has
	f.mergeCommon(g)
	f.mergeRest(g)
}

// mergeCommon takes what g has of what most flows have.
func (f *Flow) mergeCommon(g *Flow) {
	if g.Has&AttrOrig != 0 {
		f.Orig = g.Orig
	}
	if g.Has&AttrReply != 0 {
		f.Reply = g.Reply
	}
	if g.Has&AttrZone != 0 {
		f.Zone = g.Zone
	}
	if g.Has&AttrOrigZone != 0 {
		f.OrigZone = g.OrigZone
	}
	if g.Has&AttrReplyZone != 0 {
		f.ReplyZone = g.ReplyZone
	}
	if g.Has&AttrStatus != 0 {
		f.Status = g.Status
	}
	if g.Has&AttrTimeout != 0 {
		f.Timeout = g.Timeout
	}
	if g.Has&AttrMark != 0 {
		f.Mark = g.Mark
	}
	if g.Has&AttrLabels != 0 {
		f.Labels = g.Labels
	}
	if g.Has&AttrOrigCounters != 0 {
		f.OrigCounters = g.OrigCounters
	}
	if g.Has&AttrReplyCounters != 0 {
		f.ReplyCounters = g.ReplyCounters
	}
	if g.Has&AttrStart != 0 {
		f.Start = g.Start
	}
	if g.Has&AttrStop != 0 {
		f.Stop = g.Stop
	}
}

// mergeRest takes what g has of the rest.
func (f *Flow) mergeRest(g *Flow) {
	if g.Has&AttrTCP != 0 {
		f.TCP = g.TCP
	}
	if g.Has&AttrSCTP != 0 {
		f.SCTP = g.SCTP
	}
	if g.Has&AttrDCCP != 0 {
		f.DCCP = g.DCCP
	}
	if g.Has&AttrHelper != 0 {
		f.Helper = g.Helper
		f.HelpInfo = append(f.HelpInfo[:0], g.HelpInfo...)
	}
	if g.Has&AttrSecCtx != 0 {
		f.SecCtx = g.SecCtx
	}
	if g.Has&AttrSecMark != 0 {
		f.SecMark = g.SecMark
	}
	if g.Has&AttrMaster != 0 {
		f.Master = g.Master
	}
	if g.Has&AttrOrigSeqAdj != 0 {
		f.OrigSeqAdj = g.OrigSeqAdj
	}
	if g.Has&AttrReplySeqAdj != 0 {
		f.ReplySeqAdj = g.ReplySeqAdj
	}
	if g.Has&AttrSynproxy != 0 {
		f.Synproxy = g.Synproxy
	}
	if g.Has&AttrID != 0 {
		f.ID = g.ID
	}
	if g.Has&AttrUse != 0 {
		f.Use = g.Use
	}
}
