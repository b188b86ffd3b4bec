//go:build linux

package failover

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

const (
	alsoOwn = 8080  // port at which the server serves, and from which it has called others
	remote  = 7000  // of a service outside
	high    = 50051 // of another one, which might be a client's port as well
)

// own makes connections of the server's own, from ports of all kinds.
func (s *site) own(v6 bool) (own lab.Ends) {
	s.t.Helper()
	from, to := s.Server.Addr4, s.Client.Addr4
	if v6 {
		from, to = s.Server.Addr6, s.Client.Addr6
	}
	for _, service := range []uint16{remote, high} {
		for _, p := range []uint16{0, 0, 20, 53, 123, 700, 4000, alsoOwn} {
			own = slices.Concat(own, labtest.Dial(s.t, s.Server.Host, lab.Streams{
				Kind: lab.Talk, To: netip.AddrPortFrom(to, service), Local: netip.AddrPortFrom(from, p), Interval: ms(20),
			}))
		}
	}
	return own
}

// lose deletes entries of gateway n as conntrack -D does, until the server's
// packets have made mirrors of them.
func (s *site) lose(n, port, want int) {
	s.t.Helper()
	sel := parse(s.t, "-p", "tcp", "--dst-nat", "--dport", text(port))
	labtest.Until(s.t, "the server's packets have made mirrors", func() bool {
		s.delete(n, sel)
		return len(s.flows(n, parse(s.t, "-p", "tcp", "--sport", text(port), "--picked-up"))) == want
	})
}

// adopt deletes entries of the server's own connections to a port, which the
// gateway adopts then.
func (s *site) adopt(n, port, want int) {
	s.t.Helper()
	sel := parse(s.t, "-p", "tcp", "--dport", text(port))
	s.delete(n, sel)
	labtest.Until(s.t, "the server's own connections are adopted", func() bool { return len(s.flows(n, sel)) == want })
}

// After a takeover every flow looks picked up. A cut ends what is selected and
// its mirrors, those that the other gateway had as well as new ones, and none of
// the server's own connections, whatever ports they have.
func TestOwnConnections(t *testing.T) {
	s := newSite(t, plan{})
	labtest.Listen(t, s.Client.Host, remote)
	labtest.Listen(t, s.Client.Host, high)
	own := slices.Concat(s.own(false), s.own(true))
	labtest.Listen(t, s.Server.Host, alsoOwn)
	for _, g := range s.Gateways {
		must(t, g.Forward(alsoOwn, s.Server))
	}
	var idle, old, fresh lab.Ends
	for _, v6 := range []bool{false, true} {
		idle = slices.Concat(idle, labtest.Dial(t, s.Client.Host, lab.Streams{Kind: lab.Idle, To: s.at(alsoOwn, v6), Count: 2}))
		old = slices.Concat(old, labtest.Dial(t, s.Client.Host, lab.Streams{Kind: lab.Speak, To: s.at(port, v6), Count: 2, Interval: ms(5)}))
		fresh = slices.Concat(fresh, labtest.Dial(t, s.Client.Host, lab.Streams{Kind: lab.Speak, To: s.at(other, v6), Count: 2, Interval: ms(5)}))
	}
	for _, g := range s.Gateways {
		for _, p := range []uint16{port, other, alsoOwn} {
			must(t, g.Unforward(p))
		}
	}
	s.lose(0, port, len(old))
	s.replicated(len(idle), alsoOwn)
	s.replicated(len(own)/2, remote)
	s.replicated(len(own)/2, high)
	labtest.Until(t, "the standby knows the mirrors", func() bool { return s.daemons[1].count("-e", "sport=5201 ", "src=192") == 2 })
	s.takeOver(1)
	s.lose(1, other, len(fresh))
	s.adopt(1, high, len(own)/2)
	before := own.Received()
	r := s.cut(1, quick(parse(t, "--dst-nat", "--reply-src", s.Server.Addr4.String()+","+s.Server.Addr6.String())))
	if !r.Proven || !r.Final || r.Flows.Mirrored != len(old)+len(fresh) || r.Flows.Matched != len(idle)+len(old)+len(fresh) {
		t.Errorf("proven %v, final %v, mirrored %d, matched %d: %s", r.Proven, r.Final, r.Flows.Mirrored, r.Flows.Matched, r.Reason)
	}
	cut := both(idle, old, fresh)
	must(t, cut.WaitTold(labtest.Context(t)))
	if n := cut.Told(unix.ECONNRESET); n != len(cut) {
		t.Errorf("%d of %d ends were reset", n, len(cut))
	}
	labtest.Until(t, "the server's own connections go on, or are ended", func() bool {
		return own.Received() > before+uint64(4*len(own)) || both(own).Told(nil) < 2*len(own)
	})
	for _, e := range own {
		if e.Told().Err != nil || e.Peer().Told().Err != nil {
			t.Errorf("the server's own connection from %v to %v was ended", e.Local, e.Remote)
		}
	}
}
