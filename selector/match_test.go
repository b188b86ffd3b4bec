package selector

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flowcut/conntrack"
)

// tuple reads "10.0.0.1:1000>10.0.0.2:80".
func tuple(t testing.TB, proto conntrack.Proto, s string) conntrack.Tuple {
	t.Helper()
	src, dst, _ := strings.Cut(s, ">")
	a, b := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	tp := conntrack.Tuple{Src: a.Addr(), Dst: b.Addr(), Proto: proto}
	if proto == conntrack.ProtoICMP {
		tp.ICMPID = a.Port()
		return tp
	}
	tp.SrcPort, tp.DstPort = a.Port(), b.Port()
	return tp
}

// Flows to match against: a DNAT download, its picked-up mirror, masqueraded
// UDP, plain IPv6, ICMP and GRE.
func testFlows(t testing.TB) map[string]*conntrack.Flow {
	const tcp, udp = conntrack.ProtoTCP, conntrack.ProtoUDP
	return map[string]*conntrack.Flow{
		"dnat": {
			Has:   conntrack.AttrTCP,
			Orig:  tuple(t, tcp, "203.0.113.2:47274>203.0.113.1:5201"),
			Reply: tuple(t, tcp, "192.168.1.100:5201>203.0.113.2:47274"),
			Status: conntrack.StatusDstNAT | conntrack.StatusSeenReply | conntrack.StatusAssured |
				conntrack.StatusConfirmed | conntrack.StatusDstNATDone,
			TCP:  conntrack.TCP{State: conntrack.TCPEstablished, OrigFlags: 0x23, ReplyFlags: 0x23},
			Mark: 0x15, ID: 7, Zone: 3,
			Labels: conntrack.Labels{0: 0x21},
		},
		"mirror": {
			Has:    conntrack.AttrTCP,
			Orig:   tuple(t, tcp, "192.168.1.100:5201>203.0.113.2:47274"),
			Reply:  tuple(t, tcp, "203.0.113.2:47274>203.0.113.1:5201"),
			Status: conntrack.StatusSrcNAT | conntrack.StatusSeenReply | conntrack.StatusAssured,
			TCP:    conntrack.TCP{State: conntrack.TCPEstablished, OrigFlags: 0x0a, ReplyFlags: 0x2a},
		},
		"masq": {
			Orig:     tuple(t, udp, "192.168.1.5:5000>198.51.100.9:53"),
			Reply:    tuple(t, udp, "198.51.100.9:53>203.0.113.1:61000"),
			Status:   conntrack.StatusSrcNAT,
			OrigZone: 4,
		},
		"v6": {
			Has:       conntrack.AttrTCP,
			Orig:      tuple(t, tcp, "[2001:db8::2]:40000>[2001:db8:1::1]:443"),
			Reply:     tuple(t, tcp, "[2001:db8:1::1]:443>[2001:db8::2]:40000"),
			TCP:       conntrack.TCP{State: conntrack.TCPSynSent},
			ReplyZone: 5,
		},
		"offload": { // no protocol state
			Orig:   tuple(t, tcp, "10.1.0.1:1000>10.1.0.2:80"),
			Reply:  tuple(t, tcp, "10.1.0.2:80>10.1.0.1:1000"),
			Status: conntrack.StatusOffload,
		},
		"icmp": {
			Orig:  tuple(t, conntrack.ProtoICMP, "10.0.0.1:77>10.0.0.2:77"),
			Reply: tuple(t, conntrack.ProtoICMP, "10.0.0.2:77>10.0.0.1:77"),
		},
		"gre": { // the fields of ports hold keys
			Orig:   tuple(t, conntrack.ProtoGRE, "10.0.0.1:80>10.0.0.3:80"),
			Reply:  tuple(t, conntrack.ProtoGRE, "192.168.7.7:80>10.0.0.1:80"),
			Status: conntrack.StatusDstNAT,
		},
	}
}

