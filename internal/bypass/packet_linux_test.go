package bypass

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/lab"
	"flowcut/internal/netns"
	"flowcut/internal/nft"
	"flowcut/internal/sysctl"
	"flowcut/selector"
)

func parse(t testing.TB, words string) selector.Selector {
	t.Helper()
	s, err := selector.Parse(strings.Fields(words))
	if err != nil {
		t.Fatalf("%s: %v", words, err)
	}
	return s
}

// scratch makes a namespace.
func scratch(t *testing.T) *netns.NS {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	return ns
}

// loopback makes one whose loopback device is up, with more addresses.
func loopback(t *testing.T) *netns.NS {
	t.Helper()
	l, err := lab.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	h, err := l.Host("host")
	for _, a := range []string{"2001:db8::1/128", "2001:db8::2/128"} {
		err = cmp.Or(err, h.Address("lo", netip.MustParsePrefix(a)))
	}
	if err != nil {
		t.Fatal(err)
	}
	return h.NS
}

// selections are of packets alone, of all kinds there are.
var selections = []string{
	"--host 127.0.0.1", "-f ipv4 ! --host 127.0.0.1", "--host 127.0.0.1,127.0.0.3,2001:db8::1", "! --host 127.0.0.1,127.0.0.3,2001:db8::2",
	"-s 127.0.0.1 -d 127.0.0.2", "-s 127.0.0.0-127.0.0.1", "-d 127.0.0.2,127.0.0.9", "-f ipv4 ! -d 127.0.0.2,127.0.0.9",
	"-d 2001:db8::1", "! -d 2001:db8::1 --dport 1000", "-s 2001:db8::/127 --dport 1001",
	"--dport 1000", "-p udp --dport 1000", "--dport 1000-1001,2000", "! --dport 1000,1001", "--sport 2000 --dport 1000", "! -p tcp --dport 1000",
	"-p udp,tcp -d 127.0.0.2 --dport 1001", "-f ipv6 --dport 1000", "-f ipv4 ! --sport 1000", "-p tcp --dport 1000", "! -p udp --dport 1000",
}

// The kernel takes those packets out of tracking that the selector means, and no
// other: what its rules count is what Match says of the packets that were sent.
func TestPackets(t *testing.T) {
	ns := loopback(t)
	ends := []netip.AddrPort{}
	for _, a := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.3", "2001:db8::1", "2001:db8::2"} {
		for _, port := range []uint16{1000, 1001, 2000} {
			ends = append(ends, netip.AddrPortFrom(netip.MustParseAddr(a), port))
		}
	}
	sockets, err := open(ns, ends)
	if err != nil {
		t.Fatal(err)
	}
	for _, words := range selections {
		s := parse(t, words)
		if _, err := Add(t.Context(), Options{NetNS: ns.Fd(), Selector: s}); err != nil {
			t.Fatalf("%s: %v", words, err)
		}
		m, want := meant{s}, 0
		for i, from := range ends {
			for j, to := range ends {
				if i == j || from.Addr().Is4() != to.Addr().Is4() {
					continue
				}
				if _, err := sockets[i].WriteTo([]byte("x"), net.UDPAddrFromAddrPort(to)); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
					t.Fatal(err)
				}
				if m.packet(conntrack.Tuple{Src: from.Addr(), Dst: to.Addr(), SrcPort: from.Port(), DstPort: to.Port(), Proto: conntrack.ProtoUDP}) {
					want += 2 // as it leaves, and as it comes in by the loopback device
				}
			}
		}
		list, err := Remove(t.Context(), ns.Fd(), BySelector(&s))
		if err != nil || len(list) != 1 {
			t.Fatalf("%s: %+v, %v", words, list, err)
		}
		if got := int(list[0].Sent.Packets + list[0].Returned.Packets); got != want || want == 0 && !strings.Contains(words, "tcp --dport") && !strings.HasPrefix(words, "! -p udp") {
			t.Errorf("%s: %d packets, want %d", words, got, want)
		}
	}
}

