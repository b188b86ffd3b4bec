package selector

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flowcut/conntrack"
)

func parseAll(t testing.TB, lines ...string) []Selector {
	t.Helper()
	var out []Selector
	for _, line := range lines {
		out = append(out, mustParse(t, line))
	}
	return out
}

func TestMerged(t *testing.T) {
	tests := []struct {
		name string
		in   []string
		want string // of the set, selectors in the order of what is left
	}{
		{"none", nil, ""},
		{"one stays as it is", []string{"-s 10.0.0.1 ! -d 10.0.0.2 -g"}, "--orig-src 10.0.0.1 ! --orig-dst 10.0.0.2 --dst-nat"},
		{"equal ones", []string{"-g", "-g", "-g"}, "--dst-nat"},
		{"addresses of an end", []string{"--host 10.0.0.9", "--host 10.0.0.1", "--host 10.0.0.2,2001:db8::1"}, "--host 10.0.0.1-10.0.0.2,10.0.0.9,2001:db8::1"},
		{"each address", []string{"-s 10.0.0.1", "-s 10.0.0.3", "-d 10.0.0.1", "-d 10.0.0.3", "-r 10.0.0.1", "-r 10.0.0.3", "-q 10.0.0.1", "-q 10.0.0.3"},
			"--orig-src 10.0.0.1,10.0.0.3 or --orig-dst 10.0.0.1,10.0.0.3 or --reply-src 10.0.0.1,10.0.0.3 or --reply-dst 10.0.0.1,10.0.0.3"},
		{"the rest is the same", []string{"-s 10.0.0.1 -p tcp ! --dport 22", "-s 10.0.0.3 -p tcp ! --dport 22"}, "--proto tcp --orig-src 10.0.0.1,10.0.0.3 ! --orig-port-dst 22"},
		{"the rest differs", []string{"-s 10.0.0.1 -m 1", "-s 10.0.0.3"}, "--orig-src 10.0.0.1 --mark 0x1 or --orig-src 10.0.0.3"},
		{"negated ones", []string{"! -s 10.0.0.1", "! -s 10.0.0.3"}, "! --orig-src 10.0.0.1 or ! --orig-src 10.0.0.3"},
		{"negated and not", []string{"! -s 10.0.0.1", "-s 10.0.0.1"}, "! --orig-src 10.0.0.1 or --orig-src 10.0.0.1"},
		{"two at once", []string{"-s 10.0.0.1 -d 10.0.0.1", "-s 10.0.0.3 -d 10.0.0.3"},
			"--orig-src 10.0.0.1 --orig-dst 10.0.0.1 or --orig-src 10.0.0.3 --orig-dst 10.0.0.3"},
		{"all pairs", []string{"-s 10.0.0.1 -d 10.0.0.1", "-s 10.0.0.3 -d 10.0.0.3", "-s 10.0.0.1 -d 10.0.0.3", "-s 10.0.0.3 -d 10.0.0.1"},
			"--orig-src 10.0.0.1,10.0.0.3 --orig-dst 10.0.0.1,10.0.0.3"},
		{"ports", []string{"--dport 80", "--dport 81", "--dport 443"}, "--orig-port-dst 80-81,443"},
		{"families", []string{"-f ipv4 --dport 80", "-f ipv6 --dport 80"}, "--family ipv4 --orig-port-dst 80 or --family ipv6 --orig-port-dst 80"},
		{"addresses of two families", []string{"-s 10.0.0.1", "-s 2001:db8::1"}, "--orig-src 10.0.0.1,2001:db8::1"},
		{"targets", []string{"-g 10.0.0.1", "-g 10.0.0.2", "-g 10.0.0.1:80"}, "--dst-nat=10.0.0.1-10.0.0.2,10.0.0.1:80"},
		{"any target and one", []string{"-n", "-n 10.0.0.1"}, "--src-nat or --src-nat=10.0.0.1"},
		{"other lists", []string{"--id 7", "--id 5", "-w 1", "-w 0", "-m 1", "-m 2/2", "-p udp", "-p tcp", "--state CLOSE", "--state ESTABLISHED"},
			"--id 5,7 or --zone 0,1 or --mark 0x1,0x2/0x2 or --proto tcp,udp or --state ESTABLISHED,CLOSE"},
		{"all of these, not any", []string{"-u ASSURED", "-u DST_NAT", "-l 1", "-l 2"}, "--status ASSURED or --status DST_NAT or --label 1 or --label 2"},
		{"no condition", []string{"-s 10.0.0.1", "", "-g"}, ""},
		{"what matches nothing", []string{"-s @/dev/null", "-g", "! --dport 0-65535"}, "--dst-nat"},
		{"nothing but that", []string{"-s @/dev/null", "-d @/dev/null"}, "--orig-src @/dev/null"},
	}
	for _, tt := range tests {
		list := parseAll(t, tt.in...)
		before := fmt.Sprint(list)
		if got := NewSet(list).String(); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
		if after := fmt.Sprint(list); after != before {
			t.Errorf("%s: the list has changed:\n%s\n%s", tt.name, before, after)
		}
	}
	if n := len(NewSet(parseAll(t, "-s 10.0.0.1", "")).Merged()); n != 1 {
		t.Errorf("no condition: %d are left", n)
	}
}

