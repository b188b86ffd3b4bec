package returns

import (
	"encoding/binary"
	"net/netip"
	"time"

	"flowcut/conntrack"
)

// record is what a book has of a flow, in 64 bytes.
type record struct {
	tuples  [36]byte  // both of IPv4; the original one of IPv6
	next    [2]uint32 // links, see store
	id      uint32    // Flow.ID; of an ended life where its ending is
	expires uint32    // when it will, or would have, in seconds since 1970; later for TCP
	beganLo uint32    // milliseconds since 1970
	beganHi uint16
	flags   uint16
	zone    uint16
	proto   uint8
}

// Flags of a record.
const (
	flagUsed      = 1 << iota
	flagIPv6      // tuples has the original one alone
	flagNAT6      // the reply is not its inverse, and is in store.replies
	flagOrigZone  // zone is that of the original direction
	flagReplyZone // zone is that of the reply direction
	flagSeen      // in the listing, or after it began
	flagAnnounced // an event came: so will its end
	flagJudged    // whether it is a return is decided
	flagPicked    // it was picked up then
	flagReturned
	flagEnded // a remembered life
	flagTold  // its end was announced
)

// living tells whether a record is not that of an ended life.
func living(r *record) bool { return r.flags&flagEnded == 0 }

// whole tells whether a flow has both tuples, of one family: all of the kernel's do.
func whole(f *conntrack.Flow) bool {
	const both = conntrack.AttrOrig | conntrack.AttrReply
	return f.Has&both == both && f.Orig.Family() == f.Reply.Family()
}

// note takes what an event tells for later ones.
func (r *record) note(e *conntrack.Event, at time.Time) {
	r.flags |= flagSeen
	r.expires = expires(e.Flow, at)
	if e.Kind != conntrack.EventSync {
		r.flags |= flagAnnounced
	}
	if e.Kind == conntrack.EventNew || judges(e.Flow) {
		r.flags |= flagJudged
		if e.Flow.PickedUp() {
			r.flags |= flagPicked
		}
	}
}

// begin notes when the flow began; zero is unknown.
func (r *record) begin(t time.Time) {
	var ms uint64
	if !t.IsZero() {
		ms = uint64(max(0, t.UnixMilli()))
	}
	r.beganLo, r.beganHi = uint32(ms), uint16(ms>>32)
}

// began returns what begin noted, in whole milliseconds.
func (r *record) began() time.Time {
	ms := uint64(r.beganHi)<<32 | uint64(r.beganLo)
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(ms))
}

// began returns when the flow of an event began: as the kernel says, or else what
// is known.
func began(e *conntrack.Event, known time.Time) time.Time {
	if e.Flow.Has&conntrack.AttrStart != 0 {
		return e.Flow.Start
	}
	return known
}

// expires returns when the entry expires, or would have, in seconds since 1970.
// Where the kernel does not say it is now.
func expires(f *conntrack.Flow, at time.Time) uint32 {
	return uint32(at.Add(f.Timeout).Unix())
}

// handshakes tells whether connections of a protocol begin with a handshake that
// conntrack knows.
func handshakes(p conntrack.Proto) bool {
	return p == conntrack.ProtoTCP || p == conntrack.ProtoSCTP || p == conntrack.ProtoDCCP
}

// adopted tells whether a flow of a protocol with a handshake began without.
func adopted(f *conntrack.Flow) bool {
	switch f.Orig.Proto {
	case conntrack.ProtoSCTP:
		return f.Has&conntrack.AttrSCTP != 0 && f.SCTP.State != conntrack.SCTPCookieWait
	case conntrack.ProtoDCCP:
		return f.Has&conntrack.AttrDCCP != 0 && f.DCCP.State != conntrack.DCCPRequest
	}
	return f.PickedUp()
}

// judges tells whether an event that is no EventNew tells enough to see whether
// its flow is a return. The state of SCTP and DCCP says nothing any more.
func judges(f *conntrack.Flow) bool {
	return !handshakes(f.Orig.Proto) || f.Has&conntrack.AttrTCP != 0
}

// key is a tuple in a zone, to be compared and hashed.
type key [40]byte

// keyOf returns the key of a tuple.
func keyOf(t *conntrack.Tuple, z conntrack.Zone) (k key) {
	putEnds(k[:36], t)
	k[36] = uint8(t.Proto)
	if t.Src.Is4() {
		k[37] = 4
	}
	binary.NativeEndian.PutUint16(k[38:], uint16(z))
	return k
}

// zone returns the zone of a direction.
func zone(f *conntrack.Flow, dir int) conntrack.Zone {
	switch {
	case f.Has&conntrack.AttrZone != 0:
		return f.Zone
	case dir == 0 && f.Has&conntrack.AttrOrigZone != 0:
		return f.OrigZone
	case dir == 1 && f.Has&conntrack.AttrReplyZone != 0:
		return f.ReplyZone
	}
	return 0
}

// pack writes the flow's tuples, zone and protocol. whole is false if the reply
// tuple is to be kept beside.
func (r *record) pack(f *conntrack.Flow) (whole bool) {
	r.proto = uint8(f.Orig.Proto)
	switch {
	case f.Has&conntrack.AttrZone != 0:
		r.zone, r.flags = uint16(f.Zone), r.flags|flagOrigZone|flagReplyZone
	case f.Has&conntrack.AttrOrigZone != 0:
		r.zone, r.flags = uint16(f.OrigZone), r.flags|flagOrigZone
	case f.Has&conntrack.AttrReplyZone != 0:
		r.zone, r.flags = uint16(f.ReplyZone), r.flags|flagReplyZone
	}
	if f.Orig.Src.Is4() {
		putEnds(r.tuples[:12], &f.Orig)
		putEnds(r.tuples[12:24], &f.Reply)
		return true
	}
	putEnds(r.tuples[:], &f.Orig)
	r.flags |= flagIPv6
	return f.Reply == f.Orig.Invert()
}

// putEnds writes addresses and ports, or what stands for these: 12 bytes of IPv4
// into 12 or more, 36 of IPv6.
func putEnds(b []byte, t *conntrack.Tuple) {
	src, dst := t.SrcPort, t.DstPort
	if t.IsICMP() {
		src, dst = t.ICMPID, uint16(t.ICMPType)<<8|uint16(t.ICMPCode)
	}
	binary.NativeEndian.PutUint16(b, src)
	binary.NativeEndian.PutUint16(b[2:], dst)
	if t.Src.Is4() {
		s, d := t.Src.As4(), t.Dst.As4()
		copy(b[4:], s[:])
		copy(b[8:], d[:])
		return
	}
	s, d := t.Src.As16(), t.Dst.As16()
	copy(b[4:], s[:])
	copy(b[20:], d[:])
}

// ends is the counterpart of putEnds.
func ends(b []byte, p conntrack.Proto) conntrack.Tuple {
	t := conntrack.Tuple{Proto: p}
	src, dst := binary.NativeEndian.Uint16(b), binary.NativeEndian.Uint16(b[2:])
	if t.IsICMP() {
		t.ICMPID, t.ICMPType, t.ICMPCode = src, uint8(dst>>8), uint8(dst)
	} else {
		t.SrcPort, t.DstPort = src, dst
	}
	if len(b) == 12 {
		t.Src, t.Dst = netip.AddrFrom4([4]byte(b[4:])), netip.AddrFrom4([4]byte(b[8:]))
	} else {
		t.Src, t.Dst = netip.AddrFrom16([16]byte(b[4:])), netip.AddrFrom16([16]byte(b[20:]))
	}
	return t
}