func open(ns *netns.NS, ends []netip.AddrPort) (out []net.PacketConn, err error) {
	err = ns.Do(func() error {
		for _, e := range ends {
			c, err := net.ListenPacket("udp", e.String())
			if err != nil {
				return err
			}
			out = append(out, c)
		}
		return nil
	})
	return out, err
}

// A bypass where nothing is tracked turns no tracking on, of neither family.
func TestTracksNothing(t *testing.T) {
	ns := loopback(t)
	if _, err := Add(t.Context(), Options{NetNS: ns.Fd(), Selector: parse(t, "--dport 1000")}); err != nil {
		t.Fatal(err)
	}
	ends := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:7"), netip.MustParseAddrPort("[2001:db8::1]:7")}
	sockets, err := open(ns, ends)
	if err != nil {
		t.Fatal(err)
	}
	count := func() (n int) {
		for i, c := range sockets {
			if _, err := c.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(ends[i])); err != nil {
				t.Fatal(err)
			}
		}
		if err := ns.Do(func() (err error) { n, err = sysctl.Get("net.netfilter.nf_conntrack_count"); return err }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count(); n != 0 {
		t.Errorf("%d flows are tracked", n)
	}
	var b nft.Batch
	b.AddTable(&nft.Table{Family: nft.IPv4, Name: "t", Chains: []*nft.Chain{{Name: "c", Rules: []nft.Rule{nft.NewRule("", nft.AnyBit(nft.CTState, 2), nft.Accept)}}}})
	commit(t, ns, &b)
	if n := count(); n != 1 {
		t.Errorf("%d flows are tracked once a rule for IPv4 asks for it, not 1", n)
	}
}

func commit(t *testing.T, ns *netns.NS, b *nft.Batch) {
	t.Helper()
	c, err := nft.Dial(ns.Fd())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Commit(b), c.Close()); err != nil {
		t.Fatal(err)
	}
}

// Many at once lose nothing, and nobody's rules.
func TestAtOnce(t *testing.T) {
	const each, workers = 5, 4
	ns := scratch(t)
	var running sync.WaitGroup
	for w := range workers {
		running.Go(func() {
			for i := range each {
				s, err := selector.Parse([]string{"--dport", strconv.Itoa(1000*(w+1) + i)})
				if err == nil {
					_, err = Add(t.Context(), Options{NetNS: ns.Fd(), Selector: s, For: time.Hour})
				}
				if err != nil {
					t.Error(err)
				}
				var b nft.Batch
				b.AddTable(&nft.Table{Family: nft.IPv4, Name: fmt.Sprintf("other%d-%d", w, i)})
				commit(t, ns, &b)
			}
		})
	}
	running.Wait()
	list, err := List(t.Context(), ns.Fd())
	if err != nil || len(list) != each*workers {
		t.Fatalf("%d, error %v", len(list), err)
	}
	for i, b := range list {
		if b.Number != i+1 || b.Stays || b.Left < 59*time.Minute || len(b.Families) != 2 {
			t.Errorf("%+v", b)
		}
	}
	if out, err := Remove(t.Context(), ns.Fd(), ByNumber(3, 4, 99)); out != nil || err == nil {
		t.Errorf("removed %v, error %v, though one is not there", out, err)
	}
	if out, err := Remove(t.Context(), ns.Fd(), All); len(out) != each*workers || err != nil {
		t.Errorf("removed %d, error %v", len(out), err)
	}
}

