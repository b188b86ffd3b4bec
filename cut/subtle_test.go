//go:build linux

package cut

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/nft"
)

// during returns options that call f once, when a step begins.
func during(step string, o Options, f func()) Options {
	o.Progress = func(s Step) {
		if s.Name == step {
			f()
		}
	}
	return o
}

// Where conntrack adopts nothing, what the guard answers has no flow: it must
// reach its end all the same, through a gateway that does not translate, and
// from the gateway itself, and must not be taken for an end's own word.
func TestGuardAnswersWithoutFlow(t *testing.T) {
	strict := map[string]string{"net.netfilter.nf_conntrack_tcp_loose": "0"}
	t.Run("plain router", func(t *testing.T) {
		net := dmz(t, lab.Config{NoRules: true, Sysctls: strict})
		track(t, net)
		ends := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Speak, To: address(net.Servers[0], false, port), Count: 50, Interval: 100 * time.Millisecond})
		r := runCut(t, net, Options{Selector: parse(t, "--dport", "5201"), NoKick: true})
		if !r.Proven || r.Flows.Matched != 50 {
			t.Errorf("proven %v, matched %d", r.Proven, r.Flows.Matched)
		}
		if told := ends.Peers().Told(unix.ECONNRESET); told != 50 {
			t.Errorf("%d of 50 servers that spoke were told", told)
		}
	})
	t.Run("own flows", func(t *testing.T) {
		net := labtest.Standard(t, lab.Config{Sysctls: strict})
		g, s := net.Gateway, net.Servers[0]
		labtest.Listen(t, s.Host, port)
		ends := labtest.Dial(t, g.Host, lab.Streams{Kind: lab.Speak, To: address(s, false, port), Count: 20, Interval: 100 * time.Millisecond})
		r := runCut(t, net, Options{Selector: parse(t, "--dport", "5201"), NoKick: true})
		if r.Endpoints.Dead != 0 || r.Final {
			t.Errorf("%d ends counted as dead, final %v, and none was asked", r.Endpoints.Dead, r.Final)
		}
		if told := ends.Peers().Told(unix.ECONNRESET); told != 20 {
			t.Errorf("%d of 20 servers that spoke were told", told)
		}
	})
}

// track makes a gateway without rules track connections, as one with any
// stateful rule does.
func track(t *testing.T, net *lab.Topology) {
	t.Helper()
	if err := net.Gateway.Firewall(false); err != nil {
		t.Fatal(err)
	}
}

// A connection of a family that had no entry when the cut began is a new one.
func TestNewFamilyDuringCut(t *testing.T) {
	net := dmz(t, lab.Config{})
	labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 10})
	var fresh lab.Ends
	o := during(stepList, Options{Selector: toServer(t, net)}, func() {
		fresh = labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Talk, To: at(net, port, true), Count: 5, Interval: 5 * time.Millisecond})
	})
	r := runCut(t, net, o)
	wantProven(t, r)
	if r.Flows.Matched != 10 {
		t.Errorf("matched %d, want the 10 old ones", r.Flows.Matched)
	}
	before := fresh.Received()
	labtest.Until(t, "the new ones go on", func() bool { return fresh.Received() > before+20 })
	if n := both(fresh).Told(nil); n != 10 {
		t.Errorf("%d of 10 ends of new connections live", n)
	}
}

// Somebody who puts a cut flow back denies the proof.
func TestReinsertedDuringCut(t *testing.T) {
	net := dmz(t, lab.Config{})
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 10})
	old := find(t, net, idle[0])
	o := during(stepSettle, Options{Selector: toServer(t, net)}, func() {
		c, err := conntrack.Dial(conntrack.Config{NetNS: net.Gateway.NS.Fd()})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		f := &conntrack.Flow{
			Has:  conntrack.AttrOrig | conntrack.AttrReply | conntrack.AttrTimeout | conntrack.AttrTCP,
			Orig: old.Orig, Reply: old.Orig.Invert(), Timeout: time.Minute, TCP: conntrack.TCP{State: conntrack.TCPEstablished},
		}
		if err := c.Create(labtest.Context(t), f); err != nil {
			t.Fatal(err)
		}
	})
	r := runCut(t, net, o)
	if r.Proven || r.Flows.Returned != 1 || r.Reason == "" {
		t.Errorf("proven %v, returned %d, reason %q", r.Proven, r.Flows.Returned, r.Reason)
	}
	wantNoEntries(t, net)
}

