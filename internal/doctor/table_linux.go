package doctor

import (
	"fmt"
	"strings"

	"flowcut/conntrack"
	"flowcut/internal/sysctl"
)

// limits asks how full the table is.
func (v *visit) limits() (l conntrack.Limits, err error) {
	err = v.withConntrack(0, func(c *conntrack.Client) error {
		l, err = c.Limits(v.ctx)
		return err
	})
	return l, err
}

func lookAtEntries(v *visit) (finding, error) {
	l, err := v.limits()
	if err != nil {
		return finding{}, err
	}
	return judgeEntries(l), nil
}

// nearlyFull is the share of entries from which on a table is nearly full.
const nearlyFull = 80 // %

func judgeEntries(l conntrack.Limits) finding {
	if l.Max == 0 {
		return finding{found: fmt.Sprintf("%d, without a limit", l.Count)}
	}
	percent := uint64(l.Count) * 100 / uint64(l.Max)
	f := finding{found: fmt.Sprintf("%d of at most %d, %d %%", l.Count, l.Max, percent)}
	f.do = fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", 2*uint64(l.Max))
	switch {
	case l.Count >= l.Max:
		f.state = Fail
		f.means = "the table is full: new connections are dropped, those that the ruleset admits during a cut, too"
	case percent >= nearlyFull:
		f.state = Warning
		f.means = "when the table is full new connections are dropped"
	default:
		f.do = ""
	}
	return f
}

func lookAtBuckets(v *visit) (finding, error) {
	l, err := v.limits()
	if err != nil {
		return finding{}, err
	}
	return judgeBuckets(l), nil
}

// longChain is the number of entries to a bucket from which on look-ups of all
// packets become slower.
const longChain = 4

func judgeBuckets(l conntrack.Limits) finding {
	if l.Buckets == 0 {
		return finding{state: Note, found: "not told", means: "/proc/sys/net/netfilter is not to be seen here"}
	}
	load := float64(l.Count) / float64(l.Buckets)
	f := finding{found: fmt.Sprintf("%d, %.2f entries to each", l.Buckets, load)}
	if load > longChain {
		f.state = Note
		f.means = "every packet's look-up takes longer, and so do lists"
		f.do = fmt.Sprintf("in the host's namespace: sysctl -w net.netfilter.nf_conntrack_buckets=%d", l.Count)
	}
	return f
}

func lookAtCPUStats(v *visit) (finding, error) {
	var sum conntrack.CPUStats
	err := v.withConntrack(0, func(c *conntrack.Client) error {
		all, err := c.CPUStats(v.ctx)
		for _, s := range all {
			sum.Drop += s.Drop
			sum.EarlyDrop += s.EarlyDrop
			sum.InsertFailed += s.InsertFailed
			sum.ChainTooLong += s.ChainTooLong
		}
		return err
	})
	if err != nil {
		return finding{}, err
	}
	return judgeCPUStats(sum), nil
}

func judgeCPUStats(s conntrack.CPUStats) finding {
	var words, means []string
	for _, n := range []struct {
		name, means string
		count       uint32
	}{
		{"drop", "packets were dropped as no entry could be made", s.Drop},
		{"early_drop", "entries were dropped to make room in a full table", s.EarlyDrop},
		{"insert_failed", "entries were not made, as another with the tuple was there first", s.InsertFailed},
		{"chain_toolong", "entries were not made, as their bucket was full", s.ChainTooLong},
	} {
		if n.count > 0 {
			words = append(words, fmt.Sprintf("%s %d", n.name, n.count))
			means = append(means, n.means)
		}
	}
	if words == nil {
		return finding{found: "nothing dropped since the namespace began"}
	}
	return finding{
		state: Note, found: strings.Join(words, ", "),
		means: "since the namespace began " + strings.Join(means, "; ") + ". A few are usual, many in an hour are not",
		do:    "watch whether they grow: flowcut conntrack -S",
	}
}

func lookAtExpectations(v *visit) (finding, error) {
	n := 0
	err := v.withConntrack(0, func(c *conntrack.Client) error {
		for _, err := range c.DumpExpectations(v.ctx, conntrack.FamilyBoth) {
			if err != nil {
				return err
			}
			n++
		}
		return nil
	})
	if err != nil {
		return finding{}, err
	}
	most, err := sysctl.Get("net.netfilter.nf_conntrack_expect_max")
	if err != nil {
		return finding{}, err
	}
	return judgeExpectations(n, most), nil
}

func judgeExpectations(n, most int) finding {
	f := finding{found: fmt.Sprintf("%d of at most %d", n, most)}
	if most == sysctl.Absent {
		f.found = fmt.Sprint(n)
	}
	if most > 0 && n >= most {
		f.state = Warning
		f.means = "connections that helpers announce, as of FTP, are not let through any more"
		f.do = fmt.Sprintf("in the host's namespace: sysctl -w net.netfilter.nf_conntrack_expect_max=%d", 2*most)
	}
	return f
}
