//go:build linux

package main

import (
	"testing"

	"flowcut/conntrack"
)

// A tenth of the flows goes to the server, a part is IPv6, and no two are the same.
func TestFlows(t *testing.T) {
	const n = 10_000
	seen := make(map[conntrack.Tuple]bool)
	to, six := 0, 0
	for f := range flows(n, 1) {
		reply := f.Reply
		if f.Has&conntrack.AttrReply == 0 {
			reply = f.Orig.Invert()
		}
		if seen[f.Orig] || seen[reply] {
			t.Fatalf("two flows have %v or %v", f.Orig, reply)
		}
		seen[f.Orig], seen[reply] = true, true
		if f.Status&conntrack.StatusDstNAT != 0 && reply.Src == serverAddr {
			to++
		}
		if f.Orig.Family() == conntrack.FamilyIPv6 {
			six++
		}
	}
	if len(seen) != 2*n || to != targets(n) || six != n*18/100 {
		t.Fatalf("%d tuples, %d flows to the server, %d of IPv6; of %d flows", len(seen), to, six, n)
	}
}

// The flows that are made anew are those that went.
func TestFlowsToServer(t *testing.T) {
	n := 0
	for f := range flows(1000, 10) {
		n++
		if f.Reply.Src != serverAddr {
			t.Fatalf("%v is not to the server", f.Orig)
		}
	}
	if n != targets(1000) {
		t.Fatalf("%d flows to the server, want %d", n, targets(1000))
	}
}

// Flows that are selected one by one have addresses that no other flow has, in
// the largest table, too.
func TestChosen(t *testing.T) {
	if last := client(10_000_000/perClient, false); !last.Less(chosenAddr(0)) {
		t.Errorf("%v is below %v: both kinds of flows have addresses in common", chosenAddr(0), last)
	}
	seen := make(map[conntrack.Tuple]bool)
	for f := range chosen(chosenMost) {
		if seen[f.Orig] {
			t.Fatalf("two flows have %v", f.Orig)
		}
		seen[f.Orig] = true
	}
	if len(seen) != chosenMost*chosenEach {
		t.Errorf("%d flows, want %d", len(seen), chosenMost*chosenEach)
	}
}