func TestSet(t *testing.T) {
	s := NewSet(parseAll(t, "--host 10.0.0.1", "--host 10.0.0.3", "-g -p tcp"))
	if s.Len() != 3 || s.Empty() || len(s.Families()) != 2 {
		t.Errorf("got %d, empty %v, %v", s.Len(), s.Empty(), s.Families())
	}
	if got, want := s.Mirror().String(), "--host 10.0.0.1,10.0.0.3 or --proto tcp --src-nat"; got != want {
		t.Errorf("mirror: got %s, want %s", got, want)
	}
	s = NewSet(parseAll(t, "-s 10.0.0.1", "-s @/dev/null"))
	if fams := s.Families(); len(fams) != 1 || fams[0] != conntrack.FamilyIPv4 {
		t.Errorf("families %v", fams)
	}
	for _, s := range []*Set{NewSet(nil), NewSet(parseAll(t, "-s @/dev/null"))} {
		if !s.Empty() || s.Match(testFlows(t)["dnat"]) {
			t.Errorf("%q is not empty", s)
		}
	}
	var lines []string
	for i := range 6 {
		lines = append(lines, fmt.Sprintf("-s 10.0.0.%d -d 10.0.0.%d", i, i))
	}
	s = NewSet(parseAll(t, lines...))
	want := "--orig-src 10.0.0.0 --orig-dst 10.0.0.0 or --orig-src 10.0.0.1 --orig-dst 10.0.0.1 or " +
		"--orig-src 10.0.0.2 --orig-dst 10.0.0.2 or --orig-src 10.0.0.3 --orig-dst 10.0.0.3 or ...(6)"
	if got := s.Brief(); got != want {
		t.Errorf("brief: got %s, want %s", got, want)
	}
}

func TestSetNarrow(t *testing.T) {
	type tuple = conntrack.Tuple
	const v4 = conntrack.FamilyIPv4
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.3")
	tests := []struct {
		in   string
		want []conntrack.Filter
	}{
		{"-s 10.0.0.1", []conntrack.Filter{{Family: v4, Orig: tuple{Src: a}, OrigFields: conntrack.FieldSrc}}},
		{"-s 10.0.0.1;-d 10.0.0.3", []conntrack.Filter{
			{Family: v4, Orig: tuple{Src: a}, OrigFields: conntrack.FieldSrc},
			{Family: v4, Orig: tuple{Dst: b}, OrigFields: conntrack.FieldDst}}},
		{"-s 10.0.0.1;-s 10.0.0.1 -d 10.0.0.3", []conntrack.Filter{{Family: v4, Orig: tuple{Src: a}, OrigFields: conntrack.FieldSrc}}},
		{"-s 10.0.0.1 -d 10.0.0.3;-s 10.0.0.1", []conntrack.Filter{{Family: v4, Orig: tuple{Src: a}, OrigFields: conntrack.FieldSrc}}},
		{"-s 10.0.0.1;-s 10.0.0.1,10.0.0.5 -m 1;-f ipv4;-g 10.0.0.1", []conntrack.Filter{{Family: v4}}},
		{"-s 10.0.0.1 -m 1;-s 10.0.0.2 -m 2;-s 10.0.0.3 -m 4;-s 10.0.0.4 -m 8;-s 10.0.0.5 -m 16", []conntrack.Filter{
			{Family: v4, MarkMask: ^conntrack.Mark(31)}}},
		{"-s 10.0.0.1 -g;-s 10.0.0.2 -n;-s 10.0.0.3 -m 4;-s 10.0.0.4 -w 1;-s 2001:db8::1 -l 2", []conntrack.Filter{{}}},
	}
	for _, tt := range tests {
		got := NewSet(parseAll(t, strings.Split(tt.in, ";")...)).Narrow()
		if d := cmp.Diff(tt.want, got, cmpAddr); d != "" {
			t.Errorf("%s:\n%s", tt.in, d)
		}
	}
}

// TestSetRandom holds random sets to what their selectors say one by one.
func TestSetRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	hits, fewer := 0, 0
	for range 3000 {
		list := randomList(r)
		s := NewSet(list)
		if len(s.Merged()) < len(list) {
			fewer++
		}
		m := s.Mirror()
		for range 20 {
			f := randomFlow(r)
			if checkSet(t, s, f) {
				hits++
			}
			checkSet(t, m, reverse(f))
			if s.Match(f) != m.Match(reverse(f)) {
				t.Fatalf("%s and its mirror differ about %+v", s, f)
			}
		}
	}
	if hits < 10000 || fewer < 1000 {
		t.Errorf("only %d matches and %d merged sets: the random flows prove little", hits, fewer)
	}
}

