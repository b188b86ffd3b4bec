//go:build linux

package failover

import (
	"context"
	"errors"
	"flag"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"flowcut/cut"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

var full = flag.Bool("full", false, "all of it, not only what matters most")

// trial is a cut on the active gateway and a takeover by the standby.
type trial struct {
	name string
	plan
	late   bool // the flows are older than conntrackd: the kernel announces no end of theirs
	method func(*site)
	comes  bool // what was cut comes back
	always bool // is in make test
}

// strict is a gateway that adopts nothing in mid-stream.
var strict = map[string]string{"net.netfilter.nf_conntrack_tcp_loose": "0", "net.netfilter.nf_conntrack_events": "2"}

var trials = []trial{
	{name: "cut", method: with(cut.Options{}), always: true},
	{name: "cut of older flows", late: true, method: with(cut.Options{}), always: true},
	{name: "silent cut of older flows", late: true, plan: plan{sysctls: strict}, method: with(cut.Options{Silent: true}), always: true},
	{name: "silent cut", plan: plan{sysctls: strict}, method: with(cut.Options{Silent: true})},
	{name: "cut without kicks", plan: plan{sysctls: strict}, method: with(cut.Options{NoKick: true})},
	{name: "cut of older flows without kicks", late: true, plan: plan{sysctls: strict}, method: with(cut.Options{NoKick: true})},
	{name: "coarse cut", late: true, plan: plan{sysctls: strict}, method: with(cut.Options{Silent: true, Settle: cut.None, Hold: cut.None})},
	{name: "cut, injected", plan: plan{settings: settings{Inject: true}}, method: with(cut.Options{})},
	{name: "cut of older flows, injected", late: true, plan: plan{settings: settings{Inject: true}}, method: with(cut.Options{})},
	{name: "cut of older flows, unreliable", late: true, plan: plan{settings: settings{Mode: "NOTRACK"}}, method: with(cut.Options{})},
	{name: "cut, alarm", plan: plan{settings: settings{Mode: "ALARM"}}, method: with(cut.Options{})},

	// What all this is about.
	{name: "silent cut, ends adopted", method: with(cut.Options{Silent: true}), comes: true},
	{name: "conntrack -D", method: (*site).deletePlainly, comes: true},
	{name: "conntrack -D of older flows", late: true, plan: plan{sysctls: strict}, method: (*site).deletePlainly, comes: true},
}

// with is a cut with options.
func with(o cut.Options) func(*site) {
	return func(s *site) {
		o := o
		o.Selector = s.toServer()
		if o.Silent || o.NoKick {
			o.Timeout = 2 * time.Second // ends go on knocking
		}
		q := quick(o.Selector)
		if o.Settle == 0 {
			o.Settle, o.Hold = q.Settle, q.Hold
		}
		r := s.cut(0, o)
		if !r.Proven || r.Final == (o.Silent || o.NoKick) {
			s.t.Errorf("proven %v, final %v: %s", r.Proven, r.Final, r.Reason)
		}
	}
}

// deletePlainly deletes what flowcut would cut, and nothing else.
func (s *site) deletePlainly() { s.delete(0, s.toServer()) }

// What is cut on the active gateway does not come back when the standby takes
// over: no byte reaches an end, none of the old flows is in its table, and what
// was not cut goes on.
func TestTakeover(t *testing.T) {
	for _, x := range trials {
		if !x.always && !*full {
			continue
		}
		t.Run(x.name, func(t *testing.T) { x.run(t) })
	}
}

func (x *trial) run(t *testing.T) {
	x.plan.late = x.late
	s := newSite(t, x.plan)
	cutEnds, idle, kept := s.traffic()
	if x.late {
		s.start(x.settings)
		s.daemons[0].order("-B")
	}
	s.known(x.Inject)
	s.off()
	x.method(s)
	exit := time.Now()
	before := cutEnds.Received()
	if !x.comes {
		labtest.Until(t, "the standby has forgotten the flows", func() bool { return s.standbyKnows(x.Inject, port) == 0 })
	}
	s.takeOver(1)
	for _, e := range idle {
		_ = e.Say() // an error if it has been told
	}
	s.goOn(kept)
	got := cutEnds.Received() - before
	if left := len(s.flows(1, parse(t, "--dport", text(port)))) + len(s.flows(1, parse(t, "--sport", text(port)))); x.comes != (got > 0) || !x.comes && left > 0 {
		t.Errorf("%d bytes reached an end after the takeover, %d entries", got, left)
	}
	e := idle[0]
	if last := cutEnds.LastReceived(); !x.comes && last.After(exit) {
		t.Errorf("an end received something %v after the cut", last.Sub(exit))
	}
	if !x.comes && e.Told().Err != nil {
		s.reconnect(e)
	}
}

// goOn waits until what was not cut has gone on for a while.
func (s *site) goOn(kept lab.Ends) {
	s.t.Helper()
	had := make([]uint64, len(kept))
	for i, e := range kept {
		had[i] = e.Received.Messages()
	}
	labtest.Until(s.t, "what was not cut goes on", func() bool {
		for i, e := range kept {
			if e.Received.Messages() < had[i]+15 {
				return false
			}
		}
		return true
	})
}

// traffic makes flows of all kinds: those that will be cut, of these the idle
// ones, and those that will not.
func (s *site) traffic() (cutEnds, idle, kept lab.Ends) {
	s.t.Helper()
	dial := func(k lab.Kind, p uint16, v6 bool) lab.Ends {
		return both(labtest.Dial(s.t, s.Client.Host, lab.Streams{Kind: k, To: s.at(p, v6), Interval: ms(20)}))
	}
	for _, v6 := range []bool{false, true} {
		kept = slices.Concat(kept, dial(lab.Talk, other, v6))
		idle = slices.Concat(idle, dial(lab.Idle, port, v6))
		cutEnds = slices.Concat(cutEnds, dial(lab.Talk, port, v6), dial(lab.Upload, port, v6), dial(lab.Download, port, v6),
			both(labtest.Exchange(s.t, s.Client.Host, lab.Datagrams{To: s.at(port, v6), Up: 50, Down: 50})))
	}
	return slices.Concat(cutEnds, idle), idle, kept
}

const cutFlows, keptFlows = 10, 2 // that traffic makes

// known waits until the standby knows all flows.
func (s *site) known(injected bool) {
	s.t.Helper()
	labtest.Until(s.t, "the standby knows the flows", func() bool {
		return s.standbyKnows(injected, port) == cutFlows && s.standbyKnows(injected, other) == keptFlows
	})
}

// standbyKnows counts the flows to a port that the standby would take over.
func (s *site) standbyKnows(injected bool, port uint16) int {
	s.t.Helper()
	if injected {
		return len(s.flows(1, parse(s.t, "--dport", text(port))))
	}
	return s.daemons[1].count("-e", dport(port))
}

// reconnect begins a connection from the port of one that was cut: there must be
// no entry through which it gets to the server.
func (s *site) reconnect(e *lab.End) {
	s.t.Helper()
	e.Close()
	<-e.Done()
	ctx, cancel := context.WithTimeout(s.t.Context(), ms(150))
	defer cancel()
	_, err := s.Client.Dial(ctx, lab.Streams{Kind: lab.Idle, To: s.at(port, false), Local: netip.AddrPortFrom(e.Local.Addr(), e.Local.Port())})
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) {
		s.t.Errorf("a new connection from the port of an old one: %v", err)
	}
}
