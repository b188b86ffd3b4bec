package cli

import (
	"time"

	"flowcut/internal/health"
	"flowcut/internal/tally"
)

// statsReport is what "flowcut stats" prints, as JSON has it.
type statsReport struct {
	Type     string           `json:"type"`    // "report"
	Version  int              `json:"version"` // 1: names and meanings stay while it does
	Time     time.Time        `json:"time"`    // of the last sample
	ForMS    int64            `json:"for_ms"`
	Warning  bool             `json:"warning"` // the exit code is 1
	Table    tableReport      `json:"table"`
	Outlook  outlookReport    `json:"outlook"`
	Findings []health.Finding `json:"findings"`
	Counters []counterReport  `json:"counters"`
	Flows    *flowsReport     `json:"flows"` // null where they were not counted
	Fills    *fillReport      `json:"fills"` // null where the table did not grow

	Series     []seriesPoint `json:"series,omitempty"`       // with --for
	NewUnknown bool          `json:"new_unknown,omitempty"`  // nf_conntrack_events is 0: nothing is announced
	NewAtLeast bool          `json:"new_at_least,omitempty"` // announcements were lost
	points     []health.Point
}

// tableReport is how full the table is.
type tableReport struct {
	Count         uint32  `json:"count"`
	Max           uint32  `json:"max"`
	MaxSetHere    bool    `json:"max_set_here"` // nf_conntrack_max can be set in this namespace
	Buckets       uint32  `json:"buckets"`
	ComparedFound float64 `json:"compared_found"` // tuples, until a packet's entry is found
	ComparedNew   float64 `json:"compared_new"`   // tuples, until it is clear that there is none
}

// outlookReport is where the number of entries goes.
type outlookReport struct {
	Trend    health.Trend `json:"trend"`
	Rate     float64      `json:"rate"` // entries a second
	RateLow  float64      `json:"rate_low"`
	RateHigh float64      `json:"rate_high"`
	WindowMS int64        `json:"window_ms"`

	// Left out unless the table is filling towards a limit.
	FullInMS   int64 `json:"full_in_ms,omitempty"`
	EarliestMS int64 `json:"earliest_ms,omitempty"`
	LatestMS   int64 `json:"latest_ms,omitempty"`

	// Left out unless what fills the table ends by itself.
	LevelsOffAbout  float64 `json:"levels_off_about,omitempty"`
	LevelsOffAtMost float64 `json:"levels_off_at_most,omitempty"`
}

func outlookOf(o health.Outlook, p health.Plateau) outlookReport {
	return outlookReport{
		o.Trend, o.Rate, o.Low, o.High, o.Window.Milliseconds(),
		o.FullIn.Milliseconds(), o.Earliest.Milliseconds(), o.Latest.Milliseconds(), p.About, p.AtMost,
	}
}

// sampleReport is a line of JSON while a look goes on.
type sampleReport struct {
	Type    string        `json:"type"` // "sample"
	Time    time.Time     `json:"time"`
	Count   uint32        `json:"count"`
	Max     uint32        `json:"max"`
	Warning bool          `json:"warning"`
	Outlook outlookReport `json:"outlook"`
}

// counterReport is one counter of the processors.
type counterReport struct {
	Name      string       `json:"name"`
	Level     health.Level `json:"level"`
	Total     uint32       `json:"total"`      // since the namespace began; wraps around
	During    uint32       `json:"during"`     // in the time of the look
	PerSecond float64      `json:"per_second"` // of During
	CPUs      []uint32     `json:"cpus"`       // the total of each
	Means     string       `json:"means"`
	Do        string       `json:"do"`
}

// countersOf returns the counters that are not zero, and what was lost.
func countersOf(first, last *health.Sample) []counterReport {
	total, during := last.Total(), last.Since(first)
	seconds := max(last.At.Sub(first.At).Seconds(), 1e-3)
	var all []counterReport
	for _, c := range health.Counters {
		r := counterReport{Name: c.Name, Level: health.OK, Total: c.Of(&total), During: c.Of(&during), Means: c.Means, Do: c.Do}
		if !c.Bad && r.Total == 0 {
			continue
		}
		r.PerSecond = float64(r.During) / seconds
		switch {
		case c.Bad && r.During > 0:
			r.Level = health.Warning
		case c.Bad && r.Total > 0:
			r.Level = health.Note
		}
		for i := range last.CPUs {
			r.CPUs = append(r.CPUs, c.Of(&last.CPUs[i]))
		}
		all = append(all, r)
	}
	return all
}

// flowsReport is what the flows of the table are.
type flowsReport struct {
	Flows     int          `json:"flows"` // listed; a table that changes is not listed exactly
	Unreplied int          `json:"unreplied"`
	Unassured int          `json:"unassured"` // what may be dropped early
	Kinds     []kindReport `json:"kinds"`
	Servers   groupsReport `json:"servers"`
	Clients   groupsReport `json:"clients"`
	Ports     groupsReport `json:"ports"`
}

type kindReport struct {
	Protocol string `json:"protocol"`
	State    string `json:"state"`
	Flows    int    `json:"flows"`
}

// groupsReport are the groups with the most flows.
type groupsReport struct {
	Groups  []groupReport `json:"groups"`
	AtLeast bool          `json:"at_least,omitempty"` // there were too many groups to count each
}

type groupReport struct {
	Name      string  `json:"name"`
	Flows     int     `json:"flows"`
	Unreplied int     `json:"unreplied"`
	Bytes     *uint64 `json:"bytes,omitempty"` // left out without accounting
}

func flowsOf(p *health.Profile, top int) *flowsReport {
	r := &flowsReport{Flows: p.Flows, Unreplied: p.Unreplied, Unassured: p.Unassured, Kinds: []kindReport{}}
	for _, k := range health.Compare(health.NewProfile(), p).Kinds {
		r.Kinds = append(r.Kinds, kindReport{k.Kind.Proto.String(), k.Kind.State, k.Flows})
	}
	groups := func(t *tally.Tally) groupsReport {
		g := groupsReport{Groups: []groupReport{}, AtLeast: t.Dropped() > 0}
		for _, row := range t.Top(top, nil) {
			one := groupReport{Name: row.String(), Flows: row.Flows, Unreplied: row.Unreplied}
			if p.Accounting {
				one.Bytes = &row.Bytes
			}
			g.Groups = append(g.Groups, one)
		}
		return g
	}
	r.Servers, r.Clients, r.Ports = groups(p.Servers), groups(p.Clients), groups(p.Ports)
	return r
}

// fillReport is what was added to a table that grew.
type fillReport struct {
	Flows int      `json:"flows"`
	Found []string `json:"found"`
	Means string   `json:"means,omitempty"`
	Do    []string `json:"do"`
}

// seriesPoint is a sample of the series. Lost and New count from the first sample on.
type seriesPoint struct {
	Time  time.Time `json:"time"`
	Count uint32    `json:"count"`
	Lost  uint64    `json:"lost"`
	New   uint64    `json:"new"`
}

// percent returns the share of n in all.
func percent[T int | uint32](n, all T) uint64 {
	if all == 0 {
		return 0
	}
	return uint64(n) * 100 / uint64(all)
}
