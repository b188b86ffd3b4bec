package explain

import (
	"fmt"
	"strings"

	"flowcut/conntrack"
	"flowcut/internal/oneline"
)

// marks are bits of the status and what they mean.
var marks = []struct {
	bit  conntrack.Status
	text string
}{
	{conntrack.StatusSeqAdjust, "SEQ_ADJUST: a helper has changed the length of what is said, so the kernel shifts the sequence numbers. Without the entry the connection breaks."},
	{conntrack.StatusDying, "DYING: the entry is being removed."},
	{conntrack.StatusFixedTimeout, "FIXED_TIMEOUT: a program has fixed the moment at which it ends; packets do not change it."},
	{conntrack.StatusTemplate, "TEMPLATE: a pattern of a rule, no flow."},
	{conntrack.StatusNATClash, "NAT_CLASH: two packets made the same flow at once; this one is short-lived."},
	{conntrack.StatusHelper, "HELPER: a rule or a program gave it a helper."},
}

// flags says what the status, and all else that few flows have, means.
func (w *writer) flags() {
	switch {
	case w.isNot(conntrack.StatusSeenReply):
		w.say("flag", "UNREPLIED: no packet has come back.")
	case w.is(conntrack.StatusAssured):
		w.say("flag", "ASSURED: %s", w.assured())
	}
	if w.is(conntrack.StatusExpected) || w.has(conntrack.AttrMaster) {
		w.expected()
	}
	switch {
	case w.is(conntrack.StatusHWOffload):
		w.say("flag", "HW_OFFLOAD: a device forwards it by itself.")
	case w.is(conntrack.StatusOffload):
		w.say("flag", "OFFLOAD: a flowtable forwards it, past all rules.")
	}
	for _, m := range marks {
		if w.is(m.bit) {
			w.say("flag", "%s", m.text)
		}
	}
	w.tcpFlags()
	w.names()
	w.zones()
}

// assured says what made the flow ASSURED.
func (w *writer) assured() string {
	switch w.f.Orig.Proto {
	case conntrack.ProtoTCP:
		return "both ends have taken part in the connection."
	case conntrack.ProtoSCTP, conntrack.ProtoDCCP:
		return "the handshake was completed."
	case conntrack.ProtoUDP, conntrack.ProtoUDPLite:
		return "both ends have sent, also later than two seconds after the first packet."
	}
	return "both ends have sent."
}

// expected says which flow had announced it.
func (w *writer) expected() {
	switch {
	case !w.has(conntrack.AttrMaster):
		w.say("flag", "EXPECTED: a helper had announced it; which flow that was for is not told.")
	case w.Master != nil && w.Master.Helper != "":
		w.say("flag", "EXPECTED: the helper %s announced it, on the flow %v.", oneline.Value(w.Master.Helper), w.f.Master)
	case w.Master != nil || w.Place == Unasked:
		w.say("flag", "EXPECTED: it was announced on the flow %v.", w.f.Master)
	default:
		w.say("flag", "EXPECTED: it was announced on the flow %v, which has ended.", w.f.Master)
	}
}

// tcpFlags says what the flags of TCP's two directions mean, where that is worth it.
func (w *writer) tcpFlags() {
	if !w.has(conntrack.AttrTCP) {
		return
	}
	both := w.f.TCP.OrigFlags | w.f.TCP.ReplyFlags
	if both&conntrack.TCPBeLiberal != 0 && !w.f.PickedUp() {
		w.say("flag", "BE_LIBERAL: segments outside of the window pass as well.")
	}
	if both&conntrack.TCPDataUnacked != 0 {
		w.say("flag", "DATA_UNACKNOWLEDGED: what was sent last has no acknowledgement yet.")
	}
	if both&conntrack.TCPSimultaneousOpen != 0 {
		w.say("flag", "SIMULTANEOUS_OPEN: both ends have sent a SYN.")
	}
}

// names says what is written on the flow.
func (w *writer) names() {
	if w.has(conntrack.AttrHelper) && w.f.Helper != "" {
		w.say("flag", "Helper %s: it reads along, to announce and translate further connections.", oneline.Value(w.f.Helper))
	}
	if w.f.Mark != 0 {
		w.say("flag", "Mark 0x%x: a rule or a program has set it; what it means is theirs.", uint32(w.f.Mark))
	}
	var labels []string
	for n := range conntrack.NumLabels {
		if !w.f.Labels.Test(n) {
			continue
		}
		name := ""
		if w.set.LabelName != nil {
			name = w.set.LabelName(n)
		}
		if name == "" {
			name = fmt.Sprint(n)
		}
		labels = append(labels, oneline.Value(name))
	}
	if len(labels) > 0 {
		w.say("flag", "Labels %s: a rule or a program has set them.", strings.Join(labels, ", "))
	}
	if w.has(conntrack.AttrSecCtx) {
		w.say("flag", "Security context %s.", oneline.Value(w.f.SecCtx))
	}
	if w.f.Synproxy != (conntrack.Synproxy{}) {
		w.say("flag", "SYNPROXY: the handshake was made with this host first.")
	}
}

// zones says which zones it is in.
func (w *writer) zones() {
	for _, z := range []struct {
		has  conntrack.Attr
		zone conntrack.Zone
		of   string
	}{
		{conntrack.AttrZone, w.f.Zone, "Zone"},
		{conntrack.AttrOrigZone, w.f.OrigZone, "Zone of the original direction"},
		{conntrack.AttrReplyZone, w.f.ReplyZone, "Zone of the reply direction"},
	} {
		if w.has(z.has) {
			w.say("flag", "%s %d: another zone may have a flow on the same addresses and ports.", z.of, z.zone)
		}
	}
}
