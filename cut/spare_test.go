//go:build linux

package cut

import (
	"testing"
	"time"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/selector"
)

// What is spared by where it begins does not open the guard to flows that are
// cut: their servers' next packets look as if they began there.
func TestSpareDoesNotOpenTheGuard(t *testing.T) {
	net := dmz(t, lab.Config{})
	to := at(net, port, false)
	speak := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Speak, To: to, Count: 10, Interval: 10 * time.Millisecond})
	data := labtest.Exchange(t, net.Clients[0].Host, lab.Datagrams{To: to, Count: 3, Down: 200})
	must(t, both(data)[:3].WaitReceived(labtest.Context(t), 1024))
	off(t, net)
	o := quick(Options{
		Selector: toServer(t, net), Silent: true, Hold: 400 * time.Millisecond,
		Except: []selector.Selector{parse(t, "--orig-src", net.Servers[0].Addr4.String())},
	})
	var got uint64
	o.Progress = func(s Step) {
		switch s.Name {
		case stepSettle:
			got = both(speak, data).Received()
		case stepCheck:
			got = both(speak, data).Received() - got
		}
	}
	runCut(t, net, o)
	if got != 0 {
		t.Errorf("%d bytes came through under the guard", got)
	}
}

// A flow that is spared, and has the addresses and ports of one in another zone
// that is cut, goes on.
func TestSpareTwin(t *testing.T) {
	net := labtest.Standard(t, lab.Config{Twins: true})
	var ends []lab.Ends
	for n := range 2 {
		labtest.Listen(t, net.Servers[n].Host, port)
		local := address(net.Clients[n], false, 20000)
		ends = append(ends, labtest.Dial(t, net.Clients[n].Host, lab.Streams{
			Kind: lab.Talk, To: address(net.Servers[n], false, port), Local: local, Interval: 5 * time.Millisecond,
		}))
	}
	runCut(t, net, quick(Options{
		Selector: parse(t, "--dport", "5201"), NoKick: true,
		Except: []selector.Selector{parse(t, "--zone", "2")},
	}))
	kept := both(ends[1])
	before := kept.Received()
	labtest.Until(t, "it goes on", func() bool { return kept.Received() > before+20 })
	if n := kept.Told(nil); n != 2 {
		t.Errorf("%d of its 2 ends live", n)
	}
}
