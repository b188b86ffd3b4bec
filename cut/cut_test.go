//go:build linux

package cut

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/selector"
)

const (
	port  = 5201 // of the server that is cut
	other = 5202 // of one that is not
)

// dmz is the standard network with a server on each port, both forwarded.
func dmz(t testing.TB, cfg lab.Config) *lab.Topology {
	t.Helper()
	net := labtest.Standard(t, cfg)
	for i, p := range []uint16{port, other} {
		labtest.Listen(t, net.Servers[i].Host, p)
		if cfg.NoRules {
			continue
		}
		if err := net.Gateway.Forward(p, net.Servers[i]); err != nil {
			t.Fatal(err)
		}
	}
	return net
}

// at is where clients reach a port of the gateway.
func at(net *lab.Topology, p uint16, v6 bool) netip.AddrPort {
	if v6 {
		return netip.AddrPortFrom(net.Gateway.Public6, p)
	}
	return netip.AddrPortFrom(net.Gateway.Public4, p)
}

func parse(t testing.TB, args ...string) selector.Selector {
	t.Helper()
	s, err := selector.Parse(args)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// toServer selects what is translated to the first server.
func toServer(t testing.TB, net *lab.Topology) selector.Selector {
	t.Helper()
	s := net.Servers[0]
	return parse(t, "--dst-nat", "--reply-src", s.Addr4.String()+","+s.Addr6.String())
}

// off turns the DMZ off for the port that is cut.
func off(t testing.TB, net *lab.Topology) {
	t.Helper()
	if err := net.Gateway.Unforward(port); err != nil {
		t.Fatal(err)
	}
}

// runCut cuts on the gateway and logs the receipt.
func runCut(t testing.TB, net *lab.Topology, o Options) *Receipt {
	t.Helper()
	o.NetNS = net.Gateway.NS.Fd()
	if o.Fence == AnyBackend {
		o.Fence = backend
	}
	r, err := Run(labtest.Context(t), o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("receipt %s", b)
	if backend == IPTables {
		t.Cleanup(func() { wantNoChains(t, net.Gateway.Host) })
	}
	return r
}

// wantProven checks what the receipt claims.
func wantProven(t testing.TB, r *Receipt) {
	t.Helper()
	if !r.Proven || !r.Final {
		t.Errorf("proven %v, final %v: %s", r.Proven, r.Final, r.Reason)
	}
	if n := r.Flows; n.Matched != n.Deleted+n.Vanished+n.Remaining+n.Spared {
		t.Errorf("flows do not add up: %+v", n)
	}
}

// both returns the ends of connections at both sides.
func both(es ...lab.Ends) lab.Ends {
	var out lab.Ends
	for _, e := range es {
		out = append(append(out, e...), e.Peers()...)
	}
	return out
}

// wantReset checks that every end was told by a reset.
func wantReset(t testing.TB, ends lab.Ends) {
	t.Helper()
	ctx, cancel := context.WithTimeout(labtest.Context(t), time.Second)
	defer cancel()
	_ = ends.WaitTold(ctx) // counted below
	if n := ends.Told(unix.ECONNRESET); n != len(ends) {
		t.Errorf("%d of %d ends were told ECONNRESET", n, len(ends))
	}
}

// wantSilence checks by the ends' own clocks that nothing reaches them after a
// moment, for as long as is given from now on.
func wantSilence(t testing.TB, ends lab.Ends, after time.Time, long time.Duration) {
	t.Helper()
	before := ends.Received()
	timer := time.NewTimer(long) // nothing must happen meanwhile
	defer timer.Stop()
	<-timer.C
	if got := ends.Received() - before; got != 0 {
		t.Errorf("%d bytes reached an end after the cut", got)
	}
	if last := ends.LastReceived(); last.After(after) {
		t.Errorf("an end received something %v after the moment it should not", last.Sub(after))
	}
}

// entries counts the entries of the gateway that a selector means.
func entries(t testing.TB, net *lab.Topology, s selector.Selector) int {
	t.Helper()
	c, err := conntrack.Dial(conntrack.Config{NetNS: net.Gateway.NS.Fd()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n := 0
	for f, err := range c.Dump(labtest.Context(t), conntrack.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if s.Match(f) {
			n++
		}
	}
	return n
}

// wantNoEntries checks that none is left of the port, in either direction.
func wantNoEntries(t testing.TB, net *lab.Topology) {
	t.Helper()
	for _, s := range [][]string{{"--dport", "5201"}, {"--sport", "5201"}} {
		if n := entries(t, net, parse(t, s...)); n != 0 {
			t.Errorf("%d entries of %v are left", n, s)
		}
	}
}

// loaded dials streams and waits until they carry load.
func loaded(t testing.TB, h *lab.Host, s lab.Streams) lab.Ends {
	t.Helper()
	ends := labtest.Dial(t, h, s)
	receivers := ends
	if s.Kind == lab.Upload {
		receivers = ends.Peers()
	}
	if err := receivers.WaitReceived(labtest.Context(t), 16<<20); err != nil {
		t.Fatal(err)
	}
	return ends
}

// Streams under load and idle connections end at both ends, and nothing of
// them comes back.
func TestCutStreams(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  lab.Config
		kind lab.Kind
		v6   bool
		idle int
	}{
		{name: "download", kind: lab.Download, idle: 200},
		{name: "upload", kind: lab.Upload, idle: 200},
		{name: "download6", kind: lab.Download, v6: true, idle: 20},
		{name: "upload6", kind: lab.Upload, v6: true, idle: 20},
		{name: "snat", cfg: lab.Config{SNAT: true}, kind: lab.Download, idle: 20},
		{name: "strict", cfg: lab.Config{Sysctls: map[string]string{"net.netfilter.nf_conntrack_tcp_loose": "0"}}, kind: lab.Download, idle: 20},
		{name: "firewalled ends", cfg: lab.Config{HostFirewall: true}, kind: lab.Download, idle: 200},
		{name: "rejecting ends", cfg: lab.Config{HostRejects: true}, kind: lab.Download, idle: 200},
		{name: "firewalled ends 6", cfg: lab.Config{HostFirewall: true}, kind: lab.Upload, v6: true, idle: 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			net := dmz(t, c.cfg)
			idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, c.v6), Count: c.idle})
			busy := loaded(t, net.Clients[0].Host, lab.Streams{Kind: c.kind, To: at(net, port, c.v6), Count: 4})
			off(t, net)
			before := labtest.Ruleset(t, net.Gateway.Host)
			r := runCut(t, net, Options{Selector: toServer(t, net)})
			exit := time.Now()
			wantProven(t, r)
			if want := c.idle + 4; r.Flows.Matched != want {
				t.Errorf("matched %d, want %d", r.Flows.Matched, want)
			}
			ends := both(idle, busy)
			wantReset(t, ends)
			wantSilence(t, ends, exit, time.Second)
			wantNoEntries(t, net)
			if after := labtest.Ruleset(t, net.Gateway.Host); after != before {
				t.Errorf("ruleset before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

// A flow between the gateway itself and others is cut like any other.
func TestCutOwnFlows(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		name := map[bool]string{false: "v4", true: "v6"}[v6]
		t.Run(name, func(t *testing.T) {
			net := labtest.Standard(t, lab.Config{})
			g, s := net.Gateway, net.Servers[0]
			labtest.Listen(t, g.Host, port)
			labtest.Listen(t, s.Host, port)
			inner, server := s.Via4, s.Addr4
			if v6 {
				inner, server = s.Via6, s.Addr6
			}
			in := loaded(t, s.Host, lab.Streams{Kind: lab.Download, To: netip.AddrPortFrom(inner, port), Count: 2})
			out := loaded(t, g.Host, lab.Streams{Kind: lab.Upload, To: netip.AddrPortFrom(server, port), Count: 2})
			idle := labtest.Dial(t, g.Host, lab.Streams{Kind: lab.Idle, To: netip.AddrPortFrom(server, port), Count: 20})
			idle = slices.Concat(idle, labtest.Dial(t, s.Host, lab.Streams{Kind: lab.Idle, To: netip.AddrPortFrom(inner, port), Count: 20}))
			r := runCut(t, net, Options{Selector: parse(t, "-p", "tcp", "--dport", "5201", "--host", server.String())})
			exit := time.Now()
			wantProven(t, r)
			ends := both(in, out, idle)
			wantReset(t, ends)
			wantSilence(t, ends, exit, time.Second)
			wantNoEntries(t, net)
		})
	}
}

// address is a station's own address with a port.
func address(s *lab.Station, v6 bool, p uint16) netip.AddrPort {
	if v6 {
		return netip.AddrPortFrom(s.Addr6, p)
	}
	return netip.AddrPortFrom(s.Addr4, p)
}