// A reset to another flow that has taken over a cut flow's port at the
// gateway is not held back.
func TestResetOfAnotherFlow(t *testing.T) {
	net := labtest.Standard(t, lab.Config{})
	outside := labtest.Listen(t, net.Clients[0].Host, 7000)
	to := address(net.Clients[0], false, 7000)
	from := func(s *lab.Station) netip.AddrPort { return netip.AddrPortFrom(s.Addr4, 40000) }
	labtest.Dial(t, net.Servers[0].Host, lab.Streams{Kind: lab.Idle, To: to, Local: from(net.Servers[0])})
	var err error
	var took time.Duration
	o := during(stepSettle, Options{Selector: parse(t, "--orig-src", net.Servers[0].Addr4.String())}, func() {
		outside.Close()
		start := time.Now()
		_, err = net.Servers[1].Dial(labtest.Context(t), lab.Streams{Kind: lab.Idle, To: to, Local: from(net.Servers[1])})
		took = time.Since(start)
	})
	wantProven(t, runCut(t, net, o))
	if !errors.Is(err, unix.ECONNREFUSED) || took > 500*time.Millisecond {
		t.Errorf("the other host's connection ended after %v with %v, want at once with ECONNREFUSED", took, err)
	}
}

// Of a connection whose answers take another way the gateway knows only that
// it has begun. Its ends are asked all the same, also when it took long to list
// the flows.
func TestCutOneWay(t *testing.T) {
	for _, long := range []time.Duration{0, 2 * forOthers} {
		t.Run(fmt.Sprint(long), func(t *testing.T) { cutOneWay(t, long) })
	}
}

func cutOneWay(t *testing.T, listing time.Duration) {
	net := dmz(t, lab.Config{NoRules: true})
	track(t, net)
	client, server := net.Clients[0], net.Servers[0]
	at := func(a string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(a)} }
	must(t, net.Connect(labtest.Context(t),
		lab.Port{Host: client.Host, Name: "side", Addresses: at("10.9.9.1/24")},
		lab.Port{Host: server.Host, Name: "side", Addresses: at("10.9.9.2/24")}))
	must(t, server.Route(netip.PrefixFrom(client.Addr4, 32), netip.MustParseAddr("10.9.9.1")))
	idle := labtest.Dial(t, client.Host, lab.Streams{Kind: lab.Idle, To: address(server, false, port), Count: 5})
	if f := find(t, net, idle[0]); f.TCP.State != conntrack.TCPSynSent && f.TCP.State != conntrack.TCPEstablished || f.Status&conntrack.StatusSeenReply != 0 {
		t.Fatalf("state %v, status %v: the gateway sees the answers", f.TCP.State, f.Status)
	}
	o := during(stepTell, Options{Selector: parse(t, "--host", server.Addr4.String())}, func() {
		time.Sleep(listing) // time itself is meant
	})
	r := runCut(t, net, o)
	wantProven(t, r)
	wantReset(t, idle)
	if r.Endpoints.Dead != 5 {
		t.Errorf("%d ends confirmed dead, want the 5 that answer through the gateway", r.Endpoints.Dead)
	}
}

// Packets that have no flow, such as neighbour discovery, are no selector's
// business, also where one holds for all flows of a family.
func TestNeighboursDuringCut(t *testing.T) {
	net := dmz(t, lab.Config{})
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, true), Count: 3})
	must(t, net.Gateway.ForgetNeighbours())
	r := runCut(t, net, Options{Selector: parse(t, "!", "-s", "10.0.0.0/8")})
	wantProven(t, r)
	wantReset(t, both(idle))
	if r.Endpoints.Silent != 0 || time.Duration(r.ElapsedMS) > 3*time.Second {
		t.Errorf("%d ends silent, took %v", r.Endpoints.Silent, r.ElapsedMS)
	}
}

