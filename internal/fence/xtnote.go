package fence

import (
	"encoding/binary"
	"net/netip"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/nflog"
)

// xtNotes are what rules of iptables have copied to us, by tuples as they were in
// the packets. Where a packet was copied its destination was translated already,
// and its source was not.
type xtNotes struct {
	dead        map[conntrack.Tuple]bool
	reset       map[conntrack.Tuple]bool
	unreachable map[conntrack.Tuple]bool
	knock       map[conntrack.Tuple]time.Time
	spoke       map[conntrack.Tuple]xtSpoken
}

// xtSpoken is the last segment of an end that was stopped.
type xtSpoken struct {
	at   time.Time
	next uint32
}

func newXTNotes() xtNotes {
	return xtNotes{
		dead: map[conntrack.Tuple]bool{}, reset: map[conntrack.Tuple]bool{}, unreachable: map[conntrack.Tuple]bool{},
		knock: map[conntrack.Tuple]time.Time{}, spoke: map[conntrack.Tuple]xtSpoken{},
	}
}

// put adds to a map as long as it has room for that.
func put[V any](m map[conntrack.Tuple]V, t conntrack.Tuple, v V) {
	if _, has := m[t]; has || len(m) < setSize {
		m[t] = v
	}
}

// take takes down a packet.
func (n *xtNotes) take(p nflog.Packet) {
	t, payload, ok := parsePacket(p.Data)
	if !ok {
		return
	}
	switch p.Prefix {
	case xtDead:
		put(n.dead, t, true)
	case xtPast:
		put(n.reset, t, true)
	case xtKnock:
		put(n.knock, t, time.Now())
	case xtSpoke:
		if len(payload) >= 12 {
			put(n.spoke, t, xtSpoken{time.Now(), binary.BigEndian.Uint32(payload[8:])})
		}
	case xtTold:
		const header = 8 // of an ICMP error
		if t.Proto == conntrack.ProtoTCP {
			put(n.reset, t.Invert(), true)
		} else if len(payload) > header {
			if quoted, _, ok := parsePacket(payload[header:]); ok {
				put(n.unreachable, quoted, true)
			}
		}
	}
}

// parsePacket returns the tuple of a packet and what is behind its IP header. A
// packet with extension headers has none that we ask for.
func parsePacket(b []byte) (t conntrack.Tuple, payload []byte, ok bool) {
	const four, six = 20, 40
	switch {
	case len(b) >= four && b[0]>>4 == 4:
		t.Proto = conntrack.Proto(b[9])
		t.Src, t.Dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		head := int(b[0]&15) * 4
		if head < four || head > len(b) {
			return t, nil, false
		}
		payload = b[head:]
	case len(b) >= six && b[0]>>4 == 6:
		t.Proto = conntrack.Proto(b[6])
		t.Src, t.Dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		payload = b[six:]
	default:
		return t, nil, false
	}
	switch {
	case t.IsICMP():
		if len(payload) < 6 {
			return t, nil, false
		}
		t.ICMPType, t.ICMPCode, t.ICMPID = payload[0], payload[1], binary.BigEndian.Uint16(payload[4:])
	case t.HasPorts():
		if len(payload) < 4 {
			return t, nil, false
		}
		t.SrcPort, t.DstPort = binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:])
	}
	return t, payload, true
}

// xtEnds are the ends of cut flows, by what their packets look like.
type xtEnds struct {
	sent   map[conntrack.Tuple]bool            // as they are sent
	inside map[conntrack.Tuple]conntrack.Tuple // with the destination translated; the zero tuple where two look the same
}

func newXTEnds() xtEnds {
	return xtEnds{sent: map[conntrack.Tuple]bool{}, inside: map[conntrack.Tuple]conntrack.Tuple{}}
}

// add adds the ends of a flow.
func (e *xtEnds) add(orig, reply conntrack.Tuple) {
	e.sent[orig], e.sent[reply] = true, true
	there, back := orig, reply
	there.Dst, there.DstPort = reply.Src, reply.SrcPort
	back.Dst, back.DstPort, back.ICMPID = orig.Src, orig.SrcPort, orig.ICMPID
	for seen, end := range map[conntrack.Tuple]conntrack.Tuple{there: orig, back: reply} {
		if other, has := e.inside[seen]; has && other != end {
			end = conntrack.Tuple{}
		}
		e.inside[seen] = end
	}
}

// of returns the end that sends what looks like t; false if that is none, or if
// it cannot be told.
func (e *xtEnds) of(t conntrack.Tuple) (end conntrack.Tuple, ok bool) {
	if e.sent[t] {
		return t, true
	}
	end = e.inside[t]
	return end, end != conntrack.Tuple{}
}
