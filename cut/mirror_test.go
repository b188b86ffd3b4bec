//go:build linux

package cut

import (
	"context"
	"errors"
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

// table is the gateway's table, for what others do to it.
func table(t testing.TB, net *lab.Topology) *conntrack.Client {
	t.Helper()
	c, err := conntrack.Dial(conntrack.Config{NetNS: net.Gateway.NS.Fd()})
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	return c
}

// all returns the entries that a selector means.
func all(t testing.TB, c *conntrack.Client, s selector.Selector) (out []*conntrack.Flow) {
	t.Helper()
	for f, err := range c.Dump(labtest.Context(t), conntrack.Filter{}) {
		must(t, err)
		if s.Match(f) {
			out = append(out, f.Clone())
		}
	}
	return out
}

// remove deletes entries as conntrack(8) does, without regard to who sends.
func remove(t testing.TB, c *conntrack.Client, flows []*conntrack.Flow) {
	t.Helper()
	var keys []conntrack.Key
	for _, f := range flows {
		keys = append(keys, f.Key())
	}
	_, err := c.Delete(labtest.Context(t), keys, nil)
	must(t, err)
}

// restore makes entries anew, as conntrack -I and conntrackd do: they look
// picked up.
func restore(t testing.TB, c *conntrack.Client, flows []*conntrack.Flow) {
	t.Helper()
	for _, f := range flows {
		f.Timeout = time.Hour
		f.Has &^= conntrack.AttrID | conntrack.AttrUse | conntrack.AttrOrigSeqAdj | conntrack.AttrReplySeqAdj
		f.TCP.OrigFlags, f.TCP.ReplyFlags = conntrack.TCPBeLiberal, conntrack.TCPBeLiberal
	}
	_, err := c.CreateAll(labtest.Context(t), slices.Values(flows))
	must(t, err)
}

// zombies are connections of clients to the first server that an earlier
// deletion has left behind as flows of the server's.
func zombies(t *testing.T, net *lab.Topology, n int) lab.Ends {
	t.Helper()
	return zombiesFrom(t, net, netip.AddrPort{}, n)
}

// zombiesFrom are those of clients with a local address and port.
func zombiesFrom(t *testing.T, net *lab.Topology, local netip.AddrPort, n int) lab.Ends {
	t.Helper()
	ends := loaded(t, net.Clients[0].Host, lab.Streams{Kind: lab.Download, To: at(net, port, false), Local: local, Count: n})
	off(t, net)
	c := table(t, net)
	mirror := parse(t, "-s", net.Servers[0].Addr4.String(), "--picked-up", "-n")
	labtest.Until(t, "the server's packets have made flows of their own", func() bool {
		remove(t, c, all(t, c, toServer(t, net)))
		return len(all(t, c, mirror)) == n
	})
	return ends
}

// What an earlier deletion has left behind in the other direction is cut with
// what is selected, and the server's own connections are not, though they look
// the same: not even where every flow looks picked up.
func TestCutMirrors(t *testing.T) {
	for _, restored := range []bool{false, true} {
		t.Run(map[bool]string{false: "plain", true: "restored"}[restored], func(t *testing.T) {
			net := dmz(t, lab.Config{})
			labtest.Listen(t, net.Clients[0].Host, 7000)
			own := labtest.Dial(t, net.Servers[0].Host, lab.Streams{Kind: lab.Talk, To: address(net.Clients[0], false, 7000), Count: 20})
			ghosts := zombies(t, net, 2)
			if restored {
				c := table(t, net)
				// Nothing may be adopted meanwhile.
				rules(t, net.Gateway.Host, "table ip closed { chain pre { type filter hook prerouting priority -400; drop; }; }")
				flows := all(t, c, parse(t, "-p", "tcp"))
				remove(t, c, flows)
				restore(t, c, flows)
				rules(t, net.Gateway.Host, "delete table ip closed")
			}
			r := runCut(t, net, Options{Selector: toServer(t, net)})
			exit := time.Now()
			wantProven(t, r)
			if r.Flows.Mirrored != 2 || r.Flows.Matched != 2 {
				t.Errorf("mirrored %d, matched %d, want the 2 left behind", r.Flows.Mirrored, r.Flows.Matched)
			}
			if want := map[bool]int{false: 0, true: 20}[restored]; r.Flows.Suspects != want {
				t.Errorf("%d suspects, want %d", r.Flows.Suspects, want)
			}
			wantReset(t, both(ghosts))
			wantSilence(t, both(ghosts), exit, 300*time.Millisecond)
			before := own.Received()
			labtest.Until(t, "the server's own connections go on", func() bool { return own.Received() > before+40 })
			if n := both(own).Told(nil); n != 40 {
				t.Errorf("%d of 40 ends of the server's own connections live", n)
			}
		})
	}
}

// What may be a mirror by its ports and is left alone, since nobody says who serves
// there, denies the proof.
func TestCutMirrorGuessed(t *testing.T) {
	for _, silent := range []bool{true, false} {
		t.Run(map[bool]string{true: "nobody is asked", false: "nobody answers"}[silent], func(t *testing.T) {
			net := dmz(t, lab.Config{})
			ghost := zombiesFrom(t, net, netip.AddrPortFrom(net.Clients[0].Addr4, 20000), 1)
			if !silent {
				rules(t, net.Servers[0].Host, "table ip deaf { chain in { type filter hook input priority 0; tcp flags syn / syn,ack drop; }; }")
			}
			r := runCut(t, net, quick(Options{Selector: toServer(t, net), Silent: silent}))
			if r.Proven || r.Flows.Suspects != 1 {
				t.Errorf("proven %v, suspects %d", r.Proven, r.Flows.Suspects)
			}
			wantReason(t, r, "may be mirrors of what is selected")
			before := ghost.Received()
			labtest.Until(t, "it goes on", func() bool { return ghost.Received() > before+1<<20 })
		})
	}
}

// Mirrors are left alone where that is asked for.
func TestCutNoMirror(t *testing.T) {
	net := dmz(t, lab.Config{})
	ghosts := zombies(t, net, 1)
	r := runCut(t, net, Options{Selector: toServer(t, net), NoMirror: true})
	if !r.Proven || r.Flows.Matched != 0 || r.Flows.Mirrored != 0 {
		t.Errorf("proven %v, matched %d, mirrored %d", r.Proven, r.Flows.Matched, r.Flows.Mirrored)
	}
	before := ghosts.Received()
	labtest.Until(t, "it goes on", func() bool { return ghosts.Received() > before+1<<20 })
}

// A port above those that every host serves at is known by what is selected.
func TestServicePorts(t *testing.T) {
	flow := func(dport uint16) *member {
		m := &member{tcp: true}
		m.key.Orig.DstPort, m.reply.SrcPort = dport, dport+1
		return m
	}
	for _, c := range []struct {
		name string
		args []string
		flow *member
		yes  []uint16
		no   []uint16
	}{
		{"nothing", []string{"-s", "192.0.2.1"}, nil, []uint16{22, 32767}, []uint16{32768, 50000}},
		{"port", []string{"--dport", "50000-50010"}, nil, []uint16{50000, 50010}, []uint16{50011}},
		{"not a port", []string{"--dport", "!50000"}, nil, nil, []uint16{50000, 50001}},
		{"reply port", []string{"--reply-port-src", "50000"}, nil, []uint16{50000}, []uint16{50001}},
		{"target", []string{"-g", "192.0.2.1:50000"}, nil, []uint16{50000}, []uint16{50001}},
		{"flow", []string{"-s", "192.0.2.1"}, flow(50000), []uint16{50000, 50001}, []uint16{49999, 50002}},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newCutting(Options{}, parse(t, c.args...))
			x.reflect()
			x.services.below = 32768
			if c.flow != nil {
				x.serves(c.flow)
			}
			for _, p := range c.yes {
				if !x.isService(p) {
					t.Errorf("port %d is none", p)
				}
			}
			for _, p := range c.no {
				if x.isService(p) {
					t.Errorf("port %d is one", p)
				}
			}
		})
	}
}

