package health

import (
	"strings"
	"testing"

	"flowcut/conntrack"
	"flowcut/internal/sysctl"
)

func TestJudge(t *testing.T) {
	entries := func(n, most uint32) Finding { return Entries(conntrack.Limits{Count: n, Max: most}, true) }
	buckets := func(n, buckets uint32) Finding { return Buckets(conntrack.Limits{Count: n, Buckets: buckets}) }
	for name, c := range map[string]struct {
		got  Finding
		want string // level, found, command
	}{
		"half full":                {entries(79, 100), "ok 79 of at most 100, 79 %"},
		"nearly full":              {entries(80, 100), "warning 80 of at most 100, 80 % sysctl -w net.netfilter.nf_conntrack_max=200"},
		"full":                     {entries(100, 100), "fail 100 of at most 100, 100 % sysctl -w net.netfilter.nf_conntrack_max=200"},
		"no limit":                 {entries(7, 0), "ok 7, without a limit"},
		"large numbers":            {entries(1<<31, 1<<32-1), "ok 2147483648 of at most 4294967295, 50 %"},
		"the host's limit":         {Entries(conntrack.Limits{Count: 1, Max: 1}, false), "fail 1 of at most 1, 100 % in the host's namespace: sysctl -w net.netfilter.nf_conntrack_max=2"},
		"short chains":             {buckets(400, 100), "ok 100, 4.00 entries to each"},
		"long chains":              {buckets(500, 100), "note 100, 5.00 entries to each in the host's namespace: sysctl -w net.netfilter.nf_conntrack_buckets=500"},
		"no buckets":               {buckets(500, 0), "note not told"},
		"some expectations":        {Expectations(3, 4), "ok 3 of at most 4"},
		"full of expectations":     {Expectations(4, 4), "warning 4 of at most 4 in the host's namespace: sysctl -w net.netfilter.nf_conntrack_expect_max=8"},
		"no limit of expectations": {Expectations(4, sysctl.Absent), "ok 4"},
	} {
		if got := strings.TrimSpace(string(c.got.Level) + " " + c.got.Found + " " + c.got.Do); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if c.got.Level != OK && c.got.Means == "" {
			t.Errorf("%s: nothing is said of what it means", name)
		}
	}
}

// Each counter is its own field, with words of its own.
func TestCounters(t *testing.T) {
	seen := map[string]bool{}
	all := conntrack.CPUStats{Found: 1, Invalid: 2, InsertFailed: 3, Drop: 4, EarlyDrop: 5, Error: 6, SearchRestart: 7, ClashResolve: 8, ChainTooLong: 9}
	sum := uint32(0)
	for _, c := range Counters {
		sum += c.Of(&all)
		if seen[c.Name] || c.Means == "" || c.Do == "" {
			t.Errorf("%+v", c)
		}
		seen[c.Name] = true
	}
	if sum != 45 {
		t.Errorf("the counters come to %d, want each of nine once", sum)
	}
	if n := Lost(&all); n != 4+5+9 {
		t.Errorf("%d are lost", n)
	}
}
