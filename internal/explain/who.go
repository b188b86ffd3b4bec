package explain

import (
	"fmt"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/show"
)

// opened says who began the flow, and when.
func (w *writer) opened() {
	o := &w.f.Orig
	src, dst := w.addr(o.Src), w.addr(o.Dst)
	when := w.when()
	switch {
	case w.f.PickedUp():
		w.say("opened", "Who opened it is not known: connection tracking took it up in mid-stream, from a packet of %s to %s%s. Often it is the other end that opened it.", src, w.addr(o.Dst), when)
	case w.unsure():
		w.say("opened", "%s opened it, to %s, port %d%s, unless it was taken up in mid-stream, which the text does not tell.", src, dst, o.DstPort, when)
	case o.Proto == conntrack.ProtoTCP:
		w.say("opened", "%s opened it, to %s, port %d%s.", src, dst, o.DstPort, when)
	case o.HasPorts():
		w.say("opened", "%s sent the first packet that was tracked, to %s, port %d%s.", src, dst, o.DstPort, when)
	case isEcho(o):
		w.say("opened", "%s pings %s (echo requests with id %d)%s.", src, dst, o.ICMPID, when)
	case o.IsICMP():
		w.say("opened", "%s sent %s an ICMP message of type %d, code %d, with id %d%s.", src, dst, o.ICMPType, o.ICMPCode, o.ICMPID, when)
	default:
		w.say("opened", "%s sent the first packet of protocol %v that was tracked, to %s%s.", src, o.Proto, dst, when)
	}
}

// unsure tells whether nothing says if a flow of TCP began with a handshake: lines
// have no flags, nor have events of the end. One that is in it has begun with it.
func (w *writer) unsure() bool {
	t := w.f.TCP
	switch {
	case w.f.Orig.Proto != conntrack.ProtoTCP || !w.Line && w.Event != conntrack.EventDestroy:
		return false
	case !w.has(conntrack.AttrTCP):
		return true
	}
	return t.OrigFlags|t.ReplyFlags == 0 && t.State != conntrack.TCPSynSent && t.State != conntrack.TCPSynRecv && t.State != conntrack.TCPSynSent2
}

func isEcho(t *conntrack.Tuple) bool {
	return t.Proto == conntrack.ProtoICMP && t.ICMPType == 8 || t.Proto == conntrack.ProtoICMPv6 && t.ICMPType == 128 // ICMP_ECHO, ICMPV6_ECHO_REQUEST
}

// when says how long ago the flow began, behind a comma; "" if that is not known.
func (w *writer) when() string {
	if !w.has(conntrack.AttrStart) {
		return ""
	}
	if w.has(conntrack.AttrStop) {
		return ", and it lasted " + span(w.f.Stop.Sub(w.f.Start))
	}
	if w.Event == conntrack.EventDestroy {
		return ", and it lasted " + span(w.set.Now.Sub(w.f.Start))
	}
	return ", " + span(w.set.Now.Sub(w.f.Start)) + " ago"
}

// span writes a time of whole seconds.
func span(d time.Duration) string { return string(show.AppendDuration(nil, max(0, d))) }

// nat says what is translated.
func (w *writer) nat() {
	o, r := &w.f.Orig, &w.f.Reply
	src := o.Src != r.Dst || o.HasPorts() && o.SrcPort != r.DstPort
	dst := o.Dst != r.Src || o.HasPorts() && o.DstPort != r.SrcPort
	id := o.IsICMP() && o.ICMPID != r.ICMPID || o.Proto == conntrack.ProtoGRE && (o.SrcPort != r.DstPort || o.DstPort != r.SrcPort)
	if !src && !dst && !id {
		w.say("nat", "Nothing is translated: each end sees the other's own address.")
		return
	}
	if w.isNot(conntrack.StatusSrcNAT) && w.isNot(conntrack.StatusDstNAT) {
		w.say("nat", "The two directions differ, but the status says neither SRC_NAT nor DST_NAT: nothing is translated. A program made the entry so.")
		return
	}
	if dst {
		w.dnat()
	}
	if src || id {
		w.snat()
	}
	w.say("nat", "Rules were asked about its first packet alone: to change or remove the rule changes nothing for this flow.")
}

func (w *writer) dnat() {
	o, r := &w.f.Orig, &w.f.Reply
	what := "DNAT"
	if w.own(r.Src) && o.Dst != r.Src {
		what = "REDIRECT, or DNAT to this host"
	}
	to := end(r, r.Src, r.SrcPort)
	if o.Dst == r.Src {
		to = fmt.Sprintf("port %d of it", r.SrcPort)
	}
	w.say("nat", "The destination is translated (%s): what is sent to %s goes to %s.", what, end(o, o.Dst, o.DstPort), to)
}

func (w *writer) snat() {
	o, r := &w.f.Orig, &w.f.Reply
	as := end(r, r.Dst, r.DstPort)
	switch {
	case o.Src == r.Dst && o.HasPorts():
		w.say("nat", "The port of the source is translated: %s sees %s as %s. NAT does so by itself where the port is taken.", r.Src, end(o, o.Src, o.SrcPort), as)
	case o.Src == r.Dst:
		w.say("nat", "The id of the source is translated: it was taken.")
	case w.own(r.Dst):
		w.say("nat", "The source is translated (masquerade, or SNAT to an address of this host; the entry does not say which): %s sees %s as %s.", r.Src, end(o, o.Src, o.SrcPort), as)
	case len(w.set.Own) > 0 && w.Place == Listed:
		w.say("nat", "The source is translated (SNAT, to an address that is not this host's own): %s sees %s as %s.", r.Src, end(o, o.Src, o.SrcPort), as)
	default:
		w.say("nat", "The source is translated (SNAT or masquerade; the entry does not say which): %s sees %s as %s.", r.Src, end(o, o.Src, o.SrcPort), as)
	}
}

// traffic says what each direction has carried.
func (w *writer) traffic() {
	if !w.has(conntrack.AttrOrigCounters) && !w.has(conntrack.AttrReplyCounters) {
		return
	}
	o, r := w.f.OrigCounters, w.f.ReplyCounters
	w.say("traffic", "%s (%s) from the originator, %s (%s) back.", packets(o), size(o), packets(r), size(r))
}

func packets(c conntrack.Counters) string {
	if c.Packets == 1 {
		return "1 packet"
	}
	return fmt.Sprintf("%d packets", c.Packets)
}

func size(c conntrack.Counters) string { return string(show.AppendBytes(nil, c.Bytes)) }
