package health

import (
	"fmt"

	"flowcut/conntrack"
	"flowcut/internal/sysctl"
)

// Level is how bad a finding is.
type Level string

// Levels, from good to bad.
const (
	OK      Level = "ok"
	Note    Level = "note"    // worth to know
	Warning Level = "warning" // something is about to go wrong, or does for some
	Fail    Level = "fail"    // new flows are dropped
)

// Finding is what one number says about the table.
type Finding struct {
	Name  string `json:"name"`
	Level Level  `json:"level"`
	Found string `json:"found"`
	Means string `json:"means,omitempty"` // "" where Found says it all
	Do    string `json:"do,omitempty"`    // a command where there is one; "" where nothing is to be done
}

const (
	// nearlyFull is the share of entries, in percent, from which on a table is
	// nearly full.
	nearlyFull = 80

	// longChain is the number of entries to a bucket from which on look-ups of all
	// packets become slower.
	longChain = 4
)

// MaxKey is the setting that limits the number of entries. There is one for all
// namespaces, while each has entries of its own; kernels that let a namespace have a
// lower one let it be set there, too.
const MaxKey = "net.netfilter.nf_conntrack_max"

// set is the command that sets a setting of the whole host, or of this namespace if
// that has its own.
func set(key string, value uint64, here bool) string {
	command := fmt.Sprintf("sysctl -w %s=%d", key, value)
	if here {
		return command
	}
	return "in the host's namespace: " + command
}

// Entries judges how full the table is. here tells whether [MaxKey] can be set in
// the namespace.
func Entries(l conntrack.Limits, here bool) Finding {
	if l.Max == 0 {
		return Finding{Name: "entries", Level: OK, Found: fmt.Sprintf("%d, without a limit", l.Count)}
	}
	percent := uint64(l.Count) * 100 / uint64(l.Max)
	f := Finding{Name: "entries", Level: OK, Found: fmt.Sprintf("%d of at most %d, %d %%", l.Count, l.Max, percent)}
	switch {
	case l.Count >= l.Max:
		f.Level = Fail
		f.Means = "the table is full: new connections are dropped, those that the ruleset admits during a cut, too"
	case percent >= nearlyFull:
		f.Level = Warning
		f.Means = "when the table is full new connections are dropped"
	default:
		return f
	}
	f.Do = set(MaxKey, 2*uint64(l.Max), here)
	return f
}

// Buckets judges the load of the hash table. Each entry is in it twice, by its two
// tuples, and entries of other namespaces are in it, too.
func Buckets(l conntrack.Limits) Finding {
	if l.Buckets == 0 {
		return Finding{Name: "buckets", Level: Note, Found: "not told", Means: "/proc/sys/net/netfilter is not to be seen here"}
	}
	load := float64(l.Count) / float64(l.Buckets)
	f := Finding{Name: "buckets", Level: OK, Found: fmt.Sprintf("%d, %.2f entries to each", l.Buckets, load)}
	if load > longChain {
		f.Level = Note
		f.Means = "every packet's look-up takes longer, and so do lists"
		f.Do = set("net.netfilter.nf_conntrack_buckets", uint64(l.Count), false)
	}
	return f
}

// Steps returns how many tuples a packet is compared with, on average, before its
// entry is found, and before it is clear that there is none.
func Steps(l conntrack.Limits) (found, none float64) {
	if l.Buckets == 0 {
		return 0, 0
	}
	none = 2 * float64(l.Count) / float64(l.Buckets)
	return 1 + none/2, none
}

// Expectations judges the number of expected flows; most is
// net.netfilter.nf_conntrack_expect_max.
func Expectations(n, most int) Finding {
	f := Finding{Name: "expectations", Level: OK, Found: fmt.Sprintf("%d of at most %d", n, most)}
	if most == sysctl.Absent {
		f.Found = fmt.Sprint(n)
	}
	if most > 0 && n >= most {
		f.Level = Warning
		f.Means = "connections that helpers announce, as of FTP, are not let through any more"
		f.Do = set("net.netfilter.nf_conntrack_expect_max", 2*uint64(most), false)
	}
	return f
}
