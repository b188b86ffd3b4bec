//go:build linux

package cut

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/selector"
)

// fill makes TCP entries in the gateway's table, two for each address.
func fill(t testing.TB, net *lab.Topology, addrs int) []selector.Selector {
	t.Helper()
	var list []selector.Selector
	made, err := table(t, net).CreateAll(labtest.Context(t), func(yield func(*conntrack.Flow) bool) {
		for i := range 2 * addrs {
			f := conntrack.Flow{
				Has: conntrack.AttrStatus | conntrack.AttrTCP | conntrack.AttrReply, Timeout: time.Hour,
				Status: conntrack.StatusSeenReply | conntrack.StatusAssured,
				TCP:    conntrack.TCP{State: conntrack.TCPEstablished},
				Orig: conntrack.Tuple{
					Proto: conntrack.ProtoTCP, Src: netip.AddrFrom4([4]byte{10, 9, byte(i / 2 >> 8), byte(i / 2)}),
					Dst: netip.AddrFrom4([4]byte{10, 8, 0, 1}), SrcPort: uint16(1000 + i%2), DstPort: 80,
				},
			}
			f.Reply = f.Orig.Invert()
			if !yield(&f) {
				return
			}
		}
	})
	if err != nil || made != 2*addrs {
		t.Fatalf("made %d of %d entries: %v", made, 2*addrs, err)
	}
	for i := range addrs {
		list = append(list, parse(t, "--host", fmt.Sprintf("10.9.%d.%d", i>>8, i&0xff)))
	}
	return list
}

// What gathers while a cut is under way is cut together, each with a receipt of
// its own; the table is not read once for each.
func TestCutterCoalesces(t *testing.T) {
	const addrs = 300
	net := dmz(t, lab.Config{})
	list := fill(t, net, addrs)
	bystanders := fillOthers(t, net)
	var cuts atomic.Int32
	c := NewCutter(Options{
		Fence: backend,
		NetNS: net.Gateway.NS.Fd(), NoKick: true, Settle: 300 * time.Millisecond,
		Progress: func(s Step) {
			if s.Name == stepRaise {
				cuts.Add(1)
			}
		},
	})
	var results []<-chan Result
	for _, s := range list {
		results = append(results, c.Queue(labtest.Context(t), s))
	}
	c.Close()
	together := 0
	for i, result := range results {
		r := <-result
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		if n := r.Receipt.Flows; n.Matched != 2 || n.Deleted != 2 || !r.Receipt.Proven || r.Receipt.Selector != list[i].String() {
			t.Fatalf("receipt %d: %+v, proven %v of %q: %s", i, n, r.Receipt.Proven, r.Receipt.Selector, r.Receipt.Reason)
		}
		together = max(together, r.Receipt.Together)
	}
	if n := cuts.Load(); n > 4 || together < addrs/2 {
		t.Errorf("%d cuts for %d selectors, at most %d together", n, addrs, together)
	}
	if n := len(all(t, table(t, net), parse(t, "--dst", "10.8.0.1"))); n != 0 {
		t.Errorf("%d entries are left", n)
	}
	if n := len(all(t, table(t, net), parse(t, "--dst", "10.8.0.2"))); n != bystanders {
		t.Errorf("%d of %d entries of others are left", n, bystanders)
	}
}

// fillOthers makes entries that nobody means.
func fillOthers(t testing.TB, net *lab.Topology) int {
	t.Helper()
	const n = 100
	made, err := table(t, net).CreateAll(labtest.Context(t), func(yield func(*conntrack.Flow) bool) {
		for i := range n {
			f := conntrack.Flow{Has: conntrack.AttrReply, Timeout: time.Hour, Orig: conntrack.Tuple{
				Proto: conntrack.ProtoUDP, Src: netip.AddrFrom4([4]byte{10, 7, 0, byte(i)}),
				Dst: netip.AddrFrom4([4]byte{10, 8, 0, 2}), SrcPort: 1, DstPort: 53,
			}}
			f.Reply = f.Orig.Invert()
			if !yield(&f) {
				return
			}
		}
	})
	if err != nil || made != n {
		t.Fatalf("made %d of %d entries: %v", made, n, err)
	}
	return n
}

