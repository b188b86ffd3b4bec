//go:build linux

package cut

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/selector"
)

// The caller's own connection to the gateway lives also when conntrack has lost
// it and adopted it from the gateway's end, as after conntrack -F over SSH.
func TestSparesAdoptedFromOwnEnd(t *testing.T) {
	net := dmz(t, lab.Config{})
	inner := net.Servers[0]
	labtest.Listen(t, net.Gateway.Host, port)
	own := labtest.Dial(t, inner.Host, lab.Streams{Kind: lab.Speak, To: netip.AddrPortFrom(inner.Via4, port), Interval: 5 * time.Millisecond})
	must(t, own.WaitReceived(labtest.Context(t), 3))
	tuple := find(t, net, own[0]).Orig
	c := table(t, net)
	labtest.Until(t, "it is adopted from the gateway's end", func() bool {
		for _, f := range all(t, c, parse(t, "-p", "tcp")) {
			if f.Orig == tuple.Invert() {
				return true
			}
		}
		must(t, c.Flush(labtest.Context(t), conntrack.FamilyIPv4))
		return false
	})
	r := runCut(t, net, quick(Options{All: true, Spare: []conntrack.Tuple{tuple}}))
	if r.Flows.Spared != 1 {
		t.Errorf("spared %d", r.Flows.Spared)
	}
	before := own.Received()
	labtest.Until(t, "it goes on", func() bool { return own.Received() > before+20 })
	if n := both(own).Told(unix.ECONNRESET); n != 0 {
		t.Errorf("%d of its ends were reset", n)
	}
}

// More alternatives than rules can say, be it in one family alone, are left to
// the flows' tuples, also as an exception.
func TestManyTargets(t *testing.T) {
	var targets []string
	for i := range 70 {
		targets = append(targets, fmt.Sprintf("[fd00:9::%x]:80", 2*i+1))
	}
	net := dmz(t, lab.Config{})
	kept := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Talk, To: at(net, port, true), Count: 3, Interval: 5 * time.Millisecond})
	targets = append(targets, "["+net.Servers[0].Addr6.String()+"]:5201")
	cut := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, other, true), Count: 3})
	r := runCut(t, net, quick(Options{
		Selector: parse(t, "-f", "ipv6", "-p", "tcp", "-g"), All: true,
		Except: []selector.Selector{parse(t, "--dst-nat="+strings.Join(targets, ","))},
	}))
	wantProven(t, r)
	if r.Fence.Exact || r.Flows.Spared != 3 || r.Flows.Deleted != 3 {
		t.Errorf("exact %v, spared %d, deleted %d", r.Fence.Exact, r.Flows.Spared, r.Flows.Deleted)
	}
	wantReset(t, both(cut))
	before := kept.Received()
	labtest.Until(t, "those left alone go on", func() bool { return kept.Received() > before+20 })
	if n := both(kept).Told(nil); n != 6 {
		t.Errorf("%d of 6 ends of those left alone live", n)
	}
}
