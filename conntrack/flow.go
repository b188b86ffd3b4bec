// Package conntrack reads and changes the kernel's connection tracking table
// over ctnetlink.
//
// A [Flow] is one entry of the table. A [Client] talks to the table of one
// network namespace: it dumps, gets, creates, updates and deletes entries, and
// each [Expectation] of flows to come.
package conntrack

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"
)

// Attr tells which attributes of a Flow are present, one bit each.
//
// The kernel leaves out what a flow does not have; a zero field without its
// bit means "not sent", with its bit it means zero.
type Attr uint32

// The attributes of a Flow. Each names the CTA_ attribute it stands for.
const (
	AttrOrig          Attr = 1 << iota // CTA_TUPLE_ORIG
	AttrReply                          // CTA_TUPLE_REPLY
	AttrZone                           // CTA_ZONE
	AttrOrigZone                       // CTA_TUPLE_ZONE in CTA_TUPLE_ORIG
	AttrReplyZone                      // CTA_TUPLE_ZONE in CTA_TUPLE_REPLY
	AttrStatus                         // CTA_STATUS
	AttrTimeout                        // CTA_TIMEOUT
	AttrMark                           // CTA_MARK
	AttrLabels                         // CTA_LABELS
	AttrOrigCounters                   // CTA_COUNTERS_ORIG
	AttrReplyCounters                  // CTA_COUNTERS_REPLY
	AttrStart                          // CTA_TIMESTAMP_START
	AttrStop                           // CTA_TIMESTAMP_STOP
	AttrTCP                            // CTA_PROTOINFO_TCP
	AttrSCTP                           // CTA_PROTOINFO_SCTP
	AttrDCCP                           // CTA_PROTOINFO_DCCP
	AttrHelper                         // CTA_HELP
	AttrSecCtx                         // CTA_SECCTX
	AttrSecMark                        // CTA_SECMARK, obsolete
	AttrMaster                         // CTA_TUPLE_MASTER
	AttrOrigSeqAdj                     // CTA_SEQ_ADJ_ORIG
	AttrReplySeqAdj                    // CTA_SEQ_ADJ_REPLY
	AttrSynproxy                       // CTA_SYNPROXY
	AttrID                             // CTA_ID
	AttrUse                            // CTA_USE
)

// Flow is one entry of the connection tracking table.
//
// The zero value has no attribute. Values may be copied freely, except that
// a Flow yielded by [Client.Dump] is overwritten by the next step: keep a
// [Flow.Clone].
type Flow struct {
	Has Attr // which of the fields below the kernel sent

	Orig  Tuple // as the originator sends
	Reply Tuple // as the responder sends, before NAT is undone

	Zone      Zone // both directions, 0 is the default zone
	OrigZone  Zone // original direction alone
	ReplyZone Zone // reply direction alone

	Status  Status
	Timeout time.Duration // until the entry expires, whole seconds; absent for offloaded flows
	Mark    Mark
	Labels  Labels

	OrigCounters  Counters
	ReplyCounters Counters

	Start time.Time // needs net.netfilter.nf_conntrack_timestamp=1 when the flow began
	Stop  time.Time // in destroy events alone

	TCP  TCP
	SCTP SCTP
	DCCP DCCP

	Helper   string // name of the helper, such as "ftp"
	HelpInfo []byte // CTA_HELP_INFO, a helper's own bytes, owned by the Flow
	SecCtx   string // security context of SELinux or the like
	SecMark  uint32 // obsolete, kernels before 2.6.36

	Master      Tuple // original tuple of the flow that expected this one
	OrigSeqAdj  SeqAdj
	ReplySeqAdj SeqAdj
	Synproxy    Synproxy
	ID          uint32 // kernel's handle of this entry, in host byte order of the wire's big-endian value
	Use         uint32 // references held on the entry
}

// Zone is a conntrack zone; flows in different zones may have equal tuples.
type Zone uint16