func TestMatch(t *testing.T) {
	flows := testFlows(t)
	order := []string{"dnat", "mirror", "masq", "v6", "offload", "icmp", "gre"}
	const all = "dnat mirror masq v6 offload icmp gre"
	tests := []struct{ sel, want string }{
		{"", all},
		{"-f ipv4", "dnat mirror masq offload icmp gre"},
		{"-f ipv6", "v6"},
		{"-s 203.0.113.2", "dnat"},
		{"! -s 203.0.113.2", "mirror masq v6 offload icmp gre"},
		{"-s 203.0.113.0/24,2001:db8::/64", "dnat v6"},
		{"-s 203.0.113.3-203.0.113.9", ""},
		{"-s 192.168.1.0-192.168.1.99", "masq"},
		{"-d 203.0.113.1", "dnat"},
		{"-r 192.168.1.100", "dnat"},
		{"-q 203.0.113.1", "mirror masq"},
		{"-s @/dev/null", ""},
		{"! -s @/dev/null", all},
		{"-g @/dev/null", ""},
		{"! -g @/dev/null", all},
		{"-s 0.0.0.0/0", "dnat mirror masq offload icmp gre"},
		{"--host 192.168.1.100", "dnat mirror"},
		{"--host 203.0.113.1", "dnat mirror masq"},
		{"! --host 203.0.113.1", "v6 offload icmp gre"},
		{"-p tcp", "dnat mirror v6 offload"},
		{"-p icmp,gre", "icmp gre"},
		{"! -p tcp,udp", "icmp gre"},
		{"--dport 5201", "dnat"},
		{"--dport 80", "offload"},
		{"--dport 0-65535", "dnat mirror masq v6 offload"},
		{"! --dport 5201", "mirror masq v6 offload"},
		{"! --dport 0-65535", ""},
		{"--sport 5201", "mirror"},
		{"--reply-port-src 5201", "dnat"},
		{"--reply-port-dst 61000", "masq"},
		{"--dport 53,443,1-79", "masq v6"},
		{"-g", "dnat gre"},
		{"! -g", "mirror masq v6 offload icmp"},
		{"-n", "mirror masq"},
		{"-j", "dnat mirror masq gre"},
		{"! -j", "v6 offload icmp"},
		{"! -j 203.0.113.1", "dnat v6 offload icmp gre"},
		{"-g 192.168.1.100", "dnat"},
		{"-g 192.168.1.100:5201", "dnat"},
		{"-g 192.168.1.100:5202", ""},
		{"-g 192.168.1.0/24", "dnat"},
		{"-g 203.0.113.1", ""},
		{"! -g 192.168.1.100", "mirror masq v6 offload icmp gre"},
		{"-n 203.0.113.1", "mirror masq"},
		{"-n 203.0.113.1:61000", "masq"},
		{"-j 203.0.113.1", "mirror masq"},
		{"-j 192.168.1.100,203.0.113.1:5201", "dnat mirror"},
		{"-g 192.168.7.7:80", ""},
		{"-g 192.168.7.7", "gre"},
		{"-u ASSURED", "dnat mirror"},
		{"-u ASSURED,DST_NAT", "dnat"},
		{"-u UNREPLIED", "masq v6 offload icmp gre"},
		{"! -u ASSURED", "masq v6 offload icmp gre"},
		{"! -u ASSURED,DST_NAT", "mirror masq v6 offload icmp gre"},
		{"--state ESTABLISHED", "dnat mirror"},
		{"--state ESTABLISHED,SYN_SENT", "dnat mirror v6"},
		{"! --state ESTABLISHED", "v6"},
		{"--state NONE", ""},
		{"-m 0x15", "dnat"},
		{"-m 0x5/0xf", "dnat"},
		{"-m 0", "mirror masq v6 offload icmp gre"},
		{"-m 0/0", all},
		{"! -m 0x5/0xf,9", "mirror masq v6 offload icmp gre"},
		{"-l 0,5", "dnat"},
		{"-l 0,6", ""},
		{"! -l 0", "mirror masq v6 offload icmp gre"},
		{"-w 3", "dnat"},
		{"-w 4,5", "masq v6"},
		{"! -w 0,3", "masq v6"},
		{"! --orig-zone 0", "dnat masq"},
		{"-w 0", "mirror offload icmp gre"},
		{"--orig-zone 3", "dnat"},
		{"--orig-zone 4", "masq"},
		{"--orig-zone 5", ""},
		{"--reply-zone 5,3", "dnat v6"},
		{"--reply-zone 0", "mirror masq offload icmp gre"},
		{"--id 7", "dnat"},
		{"! --id 7,8", "mirror masq v6 offload icmp gre"},
		{"--picked-up", "mirror"},
		{"! --picked-up", "dnat masq v6 offload icmp gre"},
		{"-g -r 192.168.1.100 -p tcp --dport 5201", "dnat"},
		{"-g -p udp", ""},
	}
	for _, tt := range tests {
		s := mustParse(t, tt.sel)
		var got []string
		for _, name := range order {
			if s.Match(flows[name]) {
				got = append(got, name)
			}
		}
		if g := strings.Join(got, " "); g != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.sel, g, tt.want)
		}
	}
}

