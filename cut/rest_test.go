//go:build linux

package cut

import (
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// lastChange returns when the sampled value last changed in a span of time.
func lastChange(samples []lab.Sample, from, until time.Time) (at time.Time, changed bool) {
	var value uint64
	for i, s := range samples {
		if i > 0 && s.Value != value && s.At.After(from) && s.At.Before(until) {
			at, changed = s.At, true
		}
		value = s.Value
	}
	return at, changed
}

// wantHeld cuts and checks that the ends hear nothing of each other from soon
// after the rise of the fence until the guard is lifted.
func wantHeld(t *testing.T, net *lab.Topology, o Options, ends lab.Ends) *Receipt {
	t.Helper()
	sampler := net.Sample(time.Millisecond, ends.Received)
	start := time.Now()
	r := runCut(t, net, o)
	raised, lifted := start.Add(time.Duration(r.Fence.RaisedAfterMS)), start.Add(time.Duration(r.Fence.LiftedAfterMS))
	samples := sampler.Stop()
	grace := time.Duration(labtest.Slow()) * 100 * time.Millisecond // what was received and not yet read
	if at, changed := lastChange(samples, raised.Add(grace), lifted); changed {
		t.Errorf("something arrived %v after the fence rose, %v before the guard was lifted", at.Sub(raised), lifted.Sub(at))
	}
	if held := time.Duration(r.Fence.LiftedAfterMS - r.Fence.RaisedAfterMS); held < o.Hold {
		t.Errorf("held for %v, want at least %v", held, o.Hold)
	}
	return r
}

// Datagrams both ways are held, and both ends are told, those that say nothing too.
func TestCutDatagrams(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(map[bool]string{false: "v4", true: "v6"}[v6], func(t *testing.T) {
			net := dmz(t, lab.Config{})
			to := at(net, port, v6)
			busy := labtest.Exchange(t, net.Clients[0].Host, lab.Datagrams{To: to, Count: 4, Up: 500, Down: 500})
			idle := labtest.Exchange(t, net.Clients[0].Host, lab.Datagrams{To: to, Count: 50})
			if err := both(busy).WaitReceived(labtest.Context(t), 20*256); err != nil {
				t.Fatal(err)
			}
			off(t, net)
			r := wantHeld(t, net, Options{Selector: toServer(t, net), Hold: 1500 * time.Millisecond}, both(busy))
			wantProven(t, r)
			if r.Flows.Matched != 54 {
				t.Errorf("matched %d, want 54", r.Flows.Matched)
			}
			if told := both(busy, idle).Told(unix.ECONNREFUSED); told != 108 {
				t.Errorf("%d of 108 ends were told ECONNREFUSED", told)
			}
			if r.Endpoints.Unreachable != 108 {
				t.Errorf("unreachable %d, want 108", r.Endpoints.Unreachable)
			}
		})
	}
}

// Without a hold the ruleset judges the next packet, and what it admits goes on.
func TestCutDatagramsNoHold(t *testing.T) {
	for _, more := range []string{"", "--zone 0"} { // which not all fences can tell
		t.Run(more, func(t *testing.T) { datagramsNoHold(t, strings.Fields(more)...) })
	}
}

func datagramsNoHold(t *testing.T, more ...string) {
	net := dmz(t, lab.Config{})
	busy := labtest.Exchange(t, net.Clients[0].Host, lab.Datagrams{To: at(net, port, false), Count: 4, Up: 500, Down: 500})
	if err := both(busy).WaitReceived(labtest.Context(t), 20*256); err != nil {
		t.Fatal(err)
	}
	s := parse(t, append(more, "--dst-nat", "--reply-src", net.Servers[0].Addr4.String())...)
	r := runCut(t, net, Options{Selector: s, Hold: None, Settle: None})
	wantProven(t, r)
	if r.Endpoints.Unreachable != 8 {
		t.Errorf("unreachable %d, want 8", r.Endpoints.Unreachable)
	}
	if r.Flows.Deleted != 4 || time.Duration(r.ElapsedMS) > time.Duration(labtest.Slow())*time.Second {
		t.Errorf("deleted %d of 4 in %v", r.Flows.Deleted, r.ElapsedMS)
	}
	before := busy.Peers().Received()
	labtest.Until(t, "datagrams reach the server again", func() bool { return busy.Peers().Received() > before+20*256 })
}

// Echo requests are held, then the ruleset admits them again.
func TestCutEcho(t *testing.T) {
	net := labtest.Standard(t, lab.Config{})
	server, client := net.Servers[0], net.Clients[0]
	for _, c := range []struct {
		name  string
		proto string
		v6    bool
	}{{"v4", "icmp", false}, {"v6", "icmpv6", true}} {
		t.Run(c.name, func(t *testing.T) {
			to := client.Addr4
			if c.v6 {
				to = client.Addr6
			}
			e, err := server.Ping(labtest.Context(t), to, 5*time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			ping := lab.Ends{e}
			labtest.Until(t, "ten answers", func() bool { return e.Received.Messages() >= 10 })
			r := wantHeld(t, net, Options{Selector: parse(t, "-p", c.proto, "--host", to.String()), Hold: 1500 * time.Millisecond}, ping)
			wantProven(t, r)
			if r.Flows.Matched == 0 || r.Endpoints.Unreachable == 0 {
				t.Errorf("matched %d, told %d", r.Flows.Matched, r.Endpoints.Unreachable)
			}
			before := e.Received.Messages()
			labtest.Until(t, "answers after the hold", func() bool { return e.Received.Messages() > before+10 })
		})
	}
}

// New datagram flows to the same server are the ruleset's business while old
// ones are cut: not one packet of theirs is stopped.
func TestNewDatagramsDuringCut(t *testing.T) {
	net := dmz(t, lab.Config{})
	to := at(net, port, false)
	idle := labtest.Exchange(t, net.Clients[0].Host, lab.Datagrams{To: to, Count: 200})
	done, raised := make(chan *Receipt), make(chan struct{})
	begun := sync.OnceFunc(func() { close(raised) })
	progress := func(s Step) {
		if s.Raised {
			begun()
		}
	}
	o := Options{Selector: toServer(t, net), Hold: time.Second, Progress: progress}
	go func() { done <- runCut(t, net, o) }()
	<-raised
	made := 0
	var r *Receipt
	for r == nil {
		labtest.Exchange(t, net.Clients[1].Host, lab.Datagrams{To: to})
		made++
		select {
		case r = <-done:
		default:
		}
	}
	wantProven(t, r)
	if told := both(idle).Told(unix.ECONNREFUSED); told != 400 {
		t.Errorf("%d of 400 ends of the cut flows were told", told)
	}
	if made < 100/labtest.Slow() || r.Flows.Admitted == 0 && backend != IPTables {
		t.Fatalf("%d new flows during the cut, %d admitted: too few to judge by", made, r.Flows.Admitted)
	}
	if r.Fence.Packets != 0 {
		t.Errorf("%d packets were stopped, and only new flows sent any", r.Fence.Packets)
	}
	t.Logf("%d new flows", made)
}
