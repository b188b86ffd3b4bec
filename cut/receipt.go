package cut

import (
	"encoding/json"
	"time"

	"flowcut/conntrack"
)

// Receipt says what a cut did and what it found afterwards.
//
// Times are milliseconds since Options.Start. As JSON it is one object whose
// names and units stay as they are while Version does.
type Receipt struct {
	Version  int    `json:"version"`  // 1
	Selector string `json:"selector"` // long lists shortened

	// Together is how many selectors were cut together, this one included. What
	// Fence says, and how many flows were admitted or refused, is of all of them.
	Together int `json:"together"`

	// Proven: no entry is left of a flow that began before the fence, no
	// packet of a selected flow passed it, nothing came back, and each open
	// TCP flow is certain to be gone, unless that was waived.
	Proven bool `json:"proven"`

	// Final: each TCP flow is certain to be gone: an end that had spoken on it
	// was reset and then answered that it has no such connection, or both ends
	// answered so. Such a flow cannot come back.
	Final bool `json:"final"`

	// Reason says, when not proven or not final, why and what to do; and what
	// else there is to know. Parts are separated by "; ".
	Reason string `json:"reason"`

	Flows     FlowCounts     `json:"flows"`
	Endpoints EndpointCounts `json:"endpoints"`
	Fence     FenceReport    `json:"fence"`

	ElapsedMS Millis `json:"elapsed_ms"`

	// Flow lists the flows, with Options.Flows.
	Flow []FlowReport `json:"flow,omitempty"`

	handshakes bool // all flows were TCP
}

// ForGood tells whether no packet of the flows can bring one back: they are
// final, and none is of a kind whose next packet the ruleset judges as new.
func (r *Receipt) ForGood() bool { return r.Proven && r.Final && r.handshakes }

// later makes the receipt count from a moment before Options.Start.
func (r *Receipt) later(d Millis) {
	r.ElapsedMS += d
	if r.Fence.Backend == "" {
		return
	}
	r.Fence.RaisedAfterMS += d
	r.Fence.SilentAfterMS += d
	if r.Fence.LiftedAfterMS > 0 {
		r.Fence.LiftedAfterMS += d
	}
	if r.Fence.ReleasedAfterMS > 0 {
		r.Fence.ReleasedAfterMS += d
	}
}

// FlowCounts counts flows. Matched = Deleted + Vanished + Remaining + Spared.
type FlowCounts struct {
	Matched   int `json:"matched"`   // selected, and begun before the fence
	Deleted   int `json:"deleted"`   // by us
	Vanished  int `json:"vanished"`  // gone by themselves, or deleted by others
	Remaining int `json:"remaining"` // still in the table
	Spared    int `json:"spared"`    // left alone
	Related   int `json:"related"`   // expected by a cut flow, and cut with it
	Mirrored  int `json:"mirrored"`  // picked up earlier in the other direction, and cut with it
	Offloaded int `json:"offloaded"` // a flowtable forwarded them past the fence until their deletion, see FenceReport.ReleasedAfterMS
	Suspects  int `json:"suspects"`  // look like mirrors, left alone
	Returned  int `json:"returned"`  // adopted again meanwhile, and deleted
	Admitted  int `json:"admitted"`  // new ones that the ruleset let in after the fence rose
	Refused   int `json:"refused"`   // first packets of new ones that were dropped: a set was full, or they were under way or in a queue when the fence rose
	Knocking  int `json:"knocking"`  // tuples still sending when the guard was lifted
}

// EndpointCounts counts ends of cut flows.
type EndpointCounts struct {
	Dead        int `json:"dead"`        // confirmed that their connection is gone
	Reset       int `json:"reset"`       // a TCP reset left for them
	Unreachable int `json:"unreachable"` // an ICMP port unreachable left for them
	Silent      int `json:"silent"`      // ends of open TCP flows that did not confirm
}

// FenceReport says when the fence stood and what it stopped.
type FenceReport struct {
	Backend       string `json:"backend"` // "nf_tables" or "iptables", empty if none was needed
	Exact         bool   `json:"exact"`   // by the selector; otherwise by the flows' tuples, from the first dump on
	RaisedAfterMS Millis `json:"raised_after_ms"`
	SilentAfterMS Millis `json:"silent_after_ms"` // last packet of a selected flow behind the fence, or ReleasedAfterMS, else its rise

	// ReleasedAfterMS is when flowtables had let go of the flows that they
	// forwarded past the fence; absent if they forwarded none.
	ReleasedAfterMS Millis `json:"released_after_ms,omitempty"`

	LeakedPackets uint64 `json:"leaked_packets"`  // behind the fence, after its rise
	LiftedAfterMS Millis `json:"lifted_after_ms"` // 0 if that failed
	Packets       uint64 `json:"packets"`         // stopped
	Bytes         uint64 `json:"bytes"`           // stopped

	// Limits say what this backend cannot promise, a sentence each.
	Limits []string `json:"limits,omitempty"`

	// Detours are what may carry packets of the flows past all rules.
	Detours []string `json:"detours,omitempty"`
}

// FlowReport is one flow of a cut and what became of it. As JSON it is the
// flow's own object with the fields below added.
type FlowReport struct {
	Flow       *conntrack.Flow
	Outcome    Outcome
	Originator End
	Responder  End
}

// Outcome is what became of a flow's entry: "deleted", "vanished", "remaining"
// or "spared".
type Outcome string

// The outcomes.
const (
	Deleted   Outcome = "deleted"
	Vanished  Outcome = "vanished"
	Remaining Outcome = "remaining"
	Spared    Outcome = "spared"
)

// End is what is known of one end: "dead", "silent", or "" where no sign was
// needed: flows that are not TCP, or not open.
type End string

// What is known of ends.
const (
	EndDead   End = "dead"
	EndSilent End = "silent"
)

// MarshalJSON writes the flow's object with the report's fields behind its own.
func (f FlowReport) MarshalJSON() ([]byte, error) {
	b, err := json.Marshal(f.Flow)
	if err != nil {
		return nil, err
	}
	more, err := json.Marshal(struct {
		Outcome    Outcome `json:"outcome"`
		Originator End     `json:"originator,omitempty"`
		Responder  End     `json:"responder,omitempty"`
	}{f.Outcome, f.Originator, f.Responder})
	if err != nil {
		return nil, err
	}
	b[len(b)-1] = ','
	return append(b, more[1:]...), nil
}

// Millis is a duration, written in milliseconds with three decimals.
type Millis time.Duration

// MarshalJSON writes a number of milliseconds.
func (m Millis) MarshalJSON() ([]byte, error) {
	return json.Marshal(float64(time.Duration(m).Microseconds()) / 1000)
}

// UnmarshalJSON reads a number of milliseconds.
func (m *Millis) UnmarshalJSON(b []byte) error {
	var ms float64
	if err := json.Unmarshal(b, &ms); err != nil {
		return err
	}
	*m = Millis(ms * float64(time.Millisecond))
	return nil
}

// String returns the duration, rounded for reading.
func (m Millis) String() string {
	d := time.Duration(m)
	switch {
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}