func TestNarrows(t *testing.T) {
	tests := []struct {
		sel              string
		narrows          bool
		families, notice string
	}{
		{"", false, "46", ""},
		{"-f ipv4", false, "4", ""},
		{"-p tcp", false, "46", ""},
		{"! -p tcp", false, "46", ""},
		{"-f ipv6 -p udp,icmpv6", false, "6", ""},
		{"-s 0.0.0.0/0", false, "4", ""},
		{"-s ::/0", false, "6", ""},
		{"-s 0.0.0.0/1,128.0.0.0/1", false, "4", "halves make a whole"},
		{"-s 0.0.0.0/0,2001:db8::/32", false, "46", "a list with a /0"},
		{"! -s 0.0.0.0/0", false, "6", ""},
		{"! -s 0.0.0.0/0,2001:db8::1", true, "6", ""},
		{"! -s @/dev/null", false, "46", ""},
		{"! -g @/dev/null", false, "46", ""},
		{"-s 0.0.0.0/0 ! -d 2001:db8::1", false, "4", "a condition on a family that cannot match"},
		{"--dport 0-65535", false, "46", ""},
		{"-m 0/0", false, "46", ""},
		{"-s @/dev/null", true, "", "empty"},
		{"-g @/dev/null", true, "", "empty"},
		{"! --dport 0-65535", true, "", "empty"},
		{"! -m 0/0", true, "", "empty"},
		{"! -s 0.0.0.0/0,::/0", true, "", "empty"},
		{"-s 10.0.0.1", true, "4", ""},
		{"! -s 10.0.0.1", true, "46", ""},
		{"-s 0.0.0.0/0 -d 10.0.0.0/8", true, "4", ""},
		{"-s 0.0.0.0/0 -d 10.0.0.0/8,2001:db8::1", true, "4", ""},
		{"--host 10.0.0.1,2001:db8::1", true, "46", ""},
		{"-g", true, "46", ""},
		{"-g 10.0.0.1", true, "4", ""},
		{"! -g 10.0.0.1", true, "46", ""},
		{"-n 2001:db8::1", true, "6", ""},
		{"--dport 80", true, "46", ""},
		{"-u ASSURED", true, "46", ""},
		{"--state CLOSE", true, "46", ""},
		{"-m 1", true, "46", ""},
		{"-l 1", true, "46", ""},
		{"-w 0", true, "46", ""},
		{"--orig-zone 0", true, "46", ""},
		{"--reply-zone 0", true, "46", ""},
		{"--id 1", true, "46", ""},
		{"--picked-up", true, "46", ""},
		{"! --picked-up", true, "46", ""},
	}
	for _, tt := range tests {
		s := mustParse(t, tt.sel)
		fams := ""
		for _, f := range s.Families() {
			fams += map[conntrack.Family]string{conntrack.FamilyIPv4: "4", conntrack.FamilyIPv6: "6"}[f]
		}
		if s.Narrows() != tt.narrows || fams != tt.families || s.Empty() != (tt.families == "") {
			t.Errorf("%s: narrows %v, families %q, empty %v; want %v, %q (%s)",
				tt.sel, s.Narrows(), fams, s.Empty(), tt.narrows, tt.families, tt.notice)
		}
	}
}

