// Package flowtext reads flows that somebody has written down: lines of
// conntrack(8) and of /proc/net/nf_conntrack, and JSON of "flowcut list" and
// "flowcut watch".
package flowtext

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/oneline"
)

// Form is how a flow is written.
type Form uint8

// Forms.
const (
	Line Form = iota // of conntrack(8), or of /proc/net/nf_conntrack, which look alike
	JSON             // of "flowcut list", or an event of "flowcut watch"
)

// Entry is a flow that was read.
type Entry struct {
	// Flow has the attributes that the text has. Of a Line's status only
	// [LineStatus] can be known.
	Flow     conntrack.Flow
	Form     Form
	Event    conntrack.EventKind // 0: none, as from a list
	Returned bool                // "flowcut watch" has seen it come back after its deletion
}

// LineStatus are the bits of the status that a line shows. ASSURED is hidden on
// the line of an offloaded flow.
const LineStatus = conntrack.StatusSeenReply | conntrack.StatusAssured | conntrack.StatusOffload | conntrack.StatusHWOffload

// Reader reads flows. The zero value works; it may be used at once by many if
// Label may.
type Reader struct {
	Now      time.Time                            // what ages on a line count back from; zero: time.Now
	Location *time.Location                       // of the times of day on a line; nil: time.Local
	Label    func(name string) (bit int, ok bool) // number of a label; nil knows none. Unknown ones are left out
}

// Parse reads one flow. The error is of one line and says what is wrong; what it
// quotes is made fit for a terminal.
func (r Reader) Parse(text string) (Entry, error) {
	text = strings.TrimSpace(text)
	switch {
	case text == "":
		return Entry{}, errors.New("an empty line")
	case text[0] == '{':
		return parseJSON([]byte(text))
	case text[0] == '<':
		return Entry{}, errors.New("XML is not read, only lines and JSON")
	}
	if r.Now.IsZero() {
		r.Now = time.Now()
	}
	if r.Location == nil {
		r.Location = time.Local
	}
	l := lineReader{Reader: r}
	if err := l.read(text); err != nil {
		return Entry{}, err
	}
	return l.entry, nil
}

// parseJSON reads a flow, or an event that has one.
func parseJSON(b []byte) (Entry, error) {
	var j struct {
		Event    string          `json:"event"`
		Returned bool            `json:"returned"`
		Flow     *conntrack.Flow `json:"flow"`
	}
	if err := json.Unmarshal(b, &j); err != nil {
		return Entry{}, wrongJSON(err)
	}
	e := Entry{Form: JSON, Returned: j.Returned}
	if j.Flow != nil {
		e.Flow = *j.Flow
	} else if err := json.Unmarshal(b, &e.Flow); err != nil {
		return Entry{}, wrongJSON(err)
	}
	if e.Flow.Has&conntrack.AttrOrig == 0 {
		return Entry{}, errors.New("the JSON object has no flow: neither \"flow\" nor \"orig\"")
	}
	if e.Flow.Has&conntrack.AttrReply == 0 {
		return Entry{}, errors.New("the flow has no \"reply\"")
	}
	if a, b := e.Flow.Orig, e.Flow.Reply; a.Proto != b.Proto || a.Family() != b.Family() {
		return Entry{}, errors.New("\"orig\" and \"reply\" are of two protocols")
	}
	if j.Event == "" {
		return e, nil
	}
	for kind, name := range eventNames {
		if name == j.Event {
			e.Event = conntrack.EventKind(kind)
			return e, nil
		}
	}
	return Entry{}, fmt.Errorf("no such event: %s", oneline.Value(j.Event))
}

func wrongJSON(err error) error { return errors.New(oneline.Text(err.Error())) }

// eventNames are those of "flowcut watch", by kind.
var eventNames = [...]string{
	conntrack.EventNew: "new", conntrack.EventUpdate: "update", conntrack.EventDestroy: "destroy",
}
