// Package explain says in plain words what a flow is: who opened it, what
// translates it, where it is in its protocol's life, and for how long the kernel
// will keep it.
package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/oneline"
)

// Place says where a flow is, as far as the table was asked.
type Place uint8

// Places.
const (
	Listed   Place = iota // it is an entry of the table, and Flow is that entry
	Unasked               // it is from a text; the table could not be asked
	Gone                  // it is from a text, and not in the table
	Replaced              // its tuple is another entry's by now, which is Other
	Mirrored              // it has come back in the other direction, as Other
)

// String returns "listed", "unasked", "gone", "replaced" or "mirrored".
func (p Place) String() string {
	return [...]string{Listed: "listed", Unasked: "unasked", Gone: "gone", Replaced: "replaced", Mirrored: "mirrored"}[p]
}

// Subject is a flow with what is known of it beside its attributes.
type Subject struct {
	Flow     *conntrack.Flow     // with Orig and Reply
	Line     bool                // from a line, which has not all that a flow has
	Known    conntrack.Status    // bits of Flow.Status that are known; 0: all
	Event    conntrack.EventKind // that the text tells of; 0: none
	Returned bool                // it was seen to come back after its deletion
	Place    Place
	Why      string          // why the table could not be asked, with Unasked
	Other    *conntrack.Flow // with Replaced and Mirrored
	Master   *conntrack.Flow // entry of the flow that expected it; nil if there is none
}

// Settings are what there is to know of the namespace.
type Settings struct {
	Now       time.Time
	Values    map[string]int       // of [Sysctls]; [sysctl.Absent] for what the kernel has not. What is not there could not be read
	Own       []netip.Addr         // addresses of the host, in the namespace
	LabelName func(bit int) string // nil: none has a name
	NetNS     string               // what to give to --netns; "" for the one we are in
}

// Statement is something to say about a flow.
type Statement struct {
	Topic   string `json:"topic"` // one of [Topics]
	Text    string `json:"text"`
	Sysctl  string `json:"sysctl,omitempty"`  // the setting that it is about
	Command string `json:"command,omitempty"` // that does what the text says
}

// Topics are what statements are about, in the order of [Flow].
var Topics = []string{"from", "opened", "nat", "traffic", "state", "flag", "kept", "room", "missing", "picked-up", "cut"}

// Flow returns what there is to say about a flow, in the order of [Topics]. It asks
// nobody: what it says follows from the subject and the settings. What others have
// written, such as names, is fit for a terminal.
func Flow(s *Subject, set *Settings) []Statement {
	w := writer{Subject: s, set: set, f: s.Flow}
	switch {
	case s.Flow.Has&conntrack.AttrStatus == 0: // as of JSON that somebody has shortened
	case s.Known == 0:
		w.known = ^conntrack.Status(0)
	default:
		w.known = s.Known
	}
	for _, part := range []func(*writer){
		(*writer).from, (*writer).opened, (*writer).nat, (*writer).traffic, (*writer).state,
		(*writer).flags, (*writer).kept, (*writer).room, (*writer).missing, (*writer).pickedUp, (*writer).cut,
	} {
		part(&w)
	}
	return w.out
}

// writer makes the statements about one flow.
type writer struct {
	*Subject
	set   *Settings
	f     *conntrack.Flow
	known conntrack.Status
	out   []Statement
}

// say adds a statement.
func (w *writer) say(topic, format string, args ...any) *Statement {
	w.out = append(w.out, Statement{Topic: topic, Text: fmt.Sprintf(format, args...)})
	return &w.out[len(w.out)-1]
}

// is tells whether bits of the status are known to be set, and not whether they
// are known not to be.
func (w *writer) is(bits conntrack.Status) bool { return w.f.Status&w.known&bits == bits }

// isNot tells whether a bit of the status is known not to be set.
func (w *writer) isNot(bit conntrack.Status) bool { return w.known&bit != 0 && w.f.Status&bit == 0 }

func (w *writer) has(a conntrack.Attr) bool { return w.f.Has&a != 0 }

// ended tells whether the flow is one that is no more.
func (w *writer) ended() bool {
	return w.Event == conntrack.EventDestroy || w.Place == Gone || w.Place == Replaced || w.Place == Mirrored
}

// offloaded tells whether a flowtable forwards the packets.
func (w *writer) offloaded() bool {
	return w.is(conntrack.StatusOffload) || w.is(conntrack.StatusHWOffload)
}

// value returns a setting; ok is false where it could not be read or is not there.
func (w *writer) value(key string) (v int, ok bool) {
	v, ok = w.set.Values[key]
	return v, ok && v >= 0
}

// own tells whether an address is the host's.
func (w *writer) own(a netip.Addr) bool { return slices.Contains(w.set.Own, a) }

// addr names an address.
func (w *writer) addr(a netip.Addr) string {
	if w.own(a) {
		return a.String() + " (this host)"
	}
	return a.String()
}

// end names an end: an address, with its port if it has one.
func end(t *conntrack.Tuple, a netip.Addr, port uint16) string {
	if t.HasPorts() {
		return netip.AddrPortFrom(a, port).String()
	}
	return a.String()
}

// from says what the explanation stands on.
func (w *writer) from() {
	text := "the text"
	switch w.Event {
	case conntrack.EventNew:
		text = "the text, which says that it began"
	case conntrack.EventUpdate:
		text = "the text, which says that it changed and does not have all of it"
	case conntrack.EventDestroy:
		text = "the text, which says that it ended"
	}
	switch w.Place {
	case Listed:
		w.say("from", "An entry of the table, as it is now.")
	case Unasked:
		w.say("from", "From %s. The table could not be asked: %s.", text, oneline.Text(w.Why))
	case Gone:
		w.say("from", "From %s. It is not in the table here: it has ended, or it is another host's.", text)
	case Replaced:
		w.say("from", "From %s. It has ended: the table has a later flow on the same addresses and ports, with the id %d.", text, w.Other.ID)
	case Mirrored:
		w.say("from", "From %s. The entry has ended, but the connection has come back in the other direction: the table has %v, which an answer to it made.", text, w.Other.Orig)
	}
	if w.Returned {
		w.say("from", "It had been deleted and came back: deleting an entry does not end a connection.")
	}
}
