//go:build linux

// Package soak draws scenarios at random and holds cuts to their promises.
//
// A [Scenario] is a gateway, traffic through it, a selector, options and a
// disturbance, all drawn from one number: the same seed is the same scenario.
// [Run] builds it on the lab, cuts, and compares what the ends of all
// connections saw with what was promised; then the receipt with what they saw.
//
// Which flows are meant is decided here, from the addresses that the ends
// know, and by other code than the selector's.
package soak

import (
	"fmt"
	"strings"
	"time"

	"flowcut/internal/lab"
)

// Scenario is one gateway with its traffic, and how it is cut.
type Scenario struct {
	Seed    uint64
	Gateway string // name of one of the kinds
	Rule    Rule
	Groups  []Group // of connections; the selector is drawn to mean the first
	Select  []Condition
	Settle  time.Duration
	Hold    time.Duration
	Kick    Kick
	Accept  bool // silence of both ends
	Program bool // the built program cuts, not the library
	Disturb Disturbance
	Moment  time.Duration // of a disturbance that has one, since the cut began
	Again   int           // new connections a second like those of the first group, 0: none
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

// Disturbance is what happens beside the cut.
type Disturbance string

// The disturbances.
const (
	Nothing       Disturbance = ""
	VanishOne     Disturbance = "originators vanish"
	VanishOther   Disturbance = "responders vanish"
	VanishBoth    Disturbance = "both ends vanish"
	Forget        Disturbance = "neighbours forgotten"
	TwoCuts       Disturbance = "two cuts"
	Reload        Disturbance = "ruleset reloaded"
	OthersDelete  Disturbance = "others delete"
	DeletedBefore Disturbance = "deleted before"
	Cancelled     Disturbance = "cancelled"
	Killed        Disturbance = "killed"
)

// breaksOff tells whether the first cut does not come to its end.
func (d Disturbance) breaksOff() bool { return d == Cancelled || d == Killed }

// Group is connections of one kind between two hosts.
type Group struct {
	Road     Road
	V6       bool
	From, To int // the originators' and the responders' host, see Road
	Port     uint16
	Kind     lab.Kind
	Count    int
	First    uint16        // source port of the first; 0: the kernel chooses
	Interval time.Duration // of kinds that trickle
	Up, Down int           // datagrams a second
}

// Road is the way of a group's packets and what is translated on it.
type Road string

// The roads. From and To count clients or servers.
const (
	Inward      Road = "dnat"      // client to the gateway's address, forwarded to a server
	Outward     Road = "snat"      // server to a client
	Across      Road = "dnat+snat" // client to the gateway's address, forwarded to another client
	Within      Road = "routed"    // server to another server
	Plain       Road = "plain"     // client to a server, where nothing is translated
	ToGateway   Road = "to gateway"
	FromGateway Road = "from gateway"
)

var kindNames = map[lab.Kind]string{
	lab.Download: "download", lab.Upload: "upload", lab.Idle: "idle", lab.Speak: "speak",
	lab.Talk: "talk", lab.Datagram: "udp", lab.Echo: "echo",
}

// String describes the group in a few words.
func (g Group) String() string {
	family := "v4"
	if g.V6 {
		family = "v6"
	}
	s := fmt.Sprintf("%d %s %s %s %d>%d:%d", g.Count, kindNames[g.Kind], family, g.Road, g.From, g.To, g.Port)
	if g.Kind == lab.Datagram {
		s += fmt.Sprintf(" (%d/%d a second)", g.Up, g.Down)
	}
	if g.First != 0 {
		s += fmt.Sprintf(" from %d", g.First)
	}
	return s
}

// String writes the scenario on one line.
func (s *Scenario) String() string {
	var groups []string
	for _, g := range s.Groups {
		groups = append(groups, g.String())
	}
	parts := []string{
		"gateway " + s.Gateway,
		"cut " + strings.Join(s.words(), " "),
		fmt.Sprintf("settle %v, hold %v", s.Settle, s.Hold),
		"rule " + string(s.Rule),
	}
	for _, p := range []struct {
		is   bool
		text string
	}{
		{s.Kick != KickAll, string(s.Kick)},
		{s.Accept, "accept silent"},
		{s.Program, "program"},
		{s.Again > 0, fmt.Sprintf("%d new ones a second", s.Again)},
		{s.Disturb != Nothing, string(s.Disturb)},
		{s.Disturb.breaksOff(), "after " + s.Moment.String()},
	} {
		if p.is {
			parts = append(parts, p.text)
		}
	}
	return strings.Join(append(parts, groups...), "; ")
}

// words are the selector as on a command line.
func (s *Scenario) words() []string {
	var out []string
	for _, c := range s.Select {
		out = append(out, c.Words...)
	}
	return out
}