// An entry that looks closed while its connection lives, as a client can bring
// about with segments that get no further than the gateway, proves nothing.
func TestCutSeeminglyClosed(t *testing.T) {
	for _, asleep := range []bool{false, true} {
		t.Run(map[bool]string{false: "reachable", true: "asleep"}[asleep], func(t *testing.T) {
			net := dmz(t, lab.Config{})
			idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 5})
			c, err := conntrack.Dial(conntrack.Config{NetNS: net.Gateway.NS.Fd()})
			must(t, err)
			defer c.Close()
			for _, e := range idle {
				f := find(t, net, e)
				must(t, c.Update(labtest.Context(t), &conntrack.Flow{
					Has: conntrack.AttrOrig | conntrack.AttrTCP, Orig: f.Orig, TCP: conntrack.TCP{State: conntrack.TCPTimeWait},
				}))
				if now := find(t, net, e).TCP.State; now != conntrack.TCPTimeWait {
					t.Fatalf("state %v", now)
				}
			}
			if asleep {
				must(t, net.Clients[0].Vanish())
				must(t, net.Servers[0].Vanish())
			}
			r := runCut(t, net, Options{Selector: toServer(t, net)})
			if asleep {
				if r.Proven || r.Final {
					t.Errorf("proven %v, final %v, and nobody was heard", r.Proven, r.Final)
				}
				return
			}
			wantProven(t, r)
			wantReset(t, both(idle))
		})
	}
}

// Somebody who answers in an end's place, and has not spoken on the connection
// before, is not believed as long as the other end is silent.
func TestCutLonelyAnswer(t *testing.T) {
	net := dmz(t, lab.Config{})
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 5})
	must(t, net.Clients[0].Vanish())
	b := new(nft.Batch)
	b.AddTable(&nft.Table{Family: nft.IPv4, Name: "refuse", Chains: []*nft.Chain{{
		Name: "pre", Hook: &nft.Hook{Type: "filter", Num: nft.Prerouting, Priority: -150},
		Rules: []nft.Rule{nft.NewRule("", nft.Equal(nft.MetaL4Proto, []byte{unix.IPPROTO_TCP}), nft.Reset)},
	}}})
	must(t, net.Servers[0].Commit(b))
	r := runCut(t, net, Options{Selector: toServer(t, net)})
	if r.Proven || r.Final || r.Endpoints.Dead != 5 {
		t.Errorf("proven %v, final %v, %d dead", r.Proven, r.Final, r.Endpoints.Dead)
	}
	if n := idle.Peers().Told(nil); n != 5 {
		t.Fatalf("%d of 5 servers live: the test does not test", n)
	}
}

// A client that connects again from the same port while the old entry is cut
// has no old connection any more: its new one is admitted and lives.
func TestCutSamePort(t *testing.T) {
	net := dmz(t, lab.Config{})
	to := at(net, port, false)
	const first = 20000
	local := func(i int) netip.AddrPort { return netip.AddrPortFrom(net.Clients[0].Addr4, uint16(first+i)) }
	var old, fresh lab.Ends
	for i := range 20 {
		old = append(old, labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: to, Local: local(i)})...)
	}
	o := during(stepSettle, Options{Selector: toServer(t, net)}, func() {
		for i := range 20 {
			fresh = append(fresh, labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Talk, To: to, Local: local(i), Interval: 5 * time.Millisecond})...)
		}
	})
	r := runCut(t, net, o)
	wantProven(t, r)
	wantReset(t, both(old))
	before := fresh.Received()
	labtest.Until(t, "the new ones go on", func() bool { return fresh.Received() > before+100 })
	if n := both(fresh).Told(nil); n != 40 || r.Flows.Admitted != 20 {
		t.Errorf("%d of 40 ends of new connections live, %d admitted", n, r.Flows.Admitted)
	}
}

// One end that stays silent does not keep the clients of other cut flows from
// connecting again by the same port.
func TestCutSamePortDespiteSilence(t *testing.T) {
	net := dmz(t, lab.Config{})
	to := at(net, port, false)
	local := netip.AddrPortFrom(net.Clients[0].Addr4, 20000)
	labtest.Dial(t, net.Clients[1].Host, lab.Streams{Kind: lab.Idle, To: to})
	must(t, net.Clients[1].Vanish())
	old := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: to, Local: local})
	again := make(chan time.Duration, 1)
	o := during(stepTell, Options{Selector: toServer(t, net)}, func() {
		start := time.Now()
		go func() {
			for old.Told(nil) == 1 { // until the port is free
			}
			for {
				if _, err := net.Clients[0].Dial(labtest.Context(t), lab.Streams{Kind: lab.Idle, To: to, Local: local}); err == nil {
					again <- time.Since(start)
					return
				}
			}
		}()
	})
	wantProven(t, runCut(t, net, o))
	if took := <-again; took > 500*time.Millisecond {
		t.Errorf("connected again after %v", took)
	}
}
