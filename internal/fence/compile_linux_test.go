package fence

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"flowcut/conntrack"
	"flowcut/internal/nft"
)

// Equal lists share their sets, whichever selector or condition they are in.
func TestSharedSets(t *testing.T) {
	const hosts = "10.0.0.1,10.0.0.3,2001:db8::1,2001:db8::3"
	tests := []struct {
		lines []string
		sets  int
	}{
		{[]string{"--host " + hosts}, 1},
		{[]string{"--host " + hosts, "-s " + hosts + ""}, 1},
		{[]string{"-s " + hosts + " ! -d " + hosts}, 1},
		{[]string{"-s " + hosts, "-d 10.0.0.1,10.0.0.4,2001:db8::1,2001:db8::4"}, 2},
		{[]string{"--sport 1 --dport 2", "--reply-port-src 3"}, 1},                         // protocols with ports
		{[]string{"--dport 1,3", "--reply-port-src 1,3", "-p tcp,udp", "! -p tcp,udp"}, 3}, // and these, and the ports
		{[]string{"--host " + long(hosts), "! -s " + long(hosts)}, 2},
		{[]string{"-s " + long(hosts), "-d " + long("10.99.0.0/24,2001:db8:99::/64,"+hosts)}, 3}, // the single ones are the same
	}
	for _, tt := range tests {
		for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
			c := compiler{family: family}
			list := parse(t, tt.lines...)
			if out := c.any(list); len(out) == 0 || c.tooMany {
				t.Errorf("%s: %d terms, too many %v", brief(tt.lines), len(out), c.tooMany)
			}
			names := make(map[string]bool)
			for _, s := range c.sets {
				names[s.Name] = true
				if s.Size != 0 && int(s.Size) != len(s.Elements) {
					t.Errorf("%s: room for %d of %d", brief(tt.lines), s.Size, len(s.Elements))
				}
			}
			if len(c.sets) != tt.sets || len(names) != tt.sets {
				t.Errorf("%s: %d sets with %d names, want %d", brief(tt.lines), len(c.sets), len(names), tt.sets)
			}
		}
	}
}

// Selectors together must not make more rules than one may.
func TestExact(t *testing.T) {
	hosts := func(n int) []string { // four terms each
		var out []string
		for i := range n {
			out = append(out, fmt.Sprintf("--host 10.0.0.%d --sport %d", i, i))
		}
		return out
	}
	for _, tt := range []struct {
		name   string
		lines  []string
		except []string
		exact  bool
	}{
		{"none", nil, nil, false},
		{"one", hosts(1), nil, true},
		{"as many as may be", hosts(maxTerms / 4), nil, true},
		{"one more", hosts(maxTerms/4 + 1), nil, false},
		{"and one with a state", append(hosts(2), "--state CLOSE"), nil, false},
		{"many of another family each", append(hosts(maxTerms/4), "-s 2001:db8::1"), nil, true},
		{"exceptions have room of their own", hosts(maxTerms / 4), hosts(2), true},
		{"an exception with a mark", hosts(1), []string{"-m 1"}, false},
	} {
		cfg := Config{Selectors: parse(t, tt.lines...), Except: parse(t, tt.except...)}
		if got := cfg.exact(); got != tt.exact {
			t.Errorf("%s: exact %v", tt.name, got)
		}
		tables, exact := Plan(cfg, conntrack.FamilyIPv4)
		if exact != tt.exact || exact == !strings.Contains(tables, "10.0.0.0") {
			t.Errorf("%s: the plan is exact %v:\n%s", tt.name, exact, tables)
		}
	}
}

// A selector of one family says nothing in the other one's table, nor does an exception.
func TestOtherFamily(t *testing.T) {
	cfg := Config{Selectors: parse(t, "-f ipv4 -p udp", "-f ipv6 -p tcp"), Except: parse(t, "-f ipv4 --dport 53", "-s 2001:db8::1")}
	for _, tt := range []struct {
		family         conntrack.Family
		meant, excepts string
	}{
		{conntrack.FamilyIPv4, "ct protocol 17 goto stop", "ct original proto-dst 53 accept"},
		{conntrack.FamilyIPv6, "ct protocol 6 goto stop", "ct original ip6 saddr 2001:db8::1 accept"},
	} {
		tables, _ := Plan(cfg, tt.family)
		var meant, excepts []string
		for line := range strings.Lines(tables) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "ct protocol ") && strings.HasSuffix(line, " goto stop") && !strings.Contains(line, "@cut") {
				meant = append(meant, line)
			}
			if strings.HasSuffix(line, "accept") && strings.Contains(line, "ct original") && !strings.Contains(line, "@born") {
				excepts = append(excepts, line)
			}
		}
		for _, line := range excepts {
			if !strings.Contains(line, tt.excepts) {
				t.Errorf("family %d excepts %s", tt.family, line)
			}
		}
		if !slices.Equal(meant, []string{tt.meant}) || len(excepts) == 0 {
			t.Errorf("family %d: means %q, excepts %q", tt.family, meant, excepts)
		}
	}
}

// The alternatives of several selectors are those of each.
func TestOneOfSeveral(t *testing.T) {
	lines := []string{"-s 10.0.0.1 -p tcp", "--host 10.0.0.2", "-g 10.0.0.3:80"}
	var all terms
	for _, s := range parse(t, lines...) {
		c := compiler{family: nft.IPv4}
		all = append(all, c.compile(&s)...)
	}
	c := compiler{family: nft.IPv4}
	got := c.any(parse(t, lines...))
	if !slices.EqualFunc(got, all, func(a, b term) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) {
		t.Errorf("got  %v\nwant %v", got, all)
	}
}