// Selectors that are cut together have each what is its own: flows that both
// mean count for both, and what may not be cut keeps nobody else from it.
func TestRunAll(t *testing.T) {
	net := dmz(t, lab.Config{})
	first := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 3})
	second := labtest.Dial(t, net.Clients[1].Host, lab.Streams{Kind: lab.Talk, To: at(net, port, false), Count: 4})
	others := labtest.Dial(t, net.Clients[1].Host, lab.Streams{Kind: lab.Talk, To: at(net, other, false), Count: 5})
	list := []selector.Selector{
		parse(t, "--src", net.Clients[0].Addr4.String()),
		parse(t, "--dport", strconv.Itoa(port), "-g"),
		{},
		parse(t, "--dport", "1-65535", "-g"),
		parse(t, "--src", "192.0.2.99"),
	}
	results := RunAll(labtest.Context(t), Options{NetNS: net.Gateway.NS.Fd(), Max: 10, Fence: backend}, list)
	for i, want := range map[int]int{0: 3, 1: 7, 4: 0} {
		r := results[i]
		if r.Err != nil {
			t.Fatalf("selector %d: %v", i, r.Err)
		}
		wantProven(t, r.Receipt)
		if r.Receipt.Flows.Matched != want || r.Receipt.Flows.Deleted != want || r.Receipt.Together != 3 {
			t.Errorf("selector %d: %+v, %d together; want %d flows", i, r.Receipt.Flows, r.Receipt.Together, want)
		}
		if n := r.Receipt.Endpoints.Reset; n != 2*want {
			t.Errorf("selector %d: %d ends reset, want %d", i, n, 2*want)
		}
	}
	if !errors.Is(results[2].Err, ErrEverything) {
		t.Errorf("what means everything: %v", results[2].Err)
	}
	if tooMany, ok := errors.AsType[*TooManyError](results[3].Err); !ok || tooMany.Found != 12 {
		t.Errorf("what means too many: %v", results[3].Err)
	}
	wantReset(t, both(first, second))
	if n := both(others).Told(nil); n != 10 {
		t.Errorf("%d of 10 other ends were told nothing", n)
	}
}

// A selector whose caller is gone is not cut, one that is queued after Close is
// an error, and Abort lifts what stands.
func TestCutterEnds(t *testing.T) {
	net := dmz(t, lab.Config{})
	labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 3})
	fill(t, net, 1)
	before := labtest.Ruleset(t, net.Gateway.Host)
	settles := make(chan struct{}, 8)
	c := NewCutter(Options{NetNS: net.Gateway.NS.Fd(), Settle: 20 * time.Second, Progress: func(s Step) {
		if s.Name == stepSettle {
			settles <- struct{}{}
		}
	}})
	gone, leave := context.WithCancel(labtest.Context(t))
	c.mu.Lock()
	c.busy = true // so that the next ones wait
	c.mu.Unlock()
	left := c.Queue(gone, parse(t, "--dport", strconv.Itoa(port)))
	leave()
	stays := c.Queue(labtest.Context(t), parse(t, "--src", net.Clients[0].Addr4.String()))
	c.idle()
	if r := <-left; !errors.Is(r.Err, context.Canceled) || r.Receipt != nil {
		t.Errorf("left: %v", r.Err)
	}
	<-settles
	next := c.Queue(labtest.Context(t), parse(t, "--dst", "10.8.0.1"))
	select { // while the guard of the one before stands
	case <-settles:
	case <-time.After(10 * time.Second):
		t.Error("the next cut has not begun")
	}
	cause := errors.New("enough")
	c.Abort(cause)
	if r := <-stays; !errors.Is(r.Err, cause) || r.Receipt == nil || r.Receipt.Flows.Deleted != 3 || r.Receipt.Proven {
		t.Errorf("aborted: %v, %+v", r.Err, r.Receipt)
	}
	if r := <-next; !errors.Is(r.Err, cause) || r.Receipt == nil || r.Receipt.Flows.Deleted != 2 {
		t.Errorf("aborted: %v, %+v", r.Err, r.Receipt)
	}
	if _, err := c.Cut(labtest.Context(t), parse(t, "--dport", "1")); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
	if after := labtest.Ruleset(t, net.Gateway.Host); after != before {
		t.Errorf("ruleset before:\n%s\nafter:\n%s", before, after)
	}
}

// Without kicks and guard phase flows are deleted as they are found, under a
// guard that the selector makes: nothing comes back as long as it stands, and
// nobody else is stopped.
func TestCutEarly(t *testing.T) {
	net := dmz(t, lab.Config{})
	busy := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Download, To: at(net, port, false), Count: 2})
	talks := labtest.Dial(t, net.Clients[1].Host, lab.Streams{Kind: lab.Talk, To: at(net, other, false), Count: 10, Interval: time.Millisecond})
	fill(t, net, 6000) // more than one batch
	if err := busy.WaitReceived(labtest.Context(t), 1<<20); err != nil {
		t.Fatal(err)
	}
	off(t, net)
	s := net.Servers[0]
	r := runCut(t, net, Options{
		Selector: parse(t, "--reply-src", s.Addr4.String()+","+s.Addr6.String()+",10.8.0.1"), NoKick: true, Settle: None,
	})
	if !r.Proven || r.Flows.Matched != 12002 || r.Flows.Deleted != 12002 || r.Flows.Returned != 0 || r.Fence.LeakedPackets != 0 {
		t.Errorf("receipt %+v", r)
	}
	if n := both(talks).Told(nil); n != 20 {
		t.Errorf("%d of 20 other ends were told nothing", n)
	}
	moved := talks.Received()
	labtest.Until(t, "the others go on", func() bool { return talks.Received() > moved+20 })
}