// Mark is the connection mark, ctmark.
type Mark uint32

// Key names one entry of the table. A later flow on the same tuple has another
// ID, unless the kernel gives it the very memory that the entry before it had,
// which it likes to do when one follows at once on the other.
type Key struct {
	Orig Tuple
	Zone Zone   // zone of the original direction, whether or not the reply's is the same
	ID   uint32 // Flow.ID
}

// Key returns what [Client.Delete] needs to delete this flow and no other.
func (f *Flow) Key() Key {
	k := Key{Orig: f.Orig, ID: f.ID}
	switch {
	case f.Has&AttrZone != 0:
		k.Zone = f.Zone
	case f.Has&AttrOrigZone != 0:
		k.Zone = f.OrigZone
	}
	return k
}

// String returns the tuple, the zone if there is one, and the ID.
func (k Key) String() string {
	s := k.Orig.String()
	if k.Zone != 0 {
		s += " zone " + strconv.Itoa(int(k.Zone))
	}
	return s + " id " + strconv.FormatUint(uint64(k.ID), 10)
}

// Clone returns a copy that shares no memory with f.
func (f *Flow) Clone() *Flow {
	c := *f
	c.HelpInfo = slices.Clone(f.HelpInfo)
	return &c
}

// PickedUp tells whether the flow looks adopted in mid-stream: connection
// tracking saw no handshake and took it from a packet of a running TCP
// connection, as net.netfilter.nf_conntrack_tcp_loose=1 allows.
//
// It is a hint, not a proof: entries that a program made or restored, and
// connections older than the table, look the same.
func (f *Flow) PickedUp() bool {
	if f.Has&AttrTCP == 0 {
		return false
	}
	both := f.TCP.OrigFlags & f.TCP.ReplyFlags
	either := f.TCP.OrigFlags | f.TCP.ReplyFlags
	return both&TCPBeLiberal != 0 && either&TCPWindowScale == 0
}

// Attributes of a conntrack message, enum ctattr_type.
const (
	attrTupleOrig     attrType = 1  // CTA_TUPLE_ORIG
	attrTupleReply    attrType = 2  // CTA_TUPLE_REPLY
	attrStatus        attrType = 3  // CTA_STATUS
	attrProtoinfo     attrType = 4  // CTA_PROTOINFO
	attrHelp          attrType = 5  // CTA_HELP
	attrNATSrc        attrType = 6  // CTA_NAT_SRC
	attrTimeout       attrType = 7  // CTA_TIMEOUT
	attrMark          attrType = 8  // CTA_MARK
	attrCountersOrig  attrType = 9  // CTA_COUNTERS_ORIG
	attrCountersReply attrType = 10 // CTA_COUNTERS_REPLY
	attrUse           attrType = 11 // CTA_USE
	attrID            attrType = 12 // CTA_ID
	attrNATDst        attrType = 13 // CTA_NAT_DST
	attrTupleMaster   attrType = 14 // CTA_TUPLE_MASTER
	attrSeqAdjOrig    attrType = 15 // CTA_SEQ_ADJ_ORIG
	attrSeqAdjReply   attrType = 16 // CTA_SEQ_ADJ_REPLY
	attrSecMark       attrType = 17 // CTA_SECMARK
	attrZone          attrType = 18 // CTA_ZONE
	attrSecCtx        attrType = 19 // CTA_SECCTX
	attrTimestamp     attrType = 20 // CTA_TIMESTAMP
	attrMarkMask      attrType = 21 // CTA_MARK_MASK
	attrLabels        attrType = 22 // CTA_LABELS
	attrSynproxy      attrType = 24 // CTA_SYNPROXY
	attrFilter        attrType = 25 // CTA_FILTER
	attrStatusMask    attrType = 26 // CTA_STATUS_MASK
)

