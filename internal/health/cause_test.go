package health

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"flowcut/conntrack"
)

// settings are the kernel's own.
func settings(key string) int {
	for k, v := range map[string]int{"tcp_timeout_syn_sent": 120, "tcp_timeout_established": 432000, "udp_timeout": 30, "udp_timeout_stream": 120} {
		if strings.HasSuffix(key, "nf_conntrack_"+k) {
			return v
		}
	}
	return -1
}

// crowd adds n flows to a server's port, each of another client where there are
// several, the last of which began just now.
func crowd(p *Profile, n, clients int, port uint16, set func(i int, f *conntrack.Flow)) {
	for i := range n {
		f := &conntrack.Flow{Orig: conntrack.Tuple{
			Src: netip.AddrFrom4([4]byte{203, 0, byte(i % clients >> 8), byte(i % clients)}), SrcPort: uint16(i),
			Dst: netip.MustParseAddr("198.51.100.2"), DstPort: port,
		}}
		set(i, f)
		p.Add(f)
	}
}

func synSent(_ int, f *conntrack.Flow) {
	f.Orig.Proto, f.Has, f.TCP.State = conntrack.ProtoTCP, conntrack.AttrTCP, conntrack.TCPSynSent
}

func established(_ int, f *conntrack.Flow) {
	f.Orig.Proto, f.Has, f.TCP.State = conntrack.ProtoTCP, conntrack.AttrTCP, conntrack.TCPEstablished
	f.Status = conntrack.StatusSeenReply | conntrack.StatusAssured
}

func TestExplain(t *testing.T) {
	quiet := func(p *Profile) { crowd(p, 500, 50, 443, established) }
	for name, c := range map[string]struct {
		add         func(*Profile)
		found, want string // what was found, in part; what it means
		do          []string
	}{
		"nothing": {func(*Profile) {}, "", "", nil},
		"SYN flood": {func(p *Profile) { crowd(p, 5000, 5000, 80, synSent) },
			"100 % port tcp/80; 100 % server 198.51.100.2; no client stands out: 203.0.0.0 has the most, 0 %; 100 % unreplied; 100 % tcp SYN_SENT", "a SYN flood, a scan, or a server that does not answer",
			[]string{"flowcut bypass add -p tcp --dport 80 -d 198.51.100.2 --for 10m",
				"sysctl -w net.netfilter.nf_conntrack_tcp_timeout_syn_sent=20, which is 120 now",
				"in the host's namespace: sysctl -w net.netfilter.nf_conntrack_max=20000, and as many nf_conntrack_buckets"}},
		"SYN flood on a forwarded port": {func(p *Profile) {
			crowd(p, 5000, 5000, 80, func(i int, f *conntrack.Flow) {
				synSent(i, f)
				f.Status |= conntrack.StatusDstNAT
			})
		},
			"100 % port tcp/80; 100 % server 198.51.100.2; no client stands out: 203.0.0.0 has the most, 0 %; 100 % unreplied; 100 % translated by NAT, which no bypass may take; 100 % tcp SYN_SENT", "a SYN flood, a scan, or a server that does not answer",
			[]string{"sysctl -w net.netfilter.nf_conntrack_tcp_timeout_syn_sent=20, which is 120 now",
				"in the host's namespace: sysctl -w net.netfilter.nf_conntrack_max=20000, and as many nf_conntrack_buckets"}},
		"one client": {func(p *Profile) { crowd(p, 5000, 1, 443, established) },
			"100 % port tcp/443; 100 % server 198.51.100.2; 100 % client 203.0.0.0; 0 % unreplied; 100 % tcp ESTABLISHED", "connections that stay open, or whose ends are gone without a word: their entries stay for long",
			[]string{"flowcut bypass add -p tcp --dport 443 -d 198.51.100.2 -s 203.0.0.0 --for 10m",
				"sysctl -w net.netfilter.nf_conntrack_tcp_timeout_established=7440, which is 432000 now",
				"in the host's namespace: sysctl -w net.netfilter.nf_conntrack_max=20000, and as many nf_conntrack_buckets"}},
	} {
		before, after := NewProfile(), NewProfile()
		quiet(before)
		quiet(after)
		c.add(after)
		got := Explain(Compare(before, after), conntrack.Limits{Count: 9000, Max: 10000}, false, settings)
		if found := strings.Join(got.Found, "; "); found != c.found || got.Means != c.want || !slices.Equal(got.Do, c.do) {
			t.Errorf("%s: got\n%s\n%s\n%s", name, found, got.Means, strings.Join(got.Do, "\n"))
		}
	}
}

// What is in the table for long does not hide what is added, though it be more.
func TestCompare(t *testing.T) {
	before, after := NewProfile(), NewProfile()
	crowd(before, 2000, 1, 443, established)
	crowd(after, 1900, 1, 443, established)
	crowd(after, 600, 200, 22, established)
	g := Compare(before, after)
	got := fmt.Sprint(g.Flows, g.Unreplied, g.Kinds, g.Ports[0].Key, g.Ports[0].Flows, len(g.Ports))
	if want := "500 0 [{tcp ESTABLISHED 500}] tcp/22 600 1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if shrunk := Compare(after, before); shrunk.Flows != -500 || len(Explain(shrunk, conntrack.Limits{Max: 1}, true, settings).Found) != 0 {
		t.Errorf("%+v", shrunk)
	}
}

func TestPlateauOf(t *testing.T) {
	// 100 a second for 10 s, and what was there before.
	flood := func(set func(int, *conntrack.Flow), stays int, rate float64) Plateau {
		before, after := NewProfile(), NewProfile()
		crowd(before, 300, 10, 443, established)
		crowd(after, 300, 10, 443, established)
		crowd(after, 1000, 1000, 53, func(i int, f *conntrack.Flow) {
			set(i, f)
			f.Timeout = time.Duration(stays)*time.Second - time.Duration(i)*10*time.Millisecond - time.Millisecond
		})
		return PlateauOf(Compare(before, after), after, 1300, rate, settings)
	}
	udp := func(_ int, f *conntrack.Flow) { f.Orig.Proto = conntrack.ProtoUDP }
	for name, c := range map[string]struct{ got, want Plateau }{
		"UDP":         {flood(udp, 30, 90), Plateau{300 + 3000, 300 + 9000}},
		"SYN":         {flood(synSent, 120, 0), Plateau{300 + 12000, 300 + 18000}},
		"faster":      {flood(udp, 30, 500), Plateau{300 + 15000, 300 + 45000}},
		"established": {flood(established, 432000, 100), Plateau{}},
		"old":         {flood(synSent, 60, 100), Plateau{}}, // nothing is new any more
	} {
		if c.got != c.want {
			t.Errorf("%s: %+v, want %+v", name, c.got, c.want)
		}
	}
}
