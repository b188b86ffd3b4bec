// Package detour finds what can carry the packets of a flow past netfilter's
// hooks, where no rule stops or counts them.
package detour

import "slices"

// What a [Finding] can be.
const (
	XDP         = "XDP program"
	TCProgram   = "tc program" // BPF at tc: cls_bpf, tcx, netkit
	TCFilter    = "tc filter"  // with an action that takes packets elsewhere
	Flowtable   = "flowtable"
	Forward     = "nft fwd rule" // of the family netdev
	Bridge      = "bridging"     // with br_netfilter off
	OpenVSwitch = "Open vSwitch"
	IPVS        = "IPVS service"
)

// Finding is something that can carry packets of a flow past rules.
//
// That it does is not said: what a program makes of a packet cannot be told
// from outside.
type Finding struct {
	What   string // one of the constants
	Device string // name of the device that it sits on; "" for none
	Detail string // which one, and what it may do
}

// String returns the finding as a part of a sentence.
func (f Finding) String() string {
	s := f.What
	if f.Device != "" {
		s += " on " + f.Device
	}
	if f.Detail != "" {
		s += " (" + f.Detail + ")"
	}
	return s
}

// blindError says what could not be looked at, and which kinds of findings may
// be there unseen.
type blindError struct {
	error
	kinds []string
}

func (e *blindError) Unwrap() error { return e.error }

// Blind returns why findings of a kind, one of the constants, may be there that
// were not seen: the part of an error of [Find] or [Everywhere] that concerns
// them, nil for none.
func Blind(err error, what string) error {
	switch e := err.(type) { //nolint:errorlint // the tree itself is walked
	case nil:
		return nil
	case *blindError:
		if slices.Contains(e.kinds, what) {
			return e
		}
		return nil
	case interface{ Unwrap() []error }:
		for _, part := range e.Unwrap() {
			if why := Blind(part, what); why != nil {
				return why
			}
		}
		return nil
	}
	return err
}
