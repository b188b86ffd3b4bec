package doctor

import (
	"fmt"
	"strings"

	"flowcut/conntrack"
	"flowcut/internal/health"
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
	return asFinding(health.Entries(l, sysctl.Settable(health.MaxKey))), nil
}

// asFinding returns a finding of package health as one of ours.
func asFinding(f health.Finding) finding {
	out := finding{state: State(f.Level), found: f.Found, means: f.Means, do: f.Do}
	if f.Level == health.OK {
		out.state = ""
	}
	return out
}

func lookAtBuckets(v *visit) (finding, error) {
	l, err := v.limits()
	if err != nil {
		return finding{}, err
	}
	return asFinding(health.Buckets(l)), nil
}

func lookAtCPUStats(v *visit) (finding, error) {
	var sample health.Sample
	err := v.withConntrack(0, func(c *conntrack.Client) (err error) {
		sample.CPUs, err = c.CPUStats(v.ctx)
		return err
	})
	if err != nil {
		return finding{}, err
	}
	return judgeCPUStats(sample.Total()), nil
}

func judgeCPUStats(s conntrack.CPUStats) finding {
	var words, means []string
	for _, c := range health.Counters {
		if n := c.Of(&s); c.Bad && n > 0 {
			words = append(words, fmt.Sprintf("%s %d", c.Name, n))
			means = append(means, c.Means)
		}
	}
	if words == nil {
		return finding{found: "nothing dropped since the namespace began"}
	}
	return finding{
		state: Note, found: strings.Join(words, ", "),
		means: "since the namespace began " + strings.Join(means, "; ") + ". A few are usual, many in an hour are not",
		do:    "watch whether they grow: flowcut stats",
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
	return asFinding(health.Expectations(n, most)), nil
}
