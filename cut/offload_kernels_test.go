//go:build linux && kernels

package cut

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// These tests need a kernel with flowtables, such as Debian's: make kernels.

// fast is the network of dmz with a flowtable on the gateway that takes all
// established flows.
func fast(t *testing.T) *lab.Topology {
	t.Helper()
	net := dmz(t, lab.Config{})
	rules(t, net.Gateway.Host, `table inet fast {
	flowtable f { hook ingress priority 0; devices = { wan, wan2, lan, lan2 }; }
	chain forward {
		type filter hook forward priority -10;
		meta l4proto { tcp, udp } ct state established flow add @f
	}
}`)
	return net
}

// offloads waits until the flowtable forwards so many of the server's flows.
func offloads(t *testing.T, net *lab.Topology, n int) {
	t.Helper()
	s := parse(t, "--dst-nat", "--reply-src", net.Servers[0].Addr4.String()+","+net.Servers[0].Addr6.String(), "--status", "OFFLOAD")
	labtest.Until(t, "flows are offloaded", func() bool { return entries(t, net, s) == n })
}

// wantReleased checks what a receipt says of offloaded flows, and holds it to
// what the ends have received: nothing from the release to the lift.
func wantReleased(t *testing.T, net *lab.Topology, o Options, ends lab.Ends, n int) *Receipt {
	t.Helper()
	var steps []string
	o.Progress = func(s Step) { steps = append(steps, s.Name) }
	sampler := net.Sample(time.Millisecond, ends.Received)
	start := time.Now()
	r := runCut(t, net, o)
	samples := sampler.Stop()
	f := r.Fence
	if r.Flows.Matched != n || r.Flows.Offloaded != n || r.Flows.Deleted != n {
		t.Errorf("matched %d, offloaded %d, deleted %d, want %d of each", r.Flows.Matched, r.Flows.Offloaded, r.Flows.Deleted, n)
	}
	if f.ReleasedAfterMS <= f.RaisedAfterMS || f.SilentAfterMS < f.ReleasedAfterMS || f.LiftedAfterMS <= f.SilentAfterMS {
		t.Errorf("times out of order: %+v", f)
	}
	if len(f.Detours) != 0 {
		t.Errorf("detours %q", f.Detours)
	}
	told := false
	for _, s := range steps {
		told = told || s == stepRelease
	}
	if !told {
		t.Errorf("the steps %q do not tell of the flowtable", steps)
	}
	const grace = 3 * time.Second // what was received and not yet read: there is no KVM
	released, lifted := start.Add(time.Duration(f.ReleasedAfterMS)), start.Add(time.Duration(f.LiftedAfterMS))
	if at, changed := lastChange(samples, released.Add(grace), lifted); changed {
		t.Errorf("something arrived %v after the release, %v before the guard was lifted", at.Sub(released), lifted.Sub(at))
	}
	return r
}

// What a flowtable forwards is ended like the rest, and what else it forwards is
// not touched.
func TestCutOffloaded(t *testing.T) {
	for _, c := range []struct {
		name string
		kind lab.Kind
		v6   bool
	}{
		{"download", lab.Download, false}, {"upload", lab.Upload, false}, {"download6", lab.Download, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			net := fast(t)
			b := stand(t, net)
			idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, c.v6), Count: 50})
			busy := loaded(t, net.Clients[0].Host, lab.Streams{Kind: c.kind, To: at(net, port, c.v6), Count: 4})
			offloads(t, net, 54)
			off(t, net)
			before := labtest.Ruleset(t, net.Gateway.Host)
			ends := both(idle, busy)
			r := wantReleased(t, net, Options{Selector: toServer(t, net)}, ends, 54)
			exit := time.Now()
			wantProven(t, r)
			wantReset(t, ends)
			wantSilence(t, ends, exit, 2*time.Second)
			wantNoEntries(t, net)
			if after := labtest.Ruleset(t, net.Gateway.Host); after != before {
				t.Errorf("ruleset before:\n%s\nafter:\n%s", before, after)
			}
			b.want(t)
			if n := entries(t, net, parse(t, "-p", "tcp", "--status", "OFFLOAD")); n != len(b.talks) {
				t.Errorf("%d of %d bystanders are offloaded", n, len(b.talks))
			}
		})
	}
}

