package fence

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/nflog"
	"flowcut/selector"
)

// backend asks for all cases on iptables, of which there are a few otherwise.
var backend = flag.String("fence", "", "iptables: all cases of that backend")

func newXT(cfg Config) (raiser, error) { return NewXTables(cfg) }

// some returns all of a list, or, unless that was asked for, every so many.
func some[T any](list []T, every int) (out []T) {
	for i, x := range list {
		if *backend == string(IPTables) || i%every == every/2 {
			out = append(out, x)
		}
	}
	return out
}

// The rules of iptables stop exactly the flows that the selector matches in user
// space, or say that they cannot.
func TestXTablesSayWhatMatchSays(t *testing.T) {
	w := newWorld(t)
	cannot := func(s *selector.Set) bool { // lists too long, and zones
		text := s.String()
		return len(text) > 4096 || strings.Contains(text, "zone")
	}
	var sets [][]selector.Selector
	for _, args := range some(said, 12) {
		if args[0] == "!-g" {
			args = []string{"--dst-nat=!" + args[1]}
		}
		s, err := selector.Parse(args)
		if err != nil {
			t.Fatal(err)
		}
		sets = append(sets, []selector.Selector{s})
	}
	for _, lines := range some(saidTogether, 6) {
		sets = append(sets, parse(t, lines...))
	}
	for _, list := range sets {
		set := selector.NewSet(list)
		name := set.Brief()
		t.Run(name[:min(len(name), 80)], func(t *testing.T) {
			cfg := Config{Selectors: set.Merged()}
			if got, want := planXT(cfg).Facts().Exact, !cannot(set); got != want {
				t.Fatalf("exact %v, want %v", got, want)
			}
			if !cannot(set) {
				w.compare(t, set, newXT)
			}
		})
	}
}

// tuples returns those of the world's flows, of each the original one and that of
// its replies, by whether the selector means it.
func (w *world) tuples(t *testing.T, s *selector.Set) (out []conntrack.Tuple) {
	t.Helper()
	ct, err := conntrack.Dial(conntrack.Config{NetNS: w.net.Gateway.NS.Fd()})
	if err != nil {
		t.Fatal(err)
	}
	defer ct.Close()
	for f, err := range ct.Dump(labtest.Context(t), conntrack.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if s.Match(f) {
			out = append(out, f.Orig, f.Reply)
		}
	}
	return out
}

// strangers are tuples of flows that nobody has: many of one host, many of one
// port, and some of no kind that has ports.
func strangers(n int) (out []conntrack.Tuple) {
	random := rand.New(rand.NewPCG(1, 2)) // which they are does not matter
	for i := range n {
		t := conntrack.Tuple{Proto: conntrack.ProtoTCP, SrcPort: uint16(1024 + i), DstPort: 5201,
			Src: netip.MustParseAddr("198.51.100.2"), Dst: netip.MustParseAddr("203.0.113.1")}
		switch i % 4 {
		case 0:
			t.Proto, t.SrcPort = conntrack.ProtoUDP, 4500
			t.Src = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		case 1:
			var a [16]byte
			for j := range a {
				a[j] = byte(random.Uint32())
			}
			t.Src, t.Dst = netip.AddrFrom16(a), netip.MustParseAddr("2001:db8:1::1")
		case 2:
			if i%16 == 2 {
				t = conntrack.Tuple{Proto: conntrack.ProtoGRE, Dst: t.Dst, Src: netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})}
			}
		}
		out = append(out, t, t.Invert())
	}
	return out
}