// randomList draws selectors; some lists have many that look alike.
func randomList(r *rand.Rand) []Selector {
	var out []Selector
	for range r.IntN(8) {
		s, err := Parse(randomArgs(r))
		if err != nil {
			continue
		}
		out = append(out, s)
		for r.IntN(2) == 0 {
			like := s
			if other, err := Parse(randomArgs(r)); err == nil {
				like.OrigSrc, like.Host, like.DstNAT, like.OrigDstPort = other.OrigSrc, other.Host, other.DstNAT, other.OrigDstPort
			}
			out = append(out, like)
		}
	}
	return out
}

// checkSet holds what a set says of a flow to what its selectors say, and
// reports whether the flow matches.
func checkSet(t *testing.T, s *Set, f *conntrack.Flow) bool {
	t.Helper()
	var want, got []int
	for i := range s.List() {
		if s.List()[i].Match(f) {
			want = append(want, i)
		}
	}
	s.Each(f, func(i int) { got = append(got, i) })
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("%q: each yields %v of\n%+v\nwant %v", s.List(), got, f, want)
	}
	matches := len(want) > 0
	if s.Match(f) != matches {
		t.Fatalf("%q, merged to %s: match says %v of\n%+v", s.List(), s, s.Match(f), f)
	}
	merged := slices.ContainsFunc(s.Merged(), func(m Selector) bool { return m.Match(f) })
	if merged != matches {
		t.Fatalf("%q, merged to %s: these say %v of\n%+v", s.List(), s, merged, f)
	}
	filters := s.Narrow()
	if len(filters) == 0 || len(filters) > few {
		t.Fatalf("%s: %d filters", s, len(filters))
	}
	if matches && !slices.ContainsFunc(filters, func(x conntrack.Filter) bool { return x.Match(f) }) {
		t.Fatalf("%s matches %+v, but passes no filter of %+v", s, f, filters)
	}
	if matches && !slices.Contains(s.Families(), f.Orig.Family()) {
		t.Fatalf("%s matches %+v, but is of %v", s, f, s.Families())
	}
	return matches
}

// TestKey: keys are equal exactly when selectors are.
func TestKey(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	seen := make(map[string]string)
	for range 20000 {
		s, err := Parse(randomArgs(r))
		if err != nil {
			continue
		}
		if r.IntN(2) == 0 {
			s = s.Mirror()
		}
		key := string(s.appendKey(nil))
		if words, found := seen[key]; found && words != s.String() {
			t.Fatalf("%s and %s have one key", s, words)
		}
		seen[key] = s.String()
	}
	words := make(map[string]bool)
	for _, w := range seen {
		if words[w] {
			t.Fatalf("%s has two keys", w)
		}
		words[w] = true
	}
}

// hosts returns selectors of n single addresses with gaps between them.
func hosts(n int) []Selector {
	out := make([]Selector, n)
	for i := range out {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 14), byte(i >> 6), byte(i << 2)})
		out[i].Host = Addrs{Set: true, Ranges: []AddrRange{{a, a}}}
	}
	return out
}

func TestLargeSet(t *testing.T) {
	const n = 100_000
	pairs := make([]Selector, n)
	for i, h := range hosts(n) {
		port := uint16(i % 50_000)
		pairs[i] = Selector{OrigSrc: h.Host, OrigDstPort: Ports{Set: true, Ranges: []PortRange{{port, port}}}}
	}
	for _, tt := range []struct {
		name   string
		list   []Selector
		merged int
	}{{"hosts", hosts(n), 1}, {"pairs", pairs, n / 2}} {
		start := time.Now()
		s := NewSet(tt.list)
		t.Logf("%s: %v", tt.name, time.Since(start))
		if len(s.Merged()) != tt.merged {
			t.Errorf("%s: %d are left, want %d", tt.name, len(s.Merged()), tt.merged)
		}
		const at = 77_777
		f := testFlows(t)["masq"]
		f.Orig.Src, f.Orig.DstPort = hosts(n)[at].Host.Ranges[0].From, at%50_000
		checkSet(t, s, f)
		got := -1
		if allocs := testing.AllocsPerRun(100, func() { s.Match(f); s.Each(f, func(i int) { got = i }) }); allocs != 0 {
			t.Errorf("%s: %v allocations", tt.name, allocs)
		}
		if got != at {
			t.Errorf("%s: each yields %d, want %d", tt.name, got, at)
		}
	}
}

func BenchmarkSet(b *testing.B) {
	for _, n := range []int{1, 1000, 100_000} {
		list := hosts(n)
		s := NewSet(list)
		hit, miss := testFlows(b)["dnat"], testFlows(b)["masq"]
		hit.Orig.Src = list[n/2].Host.Ranges[0].From
		b.Run(fmt.Sprintf("new/n=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				NewSet(list)
			}
		})
		for name, f := range map[string]*conntrack.Flow{"hit": hit, "miss": miss} {
			b.Run(fmt.Sprintf("match/%s/n=%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					s.Match(f)
				}
			})
			b.Run(fmt.Sprintf("each/%s/n=%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					s.Each(f, func(int) {})
				}
			})
		}
	}
}
