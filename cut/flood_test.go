//go:build linux

package cut

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/selector"
)

// spoofed are the sources of floods. Answers to them end at the first client,
// which says nothing to them.
var spoofed = netip.MustParsePrefix("198.18.0.0/15")

// flooded begins a flood at the server's port from the first client.
func flooded(t testing.TB, net *lab.Topology, f lab.Floods) *lab.Flood {
	t.Helper()
	f.To, f.Sources = at(net, port, false), spoofed
	flood, err := net.Clients[0].Flood(f)
	must(t, err)
	return flood
}

// floodNet is the standard network with a way back to the flood's sources.
func floodNet(t testing.TB) *lab.Topology {
	t.Helper()
	net := dmz(t, lab.Config{})
	must(t, net.Gateway.Route(spoofed, net.Clients[0].Addr4))
	return net
}

// fromFlood selects the entries of a flood.
func fromFlood(t testing.TB) selector.Selector {
	t.Helper()
	return parse(t, "--orig-src", spoofed.String())
}

// A flood of SYNs from nowhere at the server's port, with its rule in place and
// without, lets no byte of an old connection pass, costs a bounded time and
// memory, and the clients that are real connect meanwhile where a rule lets them.
func TestCutInSYNFlood(t *testing.T) {
	net := floodNet(t)
	flood := flooded(t, net, lab.Floods{Rate: 10000})
	labtest.Until(t, "the flood has begun", func() bool { return entries(t, net, fromFlood(t)) > 3000 })
	for _, keep := range []bool{true, false} {
		t.Run(map[bool]string{true: "rule kept", false: "rule removed"}[keep], func(t *testing.T) {
			idle := labtest.Dial(t, net.Clients[1].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 50})
			busy := loaded(t, net.Clients[1].Host, lab.Streams{Kind: lab.Download, To: at(net, port, false), Count: 2})
			if !keep {
				off(t, net)
			}
			again := net.Clients[1].Reconnect(lab.Reconnects{To: at(net, port, false), Rate: 50, Timeout: 500 * time.Millisecond})
			start, sent := time.Now(), flood.Sent()
			r := runCut(t, net, quick(Options{Selector: toServer(t, net)}))
			exit := time.Now()
			rate := float64(flood.Sent()-sent) / exit.Sub(start).Seconds()
			again.Stop()
			wantProven(t, r)
			wantReset(t, both(idle, busy))
			wantSilence(t, both(idle, busy), exit, 200*time.Millisecond)
			if rate < 5000 || r.Flows.Matched < 3000 {
				t.Fatalf("%.0f SYNs a second, %d flows: too few to judge by", rate, r.Flows.Matched)
			}
			if r.Flows.Admitted > setSize {
				t.Errorf("%d new flows admitted, and there is room for %d", r.Flows.Admitted, setSize)
			}
			if took := time.Duration(r.ElapsedMS); took > 15*time.Second {
				t.Errorf("took %v", took)
			}
			wantHeap(t, 256<<20)
			tally := lab.Count(again.Attempts())
			t.Logf("%.0f SYNs a second; new connections %+v", rate, tally)
			if keep && tally.OK != len(again.Attempts()) || !keep && tally.OK > 0 {
				t.Errorf("new connections: %+v of %d", tally, len(again.Attempts()))
			}
		})
	}
	must(t, flood.Stop())
}

// setSize is the room of the fence's sets that packets fill.
const setSize = 1 << 17

// wantHeap checks what the process holds.
func wantHeap(t testing.TB, most uint64) {
	t.Helper()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.HeapInuse > most {
		t.Errorf("the heap has %d bytes, want at most %d", m.HeapInuse, most)
	}
}

// More new flows than the fence can remember cost new flows, which are counted,
// and let nothing of an old one pass.
func TestCutSetsFull(t *testing.T) {
	net := floodNet(t)
	to := at(net, port, false)
	idle := labtest.Dial(t, net.Clients[1].Host, lab.Streams{Kind: lab.Idle, To: to, Count: 20})
	old := labtest.Exchange(t, net.Clients[1].Host, lab.Datagrams{To: to, Count: 4, Up: 200, Down: 200})
	bystander := labtest.Exchange(t, net.Clients[1].Host, lab.Datagrams{To: at(net, other, false), Up: 200, Down: 200})
	must(t, both(old).WaitReceived(labtest.Context(t), 20*256))
	var refused error
	o := during(stepTell, quick(Options{Selector: toServer(t, net)}), func() {
		must(t, flooded(t, net, lab.Floods{UDP: true, Count: setSize + setSize/8}).Wait())
		_, refused = net.Clients[1].Dial(short(t), lab.Streams{Kind: lab.Idle, To: to})
	})
	r := wantHeld(t, net, o, both(old))
	wantProven(t, r)
	wantReset(t, both(idle))
	if n := r.Flows; n.Matched != 24 || n.Admitted != setSize || n.Refused < setSize/8 {
		t.Errorf("matched %d, admitted %d, refused %d of %d", n.Matched, n.Admitted, n.Refused, setSize+setSize/8)
	}
	if refused == nil {
		t.Error("a new connection was made when there was no room to remember it")
	}
	if told := both(old).Told(unix.ECONNREFUSED); told != 8 {
		t.Errorf("%d of 8 ends of datagram flows were told", told)
	}
	if lost, err := bystander.Lost(labtest.Context(t)); err != nil || lost != (lab.Loss{}) {
		t.Errorf("bystanders lost %+v, %v", lost, err)
	}
	labtest.Dial(t, net.Clients[1].Host, lab.Streams{Kind: lab.Idle, To: to})
}