// What is deleted as it is found takes its mirrors with it, also where they are
// all there is.
func TestCutEarlyMirrors(t *testing.T) {
	for _, selected := range []int{0, 3} {
		net := dmz(t, lab.Config{})
		fill(t, net, selected)
		adopted := conntrack.TCPBeLiberal | conntrack.TCPMaxAckSet
		f := conntrack.Flow{
			Has: conntrack.AttrStatus | conntrack.AttrTCP | conntrack.AttrReply, Timeout: time.Hour,
			Status: conntrack.StatusSeenReply | conntrack.StatusAssured,
			TCP:    conntrack.TCP{State: conntrack.TCPEstablished, OrigFlags: adopted, ReplyFlags: adopted},
			Orig: conntrack.Tuple{
				Proto: conntrack.ProtoTCP, Src: netip.MustParseAddr("10.8.0.1"), Dst: netip.MustParseAddr("10.9.0.77"), SrcPort: 80, DstPort: 41234,
			},
		}
		f.Reply = f.Orig.Invert()
		must(t, table(t, net).Create(labtest.Context(t), &f))
		r := runCut(t, net, Options{Selector: parse(t, "--dst", "10.8.0.1"), NoKick: true, Settle: None})
		if r.Flows.Matched != 2*selected+1 || r.Flows.Deleted != 2*selected+1 || r.Flows.Mirrored != 1 || !r.Proven {
			t.Errorf("%d selected: %+v", selected, r.Flows)
		}
		if n := entries(t, net, parse(t, "--host", "10.8.0.1")); n != 0 {
			t.Errorf("%d entries are left", n)
		}
	}
}

// With too many flows for the exact guard, those of the selectors that mean the
// most are left to the coarse one; the others are cut as ever.
func TestCutTooMany(t *testing.T) {
	most := maxGuarded
	t.Cleanup(func() { maxGuarded = most })
	maxGuarded = 50
	net := dmz(t, lab.Config{})
	fill(t, net, 100)
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 5})
	for _, accept := range []bool{false, true} {
		o := quick(Options{NetNS: net.Gateway.NS.Fd(), AcceptSilent: accept})
		results := RunAll(labtest.Context(t), o, []selector.Selector{toServer(t, net), parse(t, "--dst", "10.8.0.1")})
		few, many := results[0], results[1]
		if few.Err != nil || many.Err != nil {
			t.Fatal(few.Err, many.Err)
		}
		wantProven(t, few.Receipt)
		if n := many.Receipt.Flows; n.Matched != 200 || n.Deleted != 200 || many.Receipt.Proven != accept || many.Receipt.Final {
			t.Errorf("accepted %v: %+v, proven %v, final %v: %s", accept, n, many.Receipt.Proven, many.Receipt.Final, many.Receipt.Reason)
		}
		if !accept && !strings.Contains(many.Receipt.Reason, "too many flows") {
			t.Errorf("reason %q", many.Receipt.Reason)
		}
		if accept {
			break
		}
		wantReset(t, both(idle))
		fill(t, net, 100)
	}
}

// Nothing is coarse where conntrack adopts nothing: what goes on without an entry
// would pass.
func TestNotCoarseWithoutAdoption(t *testing.T) {
	net := dmz(t, lab.Config{})
	must(t, net.Gateway.NS.Do(func() error {
		return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_tcp_loose", []byte("0"), 0)
	}))
	busy := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Download, To: at(net, port, false), Count: 2})
	if err := busy.WaitReceived(labtest.Context(t), 1<<20); err != nil {
		t.Fatal(err)
	}
	c := newCutting(Options{NetNS: net.Gateway.NS.Fd(), NoKick: true}, toServer(t, net))
	t.Cleanup(func() { must(t, c.close()) })
	must(t, c.dial())
	must(t, c.open())
	if c.mayForget() {
		t.Error("the guard may be coarse")
	}
	r := runCut(t, net, Options{Selector: toServer(t, net), NoKick: true, Settle: None})
	if r.Flows.Deleted != 2 || r.Flows.Returned != 0 {
		t.Errorf("receipt %+v", r)
	}
}
