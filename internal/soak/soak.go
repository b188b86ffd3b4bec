//go:build linux

// Package soak draws scenarios at random and holds cuts to their promises.
//
// A [Scenario] is a gateway, traffic through it, a selector, options and a
// disturbance, all drawn from one number. The same seed makes the same choices;
// ports that a kernel chooses, IDs and moments differ. [Run] builds it on the
// lab, cuts, and compares what the ends of all connections saw with what was
// promised; then the receipt with what they saw.
//
// Which flows are meant is decided here, from what the ends know, and by other
// code than the selector's.
package soak

import (
	"fmt"
	"strings"
	"time"
)

// Scenario is one gateway with its traffic, and how it is cut.
type Scenario struct {
	Seed    uint64
	Gateway []string // names of its kinds, none for the usual one
	Groups  []Group  // of connections; the selector is drawn to mean some of the first
	Rule    Rule
	Disturb Disturbance
	Moment  time.Duration // of a disturbance that has one, since the cut began
	Again   int           // new connections a second like those of the first group, 0: none

	// The selector and what it leaves out. They are drawn when the flows are
	// there, unless they are set.
	Select, Spare []Condition
	All           bool // nothing may narrow it
	Max           Max

	Settle, Hold time.Duration // as in cut.Options: cut.None for none
	Kick         Kick
	Accept       bool // silence of both ends
	NoRelated    bool
	NoMirror     bool
	Program      bool // the built program cuts, not the library
}

// Rule is what becomes of the rule that forwards what is cut.
type Rule string

// What becomes of the rule.
const (
	RuleKept    Rule = "kept"
	RuleRemoved Rule = "removed"       // before the cut
	RuleAfter   Rule = "removed after" // once the cut is done
)

// Kick is how ends are told.
type Kick string

// How ends are told.
const (
	KickAll    Kick = ""        // all of them
	KickNone   Kick = "no kick" // those that speak
	KickSilent Kick = "silent"  // none
)

// Max is the limit to how many flows may be cut.
type Max string

// Limits.
const (
	MaxNone   Max = ""
	MaxEnough Max = "max just enough"
	MaxLess   Max = "max one too few"
)

// String writes the scenario on one line.
func (s *Scenario) String() string {
	gateway := strings.Join(s.Gateway, "+")
	if gateway == "" {
		gateway = "usual"
	}
	parts := []string{
		"gateway " + gateway,
		"cut " + strings.Join(words(s.Select), " "),
		fmt.Sprintf("settle %v, hold %v", s.Settle, s.Hold),
		"rule " + string(s.Rule),
	}
	for _, p := range []struct {
		is   bool
		text string
	}{
		{len(s.Spare) > 0, "spare " + strings.Join(words(s.Spare), " ")},
		{s.Max != MaxNone, string(s.Max)},
		{s.Kick != KickAll, string(s.Kick)},
		{s.Accept, "accept silent"},
		{s.NoRelated, "no related"},
		{s.NoMirror, "no mirror"},
		{s.Program, "program"},
		{s.Again > 0, fmt.Sprintf("%d new ones a second", s.Again)},
		{s.Disturb != Nothing, string(s.Disturb)},
		{s.Disturb.kind().timed, "after " + s.Moment.String()},
	} {
		if p.is {
			parts = append(parts, p.text)
		}
	}
	for i := range s.Groups {
		parts = append(parts, s.Groups[i].String())
	}
	return strings.Join(parts, "; ")
}

// words are conditions as on a command line.
func words(list []Condition) []string {
	var out []string
	for _, c := range list {
		out = append(out, c.Words...)
	}
	return out
}
