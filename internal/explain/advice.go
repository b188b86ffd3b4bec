package explain

import (
	"fmt"
	"strconv"
	"strings"

	"flowcut/conntrack"
	"flowcut/internal/sysctl"
)

// missing says what is not known of the flow, and why.
func (w *writer) missing() {
	if w.Line {
		w.say("missing", "A line does not have the translation's status, TCP's flags (so whether it is picked up) nor an expected flow's master. JSON of \"flowcut list -o json\" has all.")
	}
	w.setting(conntrack.AttrOrigCounters, keyAcct, "Packets and bytes")
	w.setting(conntrack.AttrStart, keyTimestamp, "When it began")
	if !w.Line && !w.has(conntrack.AttrLabels) {
		w.say("missing", "No label is set; it can have some only if the ruleset had to do with labels when it began.")
	}
	switch v, ok := w.value(keyEvents); {
	case !ok || w.ended() || v == 1:
	case v == 0:
		w.say("missing", "Nobody is told of its changes and its end: %s is 0.", keyEvents).Sysctl = keyEvents
	default:
		w.say("missing", "If nobody listened for events when it began, nobody is told of its end: %s is %d.", keyEvents, v).Sysctl = keyEvents
	}
}

// setting says why an attribute is not there that a setting switches on.
func (w *writer) setting(a conntrack.Attr, key, what string) {
	// Of events only that of the end has these.
	if w.has(a) || w.Place != Listed && w.Event != conntrack.EventDestroy && (w.Event != 0 || w.ended()) {
		return
	}
	switch v, ok := w.value(key); {
	case ok && v == 0:
		s := w.say("missing", "%s: not kept, since %s is 0. Set it to 1 for flows that begin from then on.", what, key)
		s.Sysctl = key
		if w.set.NetNS == "" {
			s.Command = "sysctl -w " + key + "=1"
		}
	case ok && w.Place == Listed:
		w.say("missing", "%s: not kept, since %s was 0 when it began; it is %d now.", what, key, v).Sysctl = key
	case w.set.Values[key] == sysctl.Absent:
		w.say("missing", "%s: this kernel cannot keep that; it has no %s.", what, key).Sysctl = key
	default:
		w.say("missing", "%s: not kept where %s is 0.", what, key).Sysctl = key
	}
}

// pickedUp says why the flow may look picked up, and what that may mean.
func (w *writer) pickedUp() {
	if !w.f.PickedUp() {
		return
	}
	w.say("picked-up", "Connection tracking has seen no handshake of it. It may have taken it up from a packet in mid-stream, as it does after an entry was deleted while the connection went on; a program may have made or restored it (conntrack -I, conntrackd after a takeover); or the connection is older than the table (a reboot, conntrack -F).")
	s := w.say("picked-up", "If its entry was deleted to end it, it has come back, and no rule was asked about the direction it began in.")
	switch v, ok := w.value(keyLoose); {
	case ok && v == 0:
		s.Text += fmt.Sprintf(" %s is 0 now, so that no more are taken up.", keyLoose)
		s.Sysctl = keyLoose
	case ok:
		s.Text += fmt.Sprintf(" %s = %d allows it.", keyLoose, v)
		s.Sysctl = keyLoose
	}
}

// cut says how to end the flow.
func (w *writer) cut() {
	f, what := w.f, "To end it for good, with proof:"
	switch {
	case w.Place == Mirrored:
		f, what = w.Other, "To end what has come back for good, with proof:"
	case w.ended():
		return
	}
	if words := Selection(f); words != nil {
		w.say("cut", "%s", what).Command = "flowcut cut " + strings.Join(words, " ") + w.netns()
	}
}

// netns returns the flag for the namespace, as a shell wants it.
func (w *writer) netns() string {
	ns := w.set.NetNS
	if ns == "" {
		return ""
	}
	if strings.Trim(ns, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-") != "" {
		ns = "'" + strings.ReplaceAll(ns, "'", `'\''`) + "'"
	}
	return " --netns " + ns
}

// Selection returns the words of the selection that means a flow and, as far as it
// can be said, no other: by the entry's id where there are no ports. It is nil for
// an entry without an id whose addresses no selection can name (::ffff:1.2.3.4).
func Selection(f *conntrack.Flow) []string {
	o := &f.Orig
	words := []string{"-p", o.Proto.String()}
	unnamed := o.Src.Is4In6() || o.Dst.Is4In6() // a selection takes these for IPv4
	if !unnamed {
		words = append(words, "-s", o.Src.String(), "-d", o.Dst.String())
	}
	switch {
	case unnamed && f.Has&conntrack.AttrID == 0:
		return nil
	case unnamed:
		words = append(words, "--id", strconv.FormatUint(uint64(f.ID), 10))
	case o.HasPorts():
		words = append(words, "--sport", strconv.Itoa(int(o.SrcPort)), "--dport", strconv.Itoa(int(o.DstPort)))
	case f.Has&conntrack.AttrID != 0:
		words = append(words, "--id", strconv.FormatUint(uint64(f.ID), 10))
	}
	for _, z := range []struct {
		has  conntrack.Attr
		flag string
		zone conntrack.Zone
	}{
		{conntrack.AttrZone, "--zone", f.Zone},
		{conntrack.AttrOrigZone, "--orig-zone", f.OrigZone},
		{conntrack.AttrReplyZone, "--reply-zone", f.ReplyZone},
	} {
		if f.Has&z.has != 0 {
			words = append(words, z.flag, strconv.Itoa(int(z.zone)))
		}
	}
	return words
}