// parseFlow reads the attributes of one conntrack message into f, whose old
// value is gone afterwards, also on error. The bytes are not kept.
func parseFlow(b []byte, f *Flow) error {
	// Most flows have the texts of the one before: they need no new memory.
	*f = Flow{Helper: f.Helper, SecCtx: f.SecCtx}
	err := f.parse(b)
	if err != nil || f.Has&AttrHelper == 0 {
		f.Helper = ""
	}
	if err != nil || f.Has&AttrSecCtx == 0 {
		f.SecCtx = ""
	}
	return err
}

// parse reads attributes into f, which has none, but may have texts that were
// another flow's.
func (f *Flow) parse(b []byte) error {
	for len(b) > 0 {
		t, v, rest, err := nextAttr(b, "conntrack message")
		if err != nil {
			return err
		}
		b = rest
		if t <= attrTimeout {
			err = f.parseCommon(t, v)
		} else {
			err = f.parseRest(t, v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// parseCommon reads the attributes up to CTA_TIMEOUT.
func (f *Flow) parseCommon(t attrType, v []byte) (err error) {
	var n uint32
	var zone bool
	switch t {
	case attrTupleOrig:
		f.Has = f.Has&^AttrOrigZone | AttrOrig
		if f.Orig, f.OrigZone, zone, err = parseTuple(v, "CTA_TUPLE_ORIG"); zone {
			f.Has |= AttrOrigZone
		}
	case attrTupleReply:
		f.Has = f.Has&^AttrReplyZone | AttrReply
		if f.Reply, f.ReplyZone, zone, err = parseTuple(v, "CTA_TUPLE_REPLY"); zone {
			f.Has |= AttrReplyZone
		}
	case attrStatus:
		f.Has |= AttrStatus
		n, err = parseUint32(v, "CTA_STATUS")
		f.Status = Status(n)
	case attrProtoinfo:
		err = f.parseProtoinfo(v)
	case attrHelp:
		f.Has |= AttrHelper
		err = f.parseHelp(v)
	case attrTimeout:
		f.Has |= AttrTimeout
		n, err = parseUint32(v, "CTA_TIMEOUT")
		f.Timeout = time.Duration(n) * time.Second
	}
	return err
}

// parseRest reads the attributes after CTA_TIMEOUT.
func (f *Flow) parseRest(t attrType, v []byte) (err error) {
	var n uint32
	var z uint16
	switch t {
	case attrMark:
		f.Has |= AttrMark
		n, err = parseUint32(v, "CTA_MARK")
		f.Mark = Mark(n)
	case attrCountersOrig:
		f.Has |= AttrOrigCounters
		err = f.OrigCounters.parse(v, "CTA_COUNTERS_ORIG")
	case attrCountersReply:
		f.Has |= AttrReplyCounters
		err = f.ReplyCounters.parse(v, "CTA_COUNTERS_REPLY")
	case attrUse:
		f.Has |= AttrUse
		f.Use, err = parseUint32(v, "CTA_USE")
	case attrID:
		f.Has |= AttrID
		f.ID, err = parseUint32(v, "CTA_ID")
	case attrTupleMaster:
		f.Has |= AttrMaster
		f.Master, _, _, err = parseTuple(v, "CTA_TUPLE_MASTER")
	case attrSeqAdjOrig:
		f.Has |= AttrOrigSeqAdj
		err = f.OrigSeqAdj.parse(v, "CTA_SEQ_ADJ_ORIG")
	case attrSeqAdjReply:
		f.Has |= AttrReplySeqAdj
		err = f.ReplySeqAdj.parse(v, "CTA_SEQ_ADJ_REPLY")
	case attrSecMark:
		f.Has |= AttrSecMark
		f.SecMark, err = parseUint32(v, "CTA_SECMARK")
	case attrZone:
		f.Has |= AttrZone
		z, err = parseUint16(v, "CTA_ZONE")
		f.Zone = Zone(z)
	case attrSecCtx:
		f.Has |= AttrSecCtx
		err = f.parseSecCtx(v)
	case attrTimestamp:
		err = f.parseTimestamp(v)
	case attrLabels:
		f.Has |= AttrLabels
		err = f.Labels.parse(v)
	case attrSynproxy:
		f.Has |= AttrSynproxy
		err = f.Synproxy.parse(v)
	}
	return err
}

// appendFlow appends every attribute that f has, as the kernel would send it.
func appendFlow(b []byte, f *Flow) ([]byte, error) {
	if err := f.validateText(); err != nil {
		return nil, err
	}
	b, err := f.appendTuples(b)
	if err != nil {
		return nil, err
	}
	if f.Has&AttrStatus != 0 {
		b = appendUint32(b, attrStatus, uint32(f.Status))
	}
	if f.Has&AttrTimeout != 0 {
		if b, err = f.appendTimeout(b); err != nil {
			return nil, err
		}
	}
	if f.Has&AttrOrigCounters != 0 {
		b = f.OrigCounters.append(b, attrCountersOrig)
	}
	if f.Has&AttrReplyCounters != 0 {
		b = f.ReplyCounters.append(b, attrCountersReply)
	}
	b = f.appendTimestamp(b)
	b = f.appendState(b)
	if f.Has&AttrSecMark != 0 {
		b = appendUint32(b, attrSecMark, f.SecMark)
	}
	if f.Has&AttrSecCtx != 0 {
		b = f.appendSecCtx(b)
	}
	if f.Has&AttrID != 0 {
		b = appendUint32(b, attrID, f.ID)
	}
	if f.Has&AttrUse != 0 {
		b = appendUint32(b, attrUse, f.Use)
	}
	return b, nil
}

// appendTuples appends the tuples and the zone.
func (f *Flow) appendTuples(b []byte) ([]byte, error) {
	for _, t := range [...]struct {
		attr Attr
		typ  attrType
		name string
		t    *Tuple
		z    Zone
		zone bool
	}{
		{AttrOrig, attrTupleOrig, "original tuple", &f.Orig, f.OrigZone, f.Has&AttrOrigZone != 0},
		{AttrReply, attrTupleReply, "reply tuple", &f.Reply, f.ReplyZone, f.Has&AttrReplyZone != 0},
		{AttrMaster, attrTupleMaster, "master tuple", &f.Master, 0, false},
	} {
		if f.Has&t.attr == 0 {
			continue
		}
		if err := t.t.validate(); err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
		b = appendTuple(b, t.typ, t.t, t.z, t.zone)
	}
	if f.Has&AttrZone != 0 {
		b = appendUint16(b, attrZone, uint16(f.Zone))
	}
	return b, nil
}

// appendTimeout appends CTA_TIMEOUT.
func (f *Flow) appendTimeout(b []byte) ([]byte, error) {
	s := f.Timeout / time.Second
	if s < 0 || s > math.MaxUint32 {
		return nil, fmt.Errorf("timeout out of range: %v", f.Timeout)
	}
	return appendUint32(b, attrTimeout, uint32(s)), nil
}

// appendState appends what a request may also set: protocol state, helper,
// mark, labels, sequence adjustment, synproxy.
func (f *Flow) appendState(b []byte) []byte {
	b = f.appendProtoinfo(b)
	if f.Has&AttrHelper != 0 {
		b = f.appendHelp(b)
	}
	if f.Has&AttrMark != 0 {
		b = appendUint32(b, attrMark, uint32(f.Mark))
	}
	if f.Has&AttrLabels != 0 {
		labels := f.Labels.turned()
		b = appendAttr(b, attrLabels, labels[:])
	}
	if f.Has&AttrOrigSeqAdj != 0 {
		b = f.OrigSeqAdj.append(b, attrSeqAdjOrig)
	}
	if f.Has&AttrReplySeqAdj != 0 {
		b = f.ReplySeqAdj.append(b, attrSeqAdjReply)
	}
	if f.Has&AttrSynproxy != 0 {
		b = f.Synproxy.append(b)
	}
	return b
}
