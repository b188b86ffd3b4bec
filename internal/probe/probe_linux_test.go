package probe_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/lab"
	"flowcut/internal/probe"
)

var ways = map[string]probe.Way{"routed": probe.Routed, "forwarded": probe.Forwarded}

// kinds are all that a prober sends, and what arrives of it.
var kinds = []struct {
	name string
	send func(*probe.Prober, probe.Target, probe.Way, probe.Outcome)
	want string
}{
	{"ack", (*probe.Prober).Ack, "flags 0x10 "},
	{"syn", func(p *probe.Prober, t probe.Target, w probe.Way, done probe.Outcome) { p.Syn(t, w, 4711, done) }, "flags 0x2 seq 4711 ack 0"},
	{"synack", func(p *probe.Prober, t probe.Target, w probe.Way, done probe.Outcome) { p.SynAck(t, w, 4712, done) }, "flags 0x12 "},
	{"reset", func(p *probe.Prober, t probe.Target, w probe.Way, done probe.Outcome) { p.Reset(t, w, 4713, done) }, "flags 0x4 seq 4713 ack 0"},
	{"unreachable", (*probe.Prober).Unreachable, ""},
}

// now sends one packet and returns what became of it.
func now(p *probe.Prober, send func(probe.Outcome)) (past bool, err error) {
	err = errors.New("nothing was told of the packet")
	send(func(b bool, e error) { past, err = b, e })
	p.Flush()
	return past, err
}

func ack(p *probe.Prober, to probe.Target, w probe.Way) (past bool, err error) {
	return now(p, func(o probe.Outcome) { p.Ack(to, w, o) })
}

// arrive sends each kind to a client and checks what comes there.
func arrive(t *testing.T, s *site, p *probe.Prober, w probe.Way) {
	t.Helper()
	client := s.Clients[0]
	e := listen(t, client.Host)
	for i, server := range addrs(s.Servers[0]) {
		to := target(addrs(client)[i], server)
		for _, k := range kinds {
			if _, err := now(p, func(o probe.Outcome) { k.send(p, to, w, o) }); err != nil {
				t.Errorf("%s to %s: %v", k.name, to.End.Src, err)
				continue
			}
			want := "tcp 40000 > 5201 " + k.want
			if k.name == "unreachable" {
				want = fmt.Sprintf("icmp %s about %s > %s proto 6", []string{"3/3", "1/4"}[i], to.End.Src, server)
			}
			if got := e.hear(t, to.End).String(); !strings.HasPrefix(got, want) {
				t.Errorf("%s to %s: got %q, want %q", k.name, to.End.Src, got, want)
			}
		}
	}
}

func TestKinds(t *testing.T) {
	s := newSite(t)
	for name, w := range ways {
		t.Run(name, func(t *testing.T) { arrive(t, s, s.prober(t), w) })
	}
}

// TestOutputDrop holds that each kind arrives where output rules refuse all,
// and that the rules are tried once for each protocol alone.
func TestOutputDrop(t *testing.T) {
	s := newSite(t)
	s.refuse(t)
	for _, w := range []probe.Way{probe.Forwarded, probe.Routed} {
		packets := map[probe.Way]int{probe.Forwarded: 0, probe.Routed: 4}[w]
		p := s.prober(t)
		arrive(t, s, p, w)
		if past, _ := ack(p, target(s.Clients[0].Addr4, s.Servers[0].Addr4), w); !past {
			t.Error("a packet is not known to have passed no rule")
		}
		if out := s.nft(t, "list", "table", "inet", "user"); !strings.Contains(out, fmt.Sprintf("counter packets %d ", packets)) {
			t.Errorf("way %d: the rules should have seen %d packets:\n%s", w, packets, out)
		}
	}
}

// TestRefusedForGood is about packets that cannot leave past the rules either.
func TestRefusedForGood(t *testing.T) {
	s := newSite(t)
	s.refuse(t)
	p := s.prober(t)
	client := s.Clients[0]
	for _, to := range []probe.Target{
		target(client.Via4, client.Addr4), target(client.Via6, client.Addr6), // ends on the gateway
		target(netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.AddrFrom4([4]byte{127, 0, 0, 1})),
	} {
		for name, w := range ways {
			_, err := ack(p, to, w)
			if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), to.End.Src.String()) {
				t.Errorf("to the gateway's own %s, %s: %v", to.End.Src, name, err)
			}
		}
	}
}

