// Package detour finds what can carry the packets of a flow past netfilter's
// hooks, where no rule stops or counts them.
package detour

import (
	"errors"
	"slices"
)

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

// unseenError says what could not be looked at, and what may be there unseen.
type unseenError []unseen

type unseen struct {
	why   error
	kinds []string // of findings
}

func (e unseenError) Error() string { return errors.Join(e.Unwrap()...).Error() }

func (e unseenError) Unwrap() (out []error) {
	for _, b := range e {
		out = append(out, b.why)
	}
	return out
}

// Unseen returns why findings of a kind, one of the constants, may be there that
// were not seen: the part of an error of [Find] or [Everywhere] that concerns
// them, nil for none.
func Unseen(err error, what string) error {
	all, ok := errors.AsType[unseenError](err)
	if !ok {
		return err // nothing could be looked at
	}
	for _, b := range all {
		if slices.Contains(b.kinds, what) {
			return b.why
		}
	}
	return nil
}
