package fence

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/nft"
	"flowcut/selector"
)

// FuzzKey: an element of a set of the fence is a tuple and its key again, or none.
func FuzzKey(f *testing.F) {
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	a6, b6 := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	for _, t := range []conntrack.Tuple{
		{Proto: conntrack.ProtoTCP, Src: a, Dst: b, SrcPort: 1, DstPort: 80},
		{Proto: conntrack.ProtoUDP, Src: a6, Dst: b6, SrcPort: 1, DstPort: 53},
		{Proto: conntrack.ProtoICMP, Src: a, Dst: b, ICMPType: 8, ICMPID: 7},
		{Proto: conntrack.ProtoICMPv6, Src: a6, Dst: b6, ICMPType: 128, ICMPCode: 1, ICMPID: 7},
		{Proto: conntrack.ProtoGRE, Src: a, Dst: b, SrcPort: 3, DstPort: 4}, {Proto: 200, Src: a, Dst: b},
	} {
		k := key(t)
		f.Add(k, int64(time.Second))
		f.Add(k[:len(k)-4], int64(0))
		f.Add(append([]byte{1, 2, 3, 4}, k[4:]...), int64(0)) // Born
		f.Add(append(k[4:], 1, 2, 3, 4), int64(-1))           // Spoke
	}
	f.Fuzz(func(t *testing.T, k []byte, expires int64) {
		x, ok := tuple(k)
		if ok && (!x.Src.IsValid() || !x.Dst.IsValid() || x.Src.BitLen() != x.Dst.BitLen()) {
			t.Fatalf("%v of %x", x, k)
		}
		if ok {
			again, ok := tuple(key(x))
			if !ok || again != x {
				t.Fatalf("%v, again %v", x, again)
			}
			if any := AnyProto(x); any.Proto != 0 || any.Src != x.Src || any.Dst != x.Dst {
				t.Fatalf("%v without a protocol: %v", x, any)
			}
		}
		r := raised{layout: layout{remember: time.Minute}}
		for _, m := range []Mark{Dead, Reset, Unreachable, Knocked, Born, Leaked, Spoke} {
			n, ok := r.parse(m, nft.Member{Key: k, Expires: time.Duration(expires)})
			if ok && (!n.Src.IsValid() || !n.Dst.IsValid()) {
				t.Fatalf("%s: %+v", m, n)
			}
		}
	})
}

// FuzzQueue: a line about an NFQUEUE is read as it was written, or is an error.
func FuzzQueue(f *testing.F) {
	f.Add("    7  12345     3 2    64     0     0      17  1\n") // Linux 6.18
	f.Add("65535 4294967295 4294967295 0 0 0 0 4294967295 1\n")
	f.Add("    7  12345     3\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, line string) {
		q, err := parseQueue(line)
		if err != nil {
			return
		}
		again, err := parseQueue(fmt.Sprintf("%5d %6d %5d %1d %5d %5d %5d %8d %2d\n", q.Num, q.Listener, q.Waiting, 2, 0, 0, 0, q.Taken, 1))
		if err != nil || again != q {
			t.Fatalf("%+v of %q, again %+v, %v", q, line, again, err)
		}
	})
}

// FuzzPlan: rules are made of any selection, and none of one that leaves
// something out stops every packet of a family.
func FuzzPlan(f *testing.F) {
	for _, s := range []string{
		"-g 192.168.1.100:80 -r 192.168.1.100", "! -s 10.0.0.0/8,192.0.2.1-192.0.2.9 -d 203.0.113.1", "--host 2001:db8::/32 ! -p tcp,udp",
		"-jp udp --sport 1-5,9 -w 1 --orig-zone 2", "! -n [2001:db8::1]:80,[2001:db8::2]:81", "-s 0.0.0.0/0", "! --dport 0-65535 ! -g", "--state CLOSE -u ASSURED",
		"-s 10.0.0.1,10.0.0.3,10.0.0.5,10.0.0.9-10.0.0.12,2001:db8::1,2001:db8::3",
	} {
		f.Add(s, "")
		f.Add("--host 192.0.2.1", s)
	}
	f.Fuzz(func(t *testing.T, meant, except string) {
		if strings.Contains(meant+except, "@") {
			return // no files
		}
		s, err := selector.Parse(strings.Fields(meant))
		e, err2 := selector.Parse(strings.Fields(except))
		if err != nil || err2 != nil {
			return
		}
		cfg := Config{Selectors: []selector.Selector{s}}
		if e.Narrows() {
			cfg.Except = []selector.Selector{e}
		}
		tables, exact := Plan(cfg, conntrack.FamilyIPv4, conntrack.FamilyIPv6)
		if strings.Count(tables, "\n}\n") != 2 {
			t.Fatalf("%s: no two tables:\n%s", s, tables)
		}
		if !exact {
			return
		}
		for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
			c := compiler{family: family}
			for _, term := range c.compile(&s) {
				if len(term) == 0 && s.Narrows() {
					t.Fatalf("%s: rules for %v mean all there is", s, family)
				}
			}
			if c.tooMany {
				t.Fatalf("%s: exact, and too many rules", s)
			}
		}
	})
}