// More flows than may be cut are counted before anything is done.
func TestCutMax(t *testing.T) {
	net := dmz(t, lab.Config{})
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 5})
	r, err := Run(labtest.Context(t), Options{NetNS: net.Gateway.NS.Fd(), Selector: toServer(t, net), Max: 4})
	if many := new(TooManyError); !errors.As(err, &many) || many.Found != 5 || r != nil {
		t.Fatalf("error %v, receipt %v", err, r)
	}
	if n := both(idle).Told(nil); n != 10 {
		t.Errorf("%d of 10 ends live", n)
	}
	wantProven(t, runCut(t, net, Options{Selector: toServer(t, net), Max: 5}))
	wantReset(t, both(idle))
}

// Flows of an excepted selector live, from the fence's first moment on.
func TestCutExcept(t *testing.T) {
	for _, args := range [][]string{
		{"-s", "198.51.100.2"}, // client2
		{"-s", "198.51.100.2", "-u", "ASSURED"},
	} {
		t.Run(args[len(args)-1], func(t *testing.T) {
			net := dmz(t, lab.Config{})
			talk := lab.Streams{Kind: lab.Talk, To: at(net, port, false), Count: 5, Interval: 2 * time.Millisecond}
			cut := labtest.Dial(t, net.Clients[0].Host, talk)
			kept := labtest.Dial(t, net.Clients[1].Host, talk)
			must(t, slices.Concat(cut, kept).WaitReceived(labtest.Context(t), 20))
			r := runCut(t, net, Options{Selector: toServer(t, net), Except: []selector.Selector{parse(t, args...)}})
			wantProven(t, r)
			if r.Flows.Deleted != 5 || r.Flows.Spared != 5 {
				t.Errorf("deleted %d, spared %d", r.Flows.Deleted, r.Flows.Spared)
			}
			wantReset(t, both(cut))
			before := kept.Received()
			labtest.Until(t, "the excepted ones go on", func() bool { return kept.Received() > before+20 })
			if n := both(kept).Told(nil); n != 10 || kept.Told(unix.ECONNRESET) != 0 {
				t.Errorf("%d of 10 excepted ends live", n)
			}
		})
	}
}

