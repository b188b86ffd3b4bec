package probe_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/probe"
)

// crowd is how many flows, and so ends, are told in a round.
const crowd = 20000

// rules are what a gateway's policy routing may look at.
var rules = []struct{ name, rule string }{
	{"plain", ""},
	{"mark", "fwmark 7 lookup 100"},
	{"source", "from 10.99.0.0/16 lookup 100"},
	{"sport", "ipproto tcp sport 4711 lookup 100"},
}

// BenchmarkRound sends a SYN to each of 20,000 ends, behind one next hop or
// each on one of 4,000. An operation is a whole round; the first one looks
// routes and neighbours up.
func BenchmarkRound(b *testing.B) {
	for _, family := range []string{"v4", "v6"} {
		for _, hops := range []string{"one", "many"} {
			for _, r := range rules {
				for _, way := range []string{"routed", "forwarded"} {
					b.Run(fmt.Sprintf("%s/hops=%s/%s/%s", family, hops, r.name, way), func(b *testing.B) {
						s := newSite(b)
						targets := s.crowd(b, family == "v6", hops == "many")
						s.rule(b, family == "v6", r.rule)
						round(b, s, targets, ways[way])
					})
				}
			}
		}
	}
}

func round(b *testing.B, s *site, targets []probe.Target, w probe.Way) {
	before, used := s.dropped(b), cpu(b)
	for b.Loop() {
		p := s.prober(b) // with nothing known
		for _, t := range targets {
			p.Syn(t, w, 1, func(_ bool, err error) {
				if err != nil {
					b.Error(err)
				}
			})
		}
		p.Flush()
	}
	sent := float64(b.N * len(targets))
	b.ReportMetric(float64(cpu(b)-used)/sent, "cpu-ns/probe")
	b.ReportMetric(sent/b.Elapsed().Seconds(), "probes/s")
	b.ReportMetric(float64(s.dropped(b)-before)/sent*100, "%lost")
}

// cpu is what this process has used, which is what can be compared where other
// programs are at work. What receivers do in softirqs is in it.
func cpu(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// rule adds a rule of policy routing that leads nowhere new.
func (s *site) rule(t testing.TB, six bool, rule string) {
	if rule == "" {
		return
	}
	family := "-4"
	if six {
		family = "-6"
		rule = strings.Replace(rule, "10.99.0.0/16", "fd99::/16", 1)
	}
	s.run(t, "ip", append([]string{family, "rule", "add"}, strings.Fields(rule)...)...)
}

func (s *site) run(t testing.TB, name string, args ...string) string {
	t.Helper()
	var out []byte
	err := s.Gateway.NS.Do(func() (err error) {
		out, err = exec.Command(name, args...).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// crowd makes the gateway know a way to many ends that are not there, all
// behind the client or each a neighbour with the client's address.
func (s *site) crowd(t testing.TB, six, many bool) []probe.Target {
	t.Helper()
	const neighbours = 4000
	client, server := s.Clients[0], s.Servers[0]
	first, other, via := netip.MustParseAddr("10.128.0.0"), server.Addr4, client.Addr4
	if six {
		first, other, via = netip.MustParseAddr("fd80::"), server.Addr6, client.Addr6
	}
	network := netip.PrefixFrom(first, 16).String()
	if !many {
		s.run(t, "ip", "route", "add", network, "via", via.String())
	} else {
		s.run(t, "ip", "route", "add", network, "dev", client.Device)
	}
	targets := make([]probe.Target, crowd)
	var known strings.Builder
	for i := range targets {
		n := i
		if many {
			n %= neighbours
		}
		a := numbered(first, n+1)
		if many && i < neighbours {
			fmt.Fprintf(&known, "neigh add %s lladdr 02:00:00:00:00:01 dev %s nud permanent\n", a, client.Device)
		}
		targets[i] = target(a, other)
		targets[i].End.DstPort = uint16(10000 + i)
		targets[i].Mark = uint32(i % 2 * 9)
	}
	if many {
		s.batch(t, known.String())
	}
	return targets
}

// batch gives lines to ip(8).
func (s *site) batch(t testing.TB, lines string) {
	t.Helper()
	err := s.Gateway.NS.Do(func() error {
		c := exec.Command("ip", "-batch", "-")
		c.Stdin = strings.NewReader(lines)
		return c.Run()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// numbered returns the address that is n behind a.
func numbered(a netip.Addr, n int) netip.Addr {
	b := a.AsSlice()
	end := b[len(b)-4:]
	binary.BigEndian.PutUint32(end, binary.BigEndian.Uint32(end)+uint32(n))
	out, _ := netip.AddrFromSlice(b)
	return out
}

// dropped counts what the link to the client has lost: the backlog of the
// CPU that receives was full.
func (s *site) dropped(t testing.TB) uint64 {
	t.Helper()
	dev, err := s.route.LinkByName(s.Clients[0].Device)
	if err != nil {
		t.Fatal(err)
	}
	return dev.Attrs().Statistics.TxDropped
}
