package fence

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/selector"
)

// world is a gateway with flows of many kinds, all of which go on and on.
type world struct {
	net   *lab.Topology
	ends  lab.Ends
	names []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{net: labtest.Standard(t, lab.Config{})}
	c, s, g := w.net.Clients, w.net.Servers, w.net.Gateway
	for i, p := range []uint16{5201, 5202} {
		labtest.Listen(t, s[i].Host, p)
		labtest.Listen(t, c[i].Host, 7000)
		if err := g.Forward(p, s[i]); err != nil {
			t.Fatal(err)
		}
	}
	labtest.Listen(t, g.Host, 7000)
	for _, v6 := range []bool{false, true} {
		addr := func(a4, a6 netip.Addr) netip.Addr {
			if v6 {
				return a6
			}
			return a4
		}
		for i, p := range []uint16{5201, 5202} {
			for j := range 2 {
				w.add(t, fmt.Sprintf("dnat %d %d", i, j), c[j].Host, netip.AddrPortFrom(addr(g.Public4, g.Public6), p))
			}
			w.add(t, fmt.Sprintf("snat %d", i), s[i].Host, netip.AddrPortFrom(addr(c[i].Addr4, c[i].Addr6), 7000))
			w.add(t, fmt.Sprintf("out %d", i), g.Host, netip.AddrPortFrom(addr(c[i].Addr4, c[i].Addr6), 7000))
		}
		w.add(t, "in", s[0].Host, netip.AddrPortFrom(addr(s[0].Via4, s[0].Via6), 7000))
		e, err := s[0].Ping(labtest.Context(t), addr(c[1].Addr4, c[1].Addr6), time.Duration(labtest.Slow())*4*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		labtest.Until(t, "an echo has come back", func() bool { return e.Received.Messages() > 0 })
		w.ends, w.names = append(w.ends, e), append(w.names, "ping "+e.Remote.String())
	}
	return w
}

func (w *world) add(t *testing.T, name string, h *lab.Host, to netip.AddrPort) {
	t.Helper()
	rate := 250 / labtest.Slow()
	e := labtest.Exchange(t, h, lab.Datagrams{To: to, Up: rate, Down: rate})
	w.ends, w.names = append(w.ends, e...), append(w.names, name+" "+to.String())
}

// moving tells which flows get something through during a while.
func (w *world) moving(while time.Duration) []bool {
	before := make([]uint64, len(w.ends))
	for i, e := range w.ends {
		before[i] = e.Received.Messages()
	}
	timer := time.NewTimer(while * time.Duration(labtest.Slow())) // the flows' own time
	<-timer.C
	out := make([]bool, len(w.ends))
	for i, e := range w.ends {
		out[i] = e.Received.Messages() > before[i]+1
	}
	return out
}

// meant tells which of the flows the selector matches, by the entry that the
// gateway has for each.
func (w *world) meant(t *testing.T, s *selector.Set) []bool {
	t.Helper()
	ct, err := conntrack.Dial(conntrack.Config{NetNS: w.net.Gateway.NS.Fd()})
	if err != nil {
		t.Fatal(err)
	}
	defer ct.Close()
	out, found := make([]bool, len(w.ends)), make([]int, len(w.ends))
	for f, err := range ct.Dump(labtest.Context(t), conntrack.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(w.ends, func(e *lab.End) bool {
			if f.Orig.IsICMP() {
				return e.Kind == lab.Echo && e.Remote.Addr() == f.Orig.Dst
			}
			return e.Kind != lab.Echo && e.Local == netip.AddrPortFrom(f.Orig.Src, f.Orig.SrcPort) && e.Remote == netip.AddrPortFrom(f.Orig.Dst, f.Orig.DstPort)
		})
		if i >= 0 {
			found[i]++
			out[i] = s.Match(f)
		}
	}
	for i, n := range found {
		if n != 1 {
			t.Fatalf("%d entries of %s", n, w.names[i])
		}
	}
	return out
}

// said are selectors that rules can say.
var said = [][]string{
	{"-s", "203.0.113.2"},
	{"!", "-s", "203.0.113.2"},
	{"-s", "203.0.113.0/24,2001:db8:1::/64"},
	{"!", "-s", "203.0.113.0/24,2001:db8:1::/64"},
	{"-s", "192.168.1.99-192.168.1.101,fd00:1::100,198.51.100.2"},
	{"-d", "203.0.113.1"},
	{"-d", "2001:db8:1::1,203.0.113.1"},
	{"-r", "192.168.1.100"},
	{"!", "-r", "192.168.1.100,fd00:1::100,192.168.2.100"},
	{"-q", "203.0.113.1,2001:db8:1::1"},
	{"--host", "192.168.1.100"},
	{"--host", "fd00:1::/64,198.51.100.0/24"},
	{"!", "--host", "192.168.1.100,fd00:1::100"},
	{"-p", "udp"},
	{"!", "-p", "udp"},
	{"-p", "icmp,icmpv6"},
	{"!", "-p", "icmp,icmpv6"},
	{"--dport", "5201"},
	{"!", "--dport", "5201"},
	{"--dport", "5202-7000,9"},
	{"!", "--dport", "5202-7000,9"},
	{"--reply-port-src", "5202"},
	{"--sport", "1-65535"},
	{"-g"},
	{"!", "-g"},
	{"-n"},
	{"!", "-n"},
	{"-j"},
	{"!", "-j"},
	{"-g", "192.168.1.100"},
	{"-g", "192.168.1.100:5201"},
	{"-g", "192.168.1.100:5202"},
	{"-g", "[fd00:1::100]:5201", "-g", "192.168.2.100"},
	{"!-g", "192.168.1.100:5201"},
	{"-n", "203.0.113.1"},
	{"-j", "203.0.113.1,192.168.2.100"},
	{"-w", "0"},
	{"!", "-w", "0"},
	{"-w", "1"},
	{"--orig-zone", "0", "-f", "ipv6"},
	{"-f", "ipv4"},
	{"-p", "udp", "-g", "--host", "203.0.113.2", "!", "--dport", "5201"},
	{"--host", long("192.168.1.100,fd00:1::100")},
	{"!", "--host", long("192.168.1.100,fd00:1::100")},
	{"-s", long("203.0.113.0/24,fd00:1::/64")},
	{"!", "-s", long("203.0.113.0/24,fd00:1::/64")},
	{"-g", long("192.168.1.0/24,fd00:2::100")},
}

// hosts are the first server and many others.
var hosts = long("192.168.1.100,fd00:1::100")

// saidTogether are several selectors that rules can say, in a line each.
var saidTogether = [][]string{
	{"-s 203.0.113.2", "-p icmpv6"},
	{"--host 192.168.1.100", "--host fd00:1::100 -p tcp", "-g 192.168.2.100"},
	{"-p udp --dport 5201", "! --dport 5201", "-g 192.168.1.100:5202 -f ipv4"},
	{"! -s 203.0.113.0/24 -f ipv4", "-s fd00:1::/64 ! -g"},
	{"-p udp --host " + hosts, "-p icmp ! --host " + hosts, "-p icmpv6 ! -s " + hosts},
	{"-s " + long("203.0.113.0/24"), "-p udp -s " + long("203.0.113.2,fd00:1::/64")},
}

// The rules stop exactly the flows that the selector matches in user space.
func TestRulesSayWhatMatchSays(t *testing.T) {
	w := newWorld(t)
	for _, args := range said {
		if args[0] == "!-g" { // as a value
			args = []string{"--dst-nat=!" + args[1]}
		}
		name := fmt.Sprint(args)
		t.Run(name[:min(len(name), 80)], func(t *testing.T) {
			s, err := selector.Parse(args)
			if err != nil {
				t.Fatal(err)
			}
			if !exact([]selector.Selector{s}) {
				t.Fatal("not expressed by rules")
			}
			w.compare(t, selector.NewSet([]selector.Selector{s}), newNFT)
		})
	}
}

// The rules stop exactly the flows that any of several selectors matches.
func TestRulesSayWhatSetsSay(t *testing.T) {
	w := newWorld(t)
	for _, lines := range saidTogether {
		t.Run(brief(lines), func(t *testing.T) {
			set := selector.NewSet(parse(t, lines...))
			if len(set.Merged()) != len(lines) || !exact(set.Merged()) {
				t.Fatalf("not expressed by rules, or merged: %s", set.Brief())
			}
			w.compare(t, set, newNFT)
		})
	}
}

func brief(lines []string) string {
	name := strings.Join(lines, " or ")
	return name[:min(len(name), 80)]
}

func parse(t *testing.T, lines ...string) []selector.Selector {
	t.Helper()
	var out []selector.Selector
	for _, line := range lines {
		s, err := selector.Parse(strings.Fields(line))
		if err != nil {
			t.Fatalf("%s: %v", brief([]string{line}), err)
		}
		out = append(out, s)
	}
	return out
}

// stands tells whether a flow that is not meant does not go on.
func stands(moving, meant []bool) bool {
	for i := range moving {
		if !moving[i] && !meant[i] {
			return true
		}
	}
	return false
}

// long is a list of so many addresses and prefixes of nobody's that its sets
// are made in another way, and of some that are somebody's.
func long(list string) string {
	var b strings.Builder
	b.WriteString(list)
	for i := range manyRanges {
		fmt.Fprintf(&b, ",10.%d.%d.%d,2001:db8:ffff:%x::%x", i%7, i/7%256, 2*(i%100)+1, i, i)
		if i%64 == 0 {
			fmt.Fprintf(&b, ",172.16.%d.0/24,2001:db8:fffe:%x::/64", i/64, i)
		}
	}
	return b.String()
}

// raiser is a fence of either backend.
type raiser interface {
	Raise(context.Context, conntrack.Family) error
	Guard(context.Context, []conntrack.Tuple, ...Entry) error
	Settle() error
	Counts(context.Context) (Counts, error)
	Lift(context.Context) error
	Close() error
}

func newNFT(cfg Config) (raiser, error) { return New(cfg) }

// compare raises a silent fence and looks which flows stand still.
func (w *world) compare(t *testing.T, s *selector.Set, open func(Config) (raiser, error)) {
	t.Helper()
	labtest.Until(t, "all flows go on", func() bool { return !slices.Contains(w.moving(20*time.Millisecond), false) })
	meant := w.meant(t, s)
	f, err := open(Config{NetNS: w.net.Gateway.NS.Fd(), Silent: true, Selectors: s.Merged()})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, family := range s.Families() {
		if err := f.Raise(t.Context(), family); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Settle(); err != nil {
		t.Fatal(err)
	}
	w.wantStopped(t, meant)
	n, err := f.Counts(t.Context())
	if err != nil || n.Leaked != 0 {
		t.Errorf("%d packets leaked, error %v", n.Leaked, err)
	}
	if err := f.Lift(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// wantStopped looks which flows stand still, and whether all these are meant.
func (w *world) wantStopped(t *testing.T, meant []bool) {
	t.Helper()
	w.moving(40 * time.Millisecond) // what had arrived and was not read yet
	moving := w.moving(60 * time.Millisecond)
	// A machine that is busy with something else may stand still itself.
	for n := 0; n < 10 && stands(moving, meant); n++ {
		for i, is := range w.moving(60 * time.Millisecond) {
			moving[i] = moving[i] || is
		}
	}
	for i, name := range w.names {
		if moving[i] == meant[i] {
			t.Errorf("%s: selected %v, goes on %v", name, meant[i], moving[i])
		}
	}
}