// Hosts that drop what fits no connection hear a question only in the direction
// in which their own connection began, which that of a mirror is not.
func TestCutMirrorsBehindFirewalls(t *testing.T) {
	for _, args := range [][]string{{"--dst-nat", "--reply-src", "192.168.1.100"}, {"-s", "192.168.1.100", "-n"}} {
		t.Run(args[0], func(t *testing.T) {
			net := dmz(t, lab.Config{HostFirewall: true})
			ghosts := zombies(t, net, 2)
			r := runCut(t, net, quick(Options{Selector: parse(t, args...)}))
			wantProven(t, r)
			wantReset(t, both(ghosts))
			if r.Flows.Matched != 2 || r.Endpoints.Dead != 4 {
				t.Errorf("matched %d, dead %d, want 2 flows with 4 dead ends", r.Flows.Matched, r.Endpoints.Dead)
			}
		})
	}
}

// A mirror of what is spared is spared.
func TestCutSparesMirrors(t *testing.T) {
	net := dmz(t, lab.Config{})
	ghosts := zombies(t, net, 1)
	r := runCut(t, net, quick(Options{Selector: toServer(t, net), Except: []selector.Selector{parse(t, "-s", net.Clients[0].Addr4.String(), "-g")}}))
	if !r.Proven || r.Flows.Spared != 1 || r.Flows.Mirrored != 0 {
		t.Errorf("proven %v, spared %d, mirrored %d", r.Proven, r.Flows.Spared, r.Flows.Mirrored)
	}
	before := ghosts.Received()
	labtest.Until(t, "it goes on", func() bool { return ghosts.Received() > before+1<<20 })
}

// A host that makes new mirrors without end does not keep a cut from its end,
// but from being proven.
func TestCutMirrorsWithoutEnd(t *testing.T) {
	net := dmz(t, lab.Config{})
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 3})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		nobody := netip.MustParseAddr("203.0.113.77")
		for p := uint16(1024); ctx.Err() == nil; p++ {
			from, to := address(net.Servers[0], false, port), netip.AddrPortFrom(nobody, p)
			if err := net.Servers[0].Inject(t.Context(), stray(from, to)); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	start := time.Now()
	r := runCut(t, net, quick(Options{Selector: toServer(t, net)}))
	cancel()
	must(t, <-done)
	if r.Proven || time.Since(start) > DefaultTimeout+10*time.Second {
		t.Errorf("proven %v after %v", r.Proven, time.Since(start))
	}
	wantReason(t, r, "mirrors of what is selected kept coming")
	wantReset(t, both(idle))
}