// reverse turns a flow round, as the kernel sees it when it adopts the flow
// from a packet of the other direction.
func reverse(f *conntrack.Flow) *conntrack.Flow {
	r := *f
	r.Orig, r.Reply = f.Reply, f.Orig
	r.OrigZone, r.ReplyZone = f.ReplyZone, f.OrigZone
	r.TCP.OrigFlags, r.TCP.ReplyFlags = f.TCP.ReplyFlags, f.TCP.OrigFlags
	r.Status = reverseStatus(f.Status)
	return &r
}

func TestMirror(t *testing.T) {
	flows := testFlows(t)
	s := mustParse(t, "-g 192.168.1.100:5201 -d 203.0.113.1 --dport 5201")
	m := s.Mirror()
	m.PickedUp = Yes
	for name, f := range flows {
		if m.Match(f) != (name == "mirror") {
			t.Errorf("the mirror of %s: %s: %v", s, name, m.Match(f))
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	hits := 0
	for range 3000 {
		s, err := Parse(randomArgs(r))
		if err != nil {
			continue
		}
		m := s.Mirror()
		for range 20 {
			f := randomFlow(r)
			if s.Match(f) != m.Match(reverse(f)) {
				t.Fatalf("%s: %v for\n%+v\nits mirror %s: %v for\n%+v", s, s.Match(f), f, m, m.Match(reverse(f)), reverse(f))
			}
			if s.Match(f) {
				hits++
			}
			checkAgainstScopes(t, &s, f)
			checkNarrow(t, s, f)
			checkNarrow(t, m, reverse(f))
		}
	}
	if hits < 1000 {
		t.Errorf("only %d matches: the random flows prove little", hits)
	}
}

// checkAgainstScopes: what Families and Empty say must hold for every flow.
func checkAgainstScopes(t *testing.T, s *Selector, f *conntrack.Flow) {
	t.Helper()
	fam := conntrack.FamilyIPv6
	if f.Orig.Src.Is4() {
		fam = conntrack.FamilyIPv4
	}
	if s.Match(f) && !s.admits(fam) {
		t.Fatalf("%s matches %+v, but Families is %v", s, f, s.Families())
	}
	if !s.Narrows() && s.Match(f) != (s.admits(fam) && s.Proto.match(f.Orig.Proto) && s.admitsProto(f.Orig.Proto)) {
		t.Fatalf("%s does not narrow, but does not match %+v", s, f)
	}
}

// checkNarrow: the filter for the kernel must hide no match.
func checkNarrow(t *testing.T, s Selector, f *conntrack.Flow) {
	t.Helper()
	if x := s.Narrow(); s.Match(f) && !x.Match(f) {
		t.Fatalf("%s matches %+v, but its filter %+v does not", s, f, x)
	}
}

func TestNarrow(t *testing.T) {
	type tuple = conntrack.Tuple
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	const v4, tcp = conntrack.FamilyIPv4, conntrack.ProtoTCP
	tests := []struct {
		sel  string
		want conntrack.Filter
	}{
		{"", conntrack.Filter{}},
		{"-f ipv6", conntrack.Filter{Family: conntrack.FamilyIPv6}},
		{"-s 10.0.0.0/8", conntrack.Filter{Family: v4}},
		{"! -s 10.0.0.1", conntrack.Filter{}},
		{"-s 10.0.0.1 -q 10.0.0.2 -p tcp --dport 80", conntrack.Filter{Family: v4,
			Orig: tuple{Src: a, Proto: tcp, DstPort: 80}, OrigFields: conntrack.FieldSrc | conntrack.FieldProto | conntrack.FieldDstPort,
			Reply: tuple{Dst: b, Proto: tcp}, ReplyFields: conntrack.FieldDst | conntrack.FieldProto}},
		{"-g 10.0.0.1:80 -u UNREPLIED", conntrack.Filter{Family: v4,
			Reply: tuple{Src: a}, ReplyFields: conntrack.FieldSrc,
			Status: conntrack.StatusDstNAT, StatusMask: conntrack.StatusDstNAT | conntrack.StatusSeenReply}},
		{"-g 10.0.0.1,10.0.0.3", conntrack.Filter{Family: v4, Status: conntrack.StatusDstNAT, StatusMask: conntrack.StatusDstNAT}},
		{"! -u ASSURED -m 1/3 -w 5", conntrack.Filter{StatusMask: conntrack.StatusAssured,
			Mark: 1, MarkMask: 3, Zone: 5, ByZone: true}},
		{"-n -p udp,tcp --sport 1-2 -w 1,2 -m 1,2 ! -u ASSURED,EXPECTED", conntrack.Filter{
			Status: conntrack.StatusSrcNAT, StatusMask: conntrack.StatusSrcNAT}},
	}
	for _, tt := range tests {
		if d := cmp.Diff(tt.want, mustParse(t, tt.sel).Narrow(), cmpAddr); d != "" {
			t.Errorf("%s:\n%s", tt.sel, d)
		}
	}
}

// randomFlow draws a flow from the small world of randomArgs.
func randomFlow(r *rand.Rand) *conntrack.Flow {
	addr := func() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(8))}) }
	if r.IntN(3) == 0 {
		addr = func() netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", r.IntN(8))) }
	}
	protos := []conntrack.Proto{conntrack.ProtoTCP, conntrack.ProtoTCP, conntrack.ProtoUDP, conntrack.ProtoGRE, conntrack.ProtoICMP}
	p := protos[r.IntN(len(protos))]
	port := func() uint16 { return uint16(r.IntN(5)) }
	f := &conntrack.Flow{
		Orig:   conntrack.Tuple{Src: addr(), Dst: addr(), Proto: p, SrcPort: port(), DstPort: port()},
		Reply:  conntrack.Tuple{Src: addr(), Dst: addr(), Proto: p, SrcPort: port(), DstPort: port()},
		Status: conntrack.Status(r.IntN(64)),
		Mark:   conntrack.Mark(r.IntN(4)),
		ID:     uint32(r.IntN(4)),
		Labels: conntrack.Labels{0: byte(r.IntN(16))},
	}
	if p == conntrack.ProtoTCP {
		f.Has |= conntrack.AttrTCP
		f.TCP = conntrack.TCP{State: conntrack.TCPState(r.IntN(10)), OrigFlags: conntrack.TCPFlags(r.IntN(64)), ReplyFlags: conntrack.TCPFlags(r.IntN(64))}
	}
	z := conntrack.Zone(r.IntN(4))
	*[]*conntrack.Zone{&f.Zone, &f.OrigZone, &f.ReplyZone}[r.IntN(3)] = z
	return f
}