// Of as many flows as a fence of iptables takes, exactly those are stopped that
// it was told, and it counts what it stopped.
func TestXTablesGuardMany(t *testing.T) {
	w := newWorld(t)
	none := selector.NewSet(parse(t, "-p udp -g", "-p icmp", "-p udp -f ipv6 --dport 7000"))
	f, err := newXT(Config{NetNS: w.net.Gateway.NS.Fd(), Silent: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, family := range none.Families() {
		if err := f.Raise(t.Context(), family); err != nil {
			t.Fatal(err)
		}
	}
	meant := w.meant(t, none)
	cut := w.tuples(t, none)
	fill := MostXT - len(cut)/2
	if *backend == "" {
		fill /= 8
	}
	all := append(strangers(fill), cut...)
	start := time.Now()
	if err := f.Guard(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d flows taken in %v", len(all)/2, time.Since(start))
	if err := f.Settle(); err != nil {
		t.Fatal(err)
	}
	w.wantStopped(t, meant)
	if n, err := f.Counts(t.Context()); err != nil || n.Packets == 0 || n.Disturbed != "" {
		t.Errorf("counts %+v, error %v", n, err)
	}
	if err := f.Lift(t.Context()); err != nil {
		t.Fatal(err)
	}
	labtest.Until(t, "all flows go on", func() bool { return !slices.Contains(w.moving(20*time.Millisecond), false) })
	if text := w.chains(t); text != "" {
		t.Errorf("left behind:\n%s", text)
	}
}

// However tuples differ, a packet is compared with few rules, and exactly those
// are found that were told.
func TestXTTree(t *testing.T) {
	all := strangers(MostXT)
	tuples, others := all[:MostXT], all[MostXT:]
	for name, form := range map[string]*xtForm{"flow": xtFlow, "packet": xtPacket} {
		t.Run(name, func(t *testing.T) {
			x, n := new(xtChange), 0
			(&xtTree{x, form, func() string { n++; return fmt.Sprint("c", n) }, "-j END"}).grow("root", tuples)
			chains := map[string][][]string{}
			for line := range strings.Lines(x.rules.String()) {
				words := strings.Fields(line)
				chains[words[1]] = append(chains[words[1]], words[2:])
			}
			worst := 0
			for _, tuple := range tuples {
				met := 0
				if !walk(t, chains, "root", tuple, &met) {
					t.Fatalf("%s is not found", tuple)
				}
				worst = max(worst, met)
			}
			for _, tuple := range others {
				if met := 0; walk(t, chains, "root", tuple, &met) {
					t.Fatalf("%s is found", tuple)
				}
			}
			const most = 80
			if t.Logf("a packet meets %d rules at most", worst); worst > most {
				t.Errorf("a packet meets %d rules, want %d at most", worst, most)
			}
		})
	}
}

// walk sends a packet on a tuple through chains and tells whether it comes to the
// end. It counts the rules that it meets.
func walk(t *testing.T, chains map[string][][]string, chain string, tuple conntrack.Tuple, met *int) bool {
	t.Helper()
	for _, rule := range chains[chain] {
		*met++
		if to := rule[len(rule)-1]; holds(t, rule[:len(rule)-2], tuple) && (to == "END" || walk(t, chains, to, tuple, met)) {
			return true
		}
	}
	return false
}

// holds tells whether a tuple has what a rule asks for.
func holds(t *testing.T, options []string, tuple conntrack.Tuple) bool {
	t.Helper()
	src, dst := xtPorts(tuple)
	for i := 0; i < len(options); i += 2 {
		v, ok := options[i+1], true
		switch options[i] {
		case "-m": // a match, whose options follow
		case "--ctproto", "-p":
			ok = v == fmt.Sprint(uint8(tuple.Proto))
		case "--ctorigsrc", "-s":
			ok = netip.MustParsePrefix(v).Contains(tuple.Src)
		case "--ctorigdst", "-d":
			ok = netip.MustParsePrefix(v).Contains(tuple.Dst)
		case "--ctorigsrcport", "--sport":
			ok = between(t, v, src)
		case "--ctorigdstport", "--dport":
			ok = between(t, v, dst)
		default:
			t.Fatalf("option %q", options[i])
		}
		if !ok {
			return false
		}
	}
	return true
}

// between tells whether a port is in a range as rules have it.
func between(t *testing.T, text string, port uint16) bool {
	t.Helper()
	first, last, two := strings.Cut(text, ":")
	if !two {
		last = first
	}
	from, err := strconv.Atoi(first)
	to, err2 := strconv.Atoi(last)
	if err != nil || err2 != nil {
		t.Fatalf("ports %q", text)
	}
	return from <= int(port) && int(port) <= to
}

// chains are the lines about our chains that iptables lists in the gateway.
func (w *world) chains(t *testing.T) (out string) {
	t.Helper()
	err := w.net.Gateway.NS.Do(func() error {
		for _, program := range []string{"iptables-legacy-save", "ip6tables-legacy-save"} {
			text, err := exec.Command(program).Output()
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(text)) {
				if strings.Contains(line, xtChains) {
					out += line
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A fence that nobody has lifted stops nothing any more when its time is over,
// is found then, and can be removed.
func TestXTablesRunOut(t *testing.T) {
	w := newWorld(t)
	set := selector.NewSet(parse(t, "-p udp -f ipv4 -g"))
	f, err := NewXTables(Config{NetNS: w.net.Gateway.NS.Fd(), Silent: true, Selectors: set.Merged(), Remember: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Raise(t.Context(), conntrack.FamilyIPv4); err != nil {
		t.Fatal(err)
	}
	w.wantStopped(t, w.meant(t, set))
	left, err := Leftovers(t.Context(), w.net.Gateway.NS.Fd())
	if err != nil || len(left) != 0 {
		t.Fatalf("leftovers %v, error %v, and its process lives", left, err)
	}
	labtest.Until(t, "all flows go on", func() bool { return !slices.Contains(w.moving(20*time.Millisecond), false) })
	if late := time.Since(f.until); late < 0 || late > 2*time.Second {
		t.Errorf("they go on %v after the time that was set", late)
	}
	// As another process of ours, or another container, would see it.
	text := strings.ReplaceAll(w.table(t, "filter"), fmt.Sprintf("pid %d ", os.Getpid()), "pid 4194305 ")
	if list := leftovers(text, time.Now()); len(list) != 1 || list[0].Name != f.name || list[0].Pid != 4194305 {
		t.Errorf("of a process that is gone: %v", list)
	}
	text = strings.ReplaceAll(w.table(t, "filter"), " in ", " in 1")
	if list := leftovers(text, f.until); len(list) != 1 {
		t.Errorf("of a process in another container, when its time is over: %v", list)
	}
	if list := leftovers(text, f.until.Add(-2*time.Second)); len(list) != 0 {
		t.Errorf("of a process in another container, before its time is over: %v", list)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if text := w.chains(t); text != "" {
		t.Errorf("left behind:\n%s", text)
	}
}

// table is one as iptables-save -c writes it.
func (w *world) table(t *testing.T, name string) string {
	t.Helper()
	var out []byte
	err := w.net.Gateway.NS.Do(func() (err error) {
		out, err = exec.Command("iptables-legacy-save", "-c", "-t", name).Output()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// A program that holds the lock of iptables is waited for, but no longer than the
// context.
func TestXTablesWaitForTheLock(t *testing.T) {
	w := newWorld(t)
	lock, err := os.OpenFile("/run/xtables.lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	f, err := NewXTables(Config{NetNS: w.net.Gateway.NS.Fd(), Selectors: parse(t, "-g")})
	if err != nil {
		t.Fatal(err)
	}
	for _, end := range []string{"cancelled", "over"} { // the program itself ends at a deadline
		ctx, cancel := context.WithCancel(t.Context())
		want := context.Canceled
		if end == "over" {
			ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
			want = context.DeadlineExceeded
		} else {
			time.AfterFunc(300*time.Millisecond, cancel)
		}
		start := time.Now()
		if err := f.Raise(ctx, conntrack.FamilyIPv4); !errors.Is(err, want) {
			t.Errorf("raised with %v, want %v", err, want)
		}
		if took := time.Since(start); took < 300*time.Millisecond {
			t.Errorf("waited for %v", took)
		}
		cancel()
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if text := w.chains(t); text != "" {
		t.Errorf("left behind:\n%s", text)
	}
}

// No bytes bring the parser down, and a tuple is one of the packet's family.
func FuzzXTPacket(f *testing.F) {
	tcp4 := append([]byte{0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}, make([]byte, 20)...)
	six := append(append([]byte{0x60, 0, 0, 0, 0, 8, 58, 64}, make([]byte, 32)...), 1, 4, 0, 0, 0, 0, 0, 0)
	f.Add(tcp4)
	f.Add(six)
	f.Add(append(six, six...))
	f.Add(tcp4[:22])
	f.Add(append([]byte{0x4f}, tcp4[1:20]...)) // a header that is longer than the packet
	f.Fuzz(func(t *testing.T, b []byte) {
		n := newXTNotes()
		for _, prefix := range []string{xtDead, xtKnock, xtSpoke, xtTold, xtPast} {
			n.take(nflog.Packet{Prefix: prefix, Data: b})
		}
		tuple, payload, ok := parsePacket(b)
		if ok && (!tuple.Src.IsValid() || tuple.Src.Is6() != tuple.Dst.Is6() || len(payload) > len(b)) {
			t.Errorf("%v out of % x", tuple, b)
		}
	})
}

// No text of iptables-save brings down what looks for leftovers, and what it
// removes are chains of ours and rules that lead to them.
func FuzzLeftovers(f *testing.F) {
	const name = xtChains + "0badcafe"
	f.Add("*filter\n:INPUT ACCEPT [0:0]\n:" + name + " - [0:0]\n:" + name + "-stop - [0:0]\n" +
		"[0:0] -A INPUT -m time --datestop 2026-11-26T04:38:48 -m comment --comment \"flowcut-0badcafe pid 7 start 8 in 9\" -j " + name + "\n" +
		"[1:60] -A " + name + " -g " + name + "-stop\nCOMMIT\n")
	f.Add(":" + name + " ")
	f.Add("[1:2] -A X -j FLOWCUT-0badcafe")
	f.Add("[1:2] -A  -j FLOWCUT-0badcafe-")
	f.Fuzz(func(t *testing.T, text string) {
		for _, l := range leftovers(text, time.Now()) {
			for line := range strings.Lines(removal(text, l.Name)) {
				if !strings.Contains(line, l.Name) {
					t.Errorf("removes %q", line)
				}
			}
		}
	})
}