// The lines that make a bypass last make the same one, which can be listed and
// removed, also of a selection too long for one comment.
func TestFile(t *testing.T) {
	long := "--orig-dst "
	for i := range 60 {
		long += fmt.Sprintf("192.0.2.%d,2001:db8::%x:1,", 3*i, 5*i)
	}
	for i, words := range append(slices.Clone(selections), strings.TrimSuffix(long, ",")) {
		if i%3 != 0 && i < len(selections) {
			continue // nft(8) takes its time
		}
		from, to := scratch(t), scratch(t)
		s := parse(t, words)
		r, err := Add(t.Context(), Options{NetNS: from.Fd(), Selector: s})
		if err != nil {
			t.Fatalf("%s: %v", words, err)
		}
		ruleset := func(ns *netns.NS, stdin string, args ...string) (text string) {
			if err := ns.Do(func() error {
				cmd := exec.Command("nft", args...)
				cmd.Stdin = strings.NewReader(stdin)
				out, err := cmd.CombinedOutput()
				text = string(out)
				return err
			}); err != nil {
				t.Errorf("%s: %v: %s", words, err, text)
			}
			return text
		}
		ruleset(to, r.Rules, "-f", "-")
		joined := strings.Contains(words, "--sport 2000 --dport") // of two ports nft(8) makes one number
		if ours, theirs := ruleset(from, "", "list", "ruleset"), ruleset(to, "", "list", "ruleset"); ours != theirs && !joined {
			t.Errorf("%s: ours\n%s\nof our lines\n%s", words, ours, theirs)
		}
		list, err := List(t.Context(), to.Fd())
		if err != nil || len(list) != 1 || !list[0].Stays || list[0].Selector.String() != s.String() {
			t.Errorf("%s: %+v, %v", words, list, err)
		}
		if _, err := Remove(t.Context(), to.Fd(), BySelector(&s)); err != nil {
			t.Error(err)
		}
		if left := ruleset(to, "", "list", "ruleset"); left != "" {
			t.Errorf("%s: left\n%s", words, left)
		}
	}
}

// What cannot be said of packets, or says nothing, is refused, and all else taken.
func TestCheck(t *testing.T) {
	for _, words := range []string{
		"-r 10.0.0.1", "-q 10.0.0.1", "--reply-port-src 1", "--reply-port-dst 1", "-g", "-n 10.0.0.1", "-j", "-u ASSURED", "--state CLOSE",
		"-m 1", "-l 1", "-w 1", "--orig-zone 1", "--reply-zone 1", "--id 1", "--picked-up", "-p tcp", "-f ipv4", "-s 0.0.0.0/0", "--dport 0-65535",
		"! -s 10.0.0.0/8", "! --host 2001:db8::1", "-p tcp ! -d 10.0.0.1", // all of the other family
	} {
		s := parse(t, words+" ")
		bad, ok := errors.AsType[*selector.Error](Check(&s))
		if !ok || bad.Hint == "" {
			t.Errorf("%s: %v", words, bad)
		}
	}
	for _, words := range selections {
		s := parse(t, words)
		if err := Check(&s); err != nil {
			t.Errorf("%s: %v", words, err)
		}
	}
}

// A translated flow is meant if any of its packets are, as they come in.
func TestMeant(t *testing.T) {
	client, public, server := netip.MustParseAddr("203.0.113.2"), netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("192.168.1.100")
	orig := conntrack.Tuple{Proto: conntrack.ProtoTCP, Src: client, SrcPort: 40000, Dst: public, DstPort: 80}
	reply := conntrack.Tuple{Proto: conntrack.ProtoTCP, Src: server, SrcPort: 8080, Dst: client, DstPort: 40000}
	for words, want := range map[string]bool{
		"-d 203.0.113.1": true, "-d 192.168.1.100": true, "-s 192.168.1.100": true, "--dport 80": true, "--dport 8080": true,
		"-d 203.0.113.1 --dport 8080": false, "-d 192.168.1.100 --dport 80": false, "--host 10.0.0.1": false, "-p udp --dport 80": false,
	} {
		m := meant{parse(t, words)}
		if got := m.flow(&conntrack.Flow{Orig: orig, Reply: reply}); got != want {
			t.Errorf("%s: %v", words, got)
		}
	}
}