// manyAddrs returns a selector of n single addresses with gaps between them.
func manyAddrs(t testing.TB, n int) Selector {
	t.Helper()
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "10.%d.%d.%d\n", i>>14, i>>6&0xff, i<<2&0xff)
	}
	s, err := parseWith([]string{"-s", "@-"}, b.String(), "")
	if err != nil {
		t.Fatal(err)
	}
	if len(s.OrigSrc.Ranges) != n {
		t.Fatalf("%d ranges, want %d", len(s.OrigSrc.Ranges), n)
	}
	return s
}

func TestMatchDoesNotAllocate(t *testing.T) {
	s := manyAddrs(t, 100_000)
	full := mustParse(t, "-f ipv4 -p tcp -s 203.0.113.0/24 -d 203.0.113.1 -r 192.168.1.100 -q 203.0.113.2 --sport 1-65535 --dport 5201 "+
		"-g 192.168.1.100:5201 ! -n 10.0.0.1 -j -u ASSURED --state ESTABLISHED -m 0x15 -l 0 -w 3 --id 7 ! --picked-up --host 203.0.113.1")
	f := testFlows(t)["dnat"]
	if !full.Match(f) {
		t.Fatal("the flow does not match, so this test proves little")
	}
	if n := testing.AllocsPerRun(100, func() { s.Match(f); full.Match(f) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkMatch(b *testing.B) {
	f := testFlows(b)["dnat"]
	for _, n := range []int{1, 1000, 100_000} {
		s := manyAddrs(b, n)
		b.Run(fmt.Sprintf("addrs=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Match(f)
			}
		})
	}
}

func BenchmarkParseFile(b *testing.B) {
	var text strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&text, "10.%d.%d.%d\n", i>>14, i>>6&0xff, i<<2&0xff)
	}
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseWith([]string{"-s", "@-"}, text.String(), ""); err != nil {
			b.Fatal(err)
		}
	}
}
