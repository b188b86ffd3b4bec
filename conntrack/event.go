package conntrack

import (
	"encoding/binary"
	"strings"
	"time"
)

// EventKind says what an [Event] tells. Kinds are bits, so that a set of them
// is their sum: EventNew|EventDestroy.
type EventKind uint8

// Kinds of events. The first three are the kernel's own, for flows and for
// expectations; the others are the [Listener]'s.
const (
	EventNew     EventKind = 1 << iota // it was made
	EventUpdate                        // it changed; of the attributes only some are sent, changed or not
	EventDestroy                       // it ended, and this is how it was then

	// EventOverrun: the queue ran over and events were lost. Those that were
	// queued before the loss may still follow. Flow and Expect are nil.
	EventOverrun

	// EventSyncBegin: a listing of the table begins, an EventSync for each
	// flow with other events in between, ended by EventSynced. Flow and
	// Expect are nil. Another EventSyncBegin instead of EventSynced means
	// that it begins again, because of an overrun.
	EventSyncBegin

	// EventSync: the flow is in the table.
	EventSync

	// EventSynced: the listing is complete. A flow that had no EventSync,
	// EventNew or EventUpdate since EventSyncBegin is gone.
	EventSynced

	// EventAll is the set of what the kernel tells.
	EventAll = EventNew | EventUpdate | EventDestroy
)

// eventNames has a name for each bit of EventKind, from the lowest.
var eventNames = [...]string{"new", "update", "destroy", "overrun", "sync-begin", "sync", "synced"}

// String returns a name such as "new"; those of a set are joined by "|".
func (k EventKind) String() string {
	var names []string
	for i, name := range eventNames {
		if k&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "|")
}

// Event is one thing that happened to a flow or an expectation, or to the
// stream of events itself.
type Event struct {
	Kind   EventKind
	Flow   *Flow        // nil in events of expectations and of the stream
	Expect *Expectation // nil in events of flows and of the stream

	// Time is when it happened by the kernel's clock; zero unless the kernel
	// says, which needs Linux 6.14 and the sysctl nf_conntrack_timestamp set
	// when the flow began. Never for expectations.
	// Wire: CTA_TIMESTAMP_EVENT, big-endian nanoseconds since 1970.
	Time time.Time

	// PortID is the netlink port of the program that did it, such as by a
	// delete; 0 for what packets and timeouts do. It is mostly, but need not
	// be, the program's process ID.
	// Wire: nlmsg_pid.
	PortID uint32
}

// attrTimestampEvent is of enum ctattr_type.
const attrTimestampEvent attrType = 27 // CTA_TIMESTAMP_EVENT

// Groups of the messages of events.
// Source: include/uapi/linux/netfilter/nfnetlink.h, enum nfnetlink_groups.
const (
	groupNew           = 1 // NFNLGRP_CONNTRACK_NEW
	groupUpdate        = 2 // NFNLGRP_CONNTRACK_UPDATE
	groupDestroy       = 3 // NFNLGRP_CONNTRACK_DESTROY
	groupExpectNew     = 4 // NFNLGRP_CONNTRACK_EXP_NEW
	groupExpectUpdate  = 5 // NFNLGRP_CONNTRACK_EXP_UPDATE
	groupExpectDestroy = 6 // NFNLGRP_CONNTRACK_EXP_DESTROY
)

// eventKind tells what a message of the groups says, 0 if it is of none.
//
// The kernel sends the same type for what is new and for what changed; what is
// new has NLM_F_CREATE.
func eventKind(h header) (k EventKind, expect bool) {
	switch h.typ {
	case msgDelete, msgExpDelete:
		k = EventDestroy
	case msgNew, msgExpNew:
		k = EventUpdate
		if h.flags&flagCreate != 0 {
			k = EventNew
		}
	}
	return k, h.typ == msgExpNew || h.typ == msgExpDelete
}

// eventRoom is where the values of an Event are, to be used again.
type eventRoom struct {
	ev     Event
	flow   Flow
	expect Expectation
}

// parse reads the first message of a datagram and returns the rest. ev.Kind is
// 0 if it is no event.
func (r *eventRoom) parse(b []byte) (rest []byte, family Family, err error) {
	r.ev = Event{}
	h, payload, rest, err := nextMessage(b)
	if err != nil {
		return nil, 0, err
	}
	kind, expect := eventKind(h)
	if kind == 0 {
		return rest, 0, nil
	}
	attrs, err := attributes(payload)
	if err != nil {
		return nil, 0, err
	}
	if expect {
		if err := parseExpectation(attrs, &r.expect); err != nil {
			return nil, 0, err
		}
		r.ev.Expect = &r.expect
	} else {
		if err := parseFlow(attrs, &r.flow); err != nil {
			return nil, 0, err
		}
		if r.ev.Time, err = parseEventTime(attrs); err != nil {
			return nil, 0, err
		}
		r.ev.Flow = &r.flow
	}
	r.ev.Kind = kind
	r.ev.PortID = binary.NativeEndian.Uint32(b[12:]) // struct nlmsghdr
	return rest, Family(payload[0]), nil
}

// parseEventTime finds CTA_TIMESTAMP_EVENT.
func parseEventTime(b []byte) (time.Time, error) {
	for len(b) > 0 {
		t, v, rest, err := nextAttr(b, "conntrack message")
		if err != nil {
			return time.Time{}, err
		}
		if t == attrTimestampEvent {
			return parseTime(v, "CTA_TIMESTAMP_EVENT")
		}
		b = rest
	}
	return time.Time{}, nil
}