// Somebody else's table of the same name is left alone.
func TestForeign(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("192.0.2.1"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, rules := range []string{
		"table ip " + Name + " { }",
		"table ip6 " + Name + " { chain prerouting { type filter hook prerouting priority raw; }\nchain output { type filter hook output priority raw; tcp dport 80 notrack; }\n}",
		"table ip " + Name + " { chain prerouting { }\nchain output { }\nchain mine { }\n}",
		"table ip " + Name + " { set mine { type mark; }\nchain prerouting { }\nchain output { }\n}",
		"table ip " + Name + " { chain prerouting { }\nchain output { }\nchain bypass1 { }\nchain words1 { accept comment \"--dport 80\"; }\n}",
		"table ip " + Name + " { set until1 { type ether_type; }\nchain prerouting { }\nchain output { }\nchain bypass1 { }\nchain words1 { accept comment \"--host @" + file + "\"; }\n}",
	} {
		ns := scratch(t)
		nftables := func(args ...string) (out string) {
			if err := ns.Do(func() error {
				cmd := exec.Command("nft", args...)
				cmd.Stdin = strings.NewReader(rules)
				b, err := cmd.CombinedOutput()
				out = string(b)
				return err
			}); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			return out
		}
		nftables("-f", "-")
		before := nftables("list", "ruleset")
		_, errAdd := Add(t.Context(), Options{NetNS: ns.Fd(), Selector: parse(t, "--dport 80")})
		r, errDry := Add(t.Context(), Options{NetNS: ns.Fd(), Selector: parse(t, "--dport 80"), DryRun: true})
		if r != nil {
			t.Errorf("%s\na dry run would do %+v", rules, r)
		}
		_, errList := List(t.Context(), ns.Fd())
		_, errRemove := Remove(t.Context(), ns.Fd(), All)
		for _, err := range []error{errAdd, errDry, errList, errRemove} {
			if _, ok := errors.AsType[*ForeignError](err); !ok {
				t.Errorf("%s\n%v", rules, err)
			}
		}
		if after := nftables("list", "ruleset"); after != before {
			t.Errorf("%s\nbecame\n%s", before, after)
		}
	}
}

// What somebody took away of a bypass is made again with its time, or its rules are
// not said to be in force.
func TestTakenAway(t *testing.T) {
	o := Options{Selector: parse(t, "--dport 80"), For: time.Hour}
	for _, c := range []struct {
		take  func(b *nft.Batch, table *nft.Table)
		whole bool
	}{
		{func(b *nft.Batch, table *nft.Table) { b.DeleteTable(table) }, true},
		{func(b *nft.Batch, table *nft.Table) { b.FlushChain(table, chainPre) }, false},
		{func(b *nft.Batch, table *nft.Table) { b.FlushChain(table, numbered(chainRules, 1)) }, false},
	} {
		ns := scratch(t)
		o.NetNS = ns.Fd()
		add := func() error { _, err := Add(t.Context(), o); return err }
		if err := add(); err != nil {
			t.Fatal(err)
		}
		var b nft.Batch
		c.take(&b, &nft.Table{Family: nft.IPv6, Name: Name})
		commit(t, ns, &b)
		if err := add(); (err == nil) != c.whole {
			t.Errorf("added again: %v", err)
		}
		list, err := List(t.Context(), ns.Fd())
		if (err == nil) != c.whole {
			t.Errorf("listed: %v", err)
		}
		if c.whole && (len(list) != 1 || len(list[0].Families) != 2) {
			t.Errorf("in force: %+v", list)
		}
	}
}

// An interrupted caller gets no bypass.
func TestInterrupted(t *testing.T) {
	ns := scratch(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := Add(ctx, Options{NetNS: ns.Fd(), Selector: parse(t, "--dport 80")}); r != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", r, err)
	}
	if list, err := List(t.Context(), ns.Fd()); len(list) != 0 || err != nil {
		t.Errorf("%+v, %v", list, err)
	}
}

// What an interrupted deletion leaves is what was found less what is deleted.
func TestSweepInterrupted(t *testing.T) {
	ct, err := conntrack.Dial(conntrack.Config{NetNS: scratch(t).Fd()})
	if err != nil {
		t.Fatal(err)
	}
	defer ct.Close() //nolint:errcheck // a test's
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := survey{ct: ct, meant: meant{parse(t, "--dport 80")}, matched: 5}
	if e, err := s.sweep(ctx); e != (Entries{Left: 5}) || !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", e, err)
	}
}