// Where nobody is told, nothing passes all the same while the guard stands.
func TestCutOffloadedSilently(t *testing.T) {
	net := fast(t)
	busy := loaded(t, net.Clients[0].Host, lab.Streams{Kind: lab.Download, To: at(net, port, false), Count: 4})
	offloads(t, net, 4)
	off(t, net)
	r := wantReleased(t, net, Options{Selector: toServer(t, net), Silent: true, Settle: 2 * time.Second, Timeout: 10 * time.Second}, both(busy), 4)
	if !r.Proven || r.Final {
		t.Errorf("proven %v, final %v: %s", r.Proven, r.Final, r.Reason)
	}
	if told := both(busy).Told(unix.ECONNRESET); told != 0 {
		t.Errorf("%d ends were told", told)
	}
}

// Datagrams are held from the release on.
func TestCutOffloadedDatagrams(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(map[bool]string{false: "v4", true: "v6"}[v6], func(t *testing.T) {
			net := fast(t)
			busy := labtest.Exchange(t, net.Clients[0].Host, lab.Datagrams{To: at(net, port, v6), Count: 4, Up: 200, Down: 200})
			offloads(t, net, 4)
			off(t, net)
			const hold = 5 * time.Second
			r := wantReleased(t, net, Options{Selector: toServer(t, net), Hold: hold}, both(busy), 4)
			wantProven(t, r)
			if held := time.Duration(r.Fence.LiftedAfterMS - r.Fence.ReleasedAfterMS); held < hold {
				t.Errorf("held for %v, want %v", held, hold)
			}
			if told := both(busy).Told(unix.ECONNREFUSED); told != 8 {
				t.Errorf("%d of 8 ends were told ECONNREFUSED", told)
			}
		})
	}
}

// Where the rules cannot know the flows but by their tuples it is the same.
func TestCutOffloadedByTuples(t *testing.T) {
	net := fast(t)
	busy := loaded(t, net.Clients[0].Host, lab.Streams{Kind: lab.Upload, To: at(net, port, false), Count: 4})
	offloads(t, net, 4)
	off(t, net)
	r := wantReleased(t, net, Options{Selector: parse(t, "--dport", "5201", "--status", "OFFLOAD")}, both(busy), 4)
	exit := time.Now()
	wantProven(t, r)
	if r.Fence.Exact {
		t.Error("the fence is exact: the test does not test")
	}
	wantReset(t, both(busy))
	wantSilence(t, both(busy), exit, time.Second)
	wantNoEntries(t, net)
}

// New connections that the ruleset admits, and offloads, go on meanwhile: also
// from the ports of those that are cut.
func TestCutOffloadedAdmits(t *testing.T) {
	net := fast(t)
	busy := loaded(t, net.Clients[0].Host, lab.Streams{Kind: lab.Download, To: at(net, port, false), Count: 4})
	offloads(t, net, 4)
	stop, fresh := make(chan struct{}), make(chan lab.Ends)
	go func() {
		var ends lab.Ends
		for {
			select {
			case <-stop:
				fresh <- ends
				return
			default:
			}
			e, err := net.Clients[1].Host.Dial(t.Context(), lab.Streams{Kind: lab.Talk, To: at(net, port, false), Count: 1, Interval: 5 * time.Millisecond})
			if err != nil {
				t.Errorf("a new connection: %v", err)
			}
			ends = append(ends, e...)
			select {
			case <-stop:
			case <-time.After(20 * time.Millisecond): // a pace
			}
		}
	}()
	s := parse(t, "--dst-nat", "--reply-src", net.Servers[0].Addr4.String())
	r := runCut(t, net, Options{Selector: s})
	close(stop)
	ends := <-fresh
	wantProven(t, r)
	wantReset(t, both(busy))
	if r.Flows.Admitted == 0 {
		t.Error("none was admitted")
	}
	// Those that were there when the cut began are cut like the rest.
	alive := ends[:0]
	for _, e := range ends {
		if told := e.Told(); told.Err == nil {
			alive = append(alive, e)
		}
	}
	if len(ends)-len(alive) > r.Flows.Matched-4 {
		t.Errorf("%d of %d new connections were ended, but only %d were cut", len(ends)-len(alive), len(ends), r.Flows.Matched-4)
	}
	if len(alive) < r.Flows.Admitted {
		t.Errorf("%d live of %d that were admitted", len(alive), r.Flows.Admitted)
	}
	before := make([]uint64, len(alive))
	for i, e := range alive {
		before[i] = e.Received.Bytes()
	}
	for i, e := range alive {
		labtest.Until(t, "new connections go on", func() bool { return e.Received.Bytes() > before[i] })
	}
	offloads(t, net, len(alive))
}