// TestAbsentNeighbours sends to addresses that nobody has: each is waited for
// once, and all of them not for long.
func TestAbsentNeighbours(t *testing.T) {
	s := newSite(t)
	s.refuse(t)
	p := s.prober(t)
	began := time.Now()
	for i := range 40 {
		to := target(withLast(s.Clients[0].Addr4, byte(100+i)), s.Servers[0].Addr4)
		for range 2 {
			if _, err := ack(p, to, probe.Forwarded); !errors.Is(err, unix.EHOSTUNREACH) || !errors.Is(err, unix.EPERM) {
				t.Fatalf("to %s: %v", to.End.Src, err)
			}
		}
	}
	if d := time.Since(began); d > 1500*time.Millisecond {
		t.Errorf("40 absent neighbours took %v", d)
	}
}

func withLast(a netip.Addr, last byte) netip.Addr {
	b := a.As4()
	b[3] = last
	return netip.AddrFrom4(b)
}

// TestMissingNeighbour sends to a next hop whose address must be asked for.
func TestMissingNeighbour(t *testing.T) {
	s := newSite(t)
	client := s.Clients[0]
	e := listen(t, client.Host)
	for i, a := range addrs(client) {
		p := s.prober(t)
		for _, n := range []*lab.Host{s.Gateway.Host, client.Host} {
			if err := n.ForgetNeighbours(); err != nil {
				t.Fatal(err)
			}
		}
		to := target(a, addrs(s.Servers[0])[i])
		past, err := ack(p, to, probe.Forwarded)
		if err != nil {
			t.Fatal(err)
		}
		if !past {
			t.Errorf("to %s: left by the rules", a)
		}
		e.hear(t, to.End)
	}
}

// TestOwnEnds sends to ends on the gateway and through its loopback: neither
// way may lose what the plain socket delivered.
func TestOwnEnds(t *testing.T) {
	s := newSite(t)
	p := s.prober(t)
	client, lo4 := s.Clients[0], netip.AddrFrom4([4]byte{127, 0, 0, 1})
	e := listen(t, s.Gateway.Host)
	for _, to := range []probe.Target{
		target(client.Via4, client.Addr4), target(client.Via6, client.Addr6),
		target(lo4, lo4), target(netip.IPv6Loopback(), netip.IPv6Loopback()),
		target(client.Via4, s.Servers[0].Via4), // between two addresses of the gateway
		{End: tuple(client.Via4, client.Addr4)},
		{End: tuple(client.Via4, client.Addr4), Other: client.Addr4, Mark: 7},
	} {
		for name, w := range ways {
			if _, err := ack(p, to, w); err != nil {
				t.Errorf("%s to %s: %v", name, to.End.Src, err)
				continue
			}
			e.hear(t, to.End)
		}
	}
	// The far end of a flow of the gateway itself, and one whose source is
	// translated to an address that nobody has.
	far := listen(t, client.Host)
	for _, to := range []probe.Target{
		target(client.Addr4, client.Via4), target(client.Addr6, client.Via6),
		{End: tuple(client.Addr4, netip.MustParseAddr("192.0.2.7")), Other: s.Servers[0].Addr4},
		{End: tuple(client.Addr6, netip.MustParseAddr("2001:db8:77::7")), Other: s.Servers[0].Addr6},
	} {
		for name, w := range ways {
			if _, err := ack(p, to, w); err != nil {
				t.Errorf("%s to %s: %v", name, to.End.Src, err)
				continue
			}
			far.hear(t, to.End)
		}
	}
}

// TestUnreachableQuotes checks what a UDP end is told about.
func TestUnreachableQuotes(t *testing.T) {
	s := newSite(t)
	to := target(s.Clients[0].Addr4, s.Servers[0].Addr4)
	to.End.Proto = conntrack.ProtoUDP
	e := listen(t, s.Clients[0].Host)
	p := s.prober(t)
	if _, err := now(p, func(o probe.Outcome) { p.Unreachable(to, probe.Forwarded, o) }); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("icmp 3/3 about %s > %s proto 17", to.End.Src, to.End.Dst)
	if got := e.hear(t, to.End).String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
