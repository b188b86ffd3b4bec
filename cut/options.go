// Package cut ends the flows that a selector means: for good, at both ends,
// without harm to any other, and with proof.
package cut

import (
	"time"

	"flowcut/conntrack"
	"flowcut/internal/fence"
	"flowcut/selector"
)

// Options say which flows are cut and how. The zero value of each field but
// Selector works.
type Options struct {
	// Selector says which flows are meant.
	Selector selector.Selector

	// All is needed when nothing narrows the selector, as with its zero value,
	// which means every flow there is.
	All bool

	// Spare are flows that are left alone, whatever the selector says, such as
	// the caller's own connection: what their originators send, or what their
	// responders send, turned round; whichever end conntrack takes for the
	// originator. For a socket of the gateway's own that is
	// the peer's address and port, then its own, whatever NAT does on the way.
	Spare []conntrack.Tuple

	// Except are selectors of flows that are left alone.
	Except []selector.Selector

	// Max is the most flows that may be cut. Zero: no limit. They are counted
	// before anything is done; with more, Run returns a *TooManyError.
	Max int

	// NoMirror leaves picked-up mirrors of what is selected alone: flows that
	// an earlier deletion left behind in the other direction.
	NoMirror bool

	// NoRelated leaves flows alone that a cut flow expected, such as FTP's data.
	NoRelated bool

	// NetNS is the descriptor of the network namespace to work in, 0 for the
	// calling thread's.
	NetNS int

	// Start is the moment that the receipt's times count from, usually the
	// start of the process. Zero: the call of Run.
	Start time.Time

	// Settle is how long nothing may have knocked before the guard is lifted.
	// Zero: DefaultSettle; None: no guard phase.
	Settle time.Duration

	// Hold is how long flows without a handshake (UDP and the like) stay
	// closed after their deletion. Zero: DefaultHold; None: the ruleset
	// judges their next packet at once; UntilQuiet: until they have been
	// quiet for Settle.
	Hold time.Duration

	// Timeout is the most that the whole cut may take. Zero: DefaultTimeout.
	Timeout time.Duration

	// Silent drops packets and tells nobody. No end can then be confirmed dead.
	Silent bool

	// NoKick leaves ends alone that do not send by themselves.
	NoKick bool

	// AcceptSilent takes flows for proven of which no end answered.
	AcceptSilent bool

	// AcceptDetours takes it on trust that what may carry packets past all
	// rules, such as an XDP program on the way, carries none of the flows.
	AcceptDetours bool

	// Fence is what the fence is made of. Zero: what the kernel has, nf_tables
	// first.
	Fence Backend

	// Flows asks for the list of flows in the receipt.
	Flows bool

	// Progress, unless nil, is called when a step begins, on the goroutine of Run.
	Progress func(Step)

	without fence.Part // for tests: what fails without it
	lacks   error      // for tests: what the kernel answers for want of nf_tables
}

// Durations that Options take for zero, and special ones.
const (
	DefaultSettle  = time.Second
	DefaultHold    = 5 * time.Second
	DefaultTimeout = 30 * time.Second

	None       time.Duration = -1
	UntilQuiet time.Duration = -2
)

// Step is what a cut is doing.
type Step struct {
	Name   string // in words, such as "tell the ends"
	Flows  int    // matched so far
	Raised bool   // the fence is up
}

// normal returns the options with defaults filled in; None becomes zero.
func (o Options) normal() Options {
	fill := func(d *time.Duration, def time.Duration) {
		switch *d {
		case 0:
			*d = def
		case None:
			*d = 0
		}
	}
	fill(&o.Settle, DefaultSettle)
	fill(&o.Hold, DefaultHold)
	fill(&o.Timeout, DefaultTimeout)
	if o.Start.IsZero() {
		o.Start = time.Now()
	}
	return o
}
