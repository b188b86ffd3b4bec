package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"flowcut/internal/health"
	"flowcut/internal/show"
)

// statsPrinter prints what "flowcut stats" sees, as text or JSON.
type statsPrinter struct {
	w      io.Writer
	json   bool
	colour bool

	said    time.Time // when the last line of a sample was printed
	trend   health.Trend
	warning bool
}

func newStatsPrinter(w io.Writer, o statsOptions) *statsPrinter {
	return &statsPrinter{w: w, json: o.format == "json", colour: terminal(w)}
}

// sayEvery is how often a warning is repeated.
const sayEvery = time.Second

// sample prints a line about a sample where there is news, each sample in JSON.
func (p *statsPrinter) sample(s *health.Sample, o health.Outlook, level health.Plateau, warning bool) error {
	if p.json {
		return json.NewEncoder(p.w).Encode(sampleReport{"sample", s.At, s.Count, s.Max, warning, outlookOf(o, level)})
	}
	news := o.Trend != p.trend || warning != p.warning || warning && s.At.Sub(p.said) >= sayEvery
	if !news || o.Trend == health.Unknown {
		return nil
	}
	p.said, p.trend, p.warning = s.At, o.Trend, warning
	line := s.At.Format(time.TimeOnly) + "  " + outlookLine(s.Count, s.Max, outlookOf(o, level))
	if warning {
		line = painted(line, show.Red, p.colour)
	}
	_, err := fmt.Fprintln(p.w, line)
	return err
}

// report prints what was seen.
func (p *statsPrinter) report(r *statsReport) error {
	if p.json {
		return json.NewEncoder(p.w).Encode(r)
	}
	_, err := p.w.Write(r.append(nil, p.colour))
	return err
}

// outlookLine says how full a table is and where it goes.
func outlookLine(count, most uint32, o outlookReport) string {
	s := entries(int(count))
	if most > 0 {
		s = fmt.Sprintf("%d of %d entries, %d %%", count, most, percent(count, most))
	}
	switch o.Trend {
	case health.Unknown:
		return s
	case health.Full:
		return s + ": full"
	case health.Steady:
		return s + ": steady"
	}
	s = fmt.Sprintf("%s: %s by %.0f a second", s, o.Trend, max(o.Rate, -o.Rate))
	switch {
	case o.LevelsOffAtMost > 0 && o.LevelsOffAtMost < float64(most):
		return s + fmt.Sprintf(", levels off at %.0f to %.0f", o.LevelsOffAbout, o.LevelsOffAtMost)
	case o.FullInMS > 0:
		return s + fmt.Sprintf(", full in %s (%s to %s)", inTime(o.FullInMS), inTime(o.EarliestMS), inTime(o.LatestMS))
	}
	return s
}

// inTime writes a time ahead; what is far off is not worth a number.
func inTime(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	if d > 100*24*time.Hour || d < 0 {
		return "months"
	}
	return string(show.AppendDuration(nil, d))
}

// Columns of a report for a person.
const (
	statsName  = 2
	statsFound = statsName + len("search_restart") + 2
)

// append appends the report for a person.
func (r *statsReport) append(b []byte, colour bool) []byte {
	verdict, paint := "the table has room", show.Green
	switch {
	case r.Outlook.Trend == health.Full:
		verdict, paint = "the table is full", show.Red
	case r.Warning:
		verdict, paint = "the table is about to be full, or was", show.Red
	}
	b = fmt.Appendf(b, "%s\n\ntable\n", painted(verdict, paint, colour))
	b = appendFact(b, "entries", outlookLine(r.Table.Count, r.Table.Max, r.Outlook))
	for _, f := range r.Findings {
		if f.Name == "buckets" && r.Table.Buckets > 0 {
			f.Found += fmt.Sprintf("; a packet is compared with %.1f tuples until its entry is found, with %.1f if it is new",
				r.Table.ComparedFound, r.Table.ComparedNew)
		}
		if f.Name != "entries" {
			b = appendFact(b, f.Name, f.Found)
		} else if r.Fills != nil {
			f.Do = "" // said below, with what helps more
		}
		if f.Level != health.OK {
			b = appendMeans(b, f.Means, f.Do)
		}
	}
	b = r.appendCounters(append(b, "\ncounters, since the namespace began\n"...))
	if r.Fills != nil {
		b = r.appendFills(b)
	}
	if r.Flows != nil {
		b = r.Flows.append(b)
	} else {
		b = append(b, "\nflows\n"...)
		b = appendFact(b, "not counted", "a listing of so many flows takes its time: --talkers yes")
	}
	if len(r.Series) > 1 {
		b = r.appendSeries(b)
	}
	return b
}

// appendFact appends a name and what was found.
func appendFact(b []byte, name, found string) []byte {
	b = fmt.Appendf(b, "%*s%-*s", statsName, "", statsFound-statsName, name)
	return appendWrapped(b, found, max(statsFound, statsName+len(name)), statsFound)
}

// appendMeans appends what that means and what to do, where there is something to say.
func appendMeans(b []byte, means string, do ...string) []byte {
	const label = len("means  ")
	if means != "" {
		b = fmt.Appendf(b, "%*smeans  ", statsFound, "")
		b = appendWrapped(b, means, statsFound+label, statsFound+label)
	}
	for i, d := range do {
		name := "do     "
		if i > 0 {
			name = "or     "
		}
		if d != "" {
			b = fmt.Appendf(b, "%*s%s", statsFound, "", name)
			b = appendWrapped(b, d, statsFound+label, statsFound+label)
		}
	}
	return b
}

func (r *statsReport) appendCounters(b []byte) []byte {
	clean := true
	for _, c := range r.Counters {
		if c.Total == 0 {
			continue
		}
		found := fmt.Sprintf("%d, %d of them in this look (%.1f a second)", c.Total, c.During, c.PerSecond)
		if len(c.CPUs) > 1 {
			found += ": " + byCPU(c.CPUs)
		}
		b = appendFact(b, c.Name, found)
		clean = clean && c.Level == health.OK
		if c.Level != health.OK || c.During > 0 {
			b = appendMeans(b, c.Means, c.Do)
		}
	}
	if clean {
		b = appendFact(b, "lost", "nothing")
	}
	return b
}

// mostCPUs is how many processors are named.
const mostCPUs = 4

// byCPU names the processors that counted the most.
func byCPU(counts []uint32) string {
	type cpu struct {
		number int
		n      uint32
	}
	var all []cpu
	for i, n := range counts {
		if n > 0 {
			all = append(all, cpu{i, n})
		}
	}
	slices.SortStableFunc(all, func(a, b cpu) int { return cmp.Compare(b.n, a.n) })
	var words []string
	for _, c := range all[:min(mostCPUs, len(all))] {
		words = append(words, fmt.Sprintf("%d by CPU %d", c.n, c.number))
	}
	if more := len(all) - len(words); more > 0 {
		words = append(words, fmt.Sprintf("the rest by %d more", more))
	}
	return strings.Join(words, ", ")
}

// appendFills appends what fills the table.
func (r *statsReport) appendFills(b []byte) []byte {
	b = append(b, "\nwhat fills it\n"...)
	b = appendFact(b, "added", fmt.Sprintf("%d flows: %s", r.Fills.Flows, strings.Join(r.Fills.Found, "; ")))
	return appendMeans(b, r.Fills.Means, r.Fills.Do...)
}

// mostKinds is how many kinds are shown.
const mostKinds = 8

func (f *flowsReport) append(b []byte) []byte {
	b = append(b, "\nflows\n"...)
	b = appendFact(b, "listed", fmt.Sprintf("%d: %d %% unreplied, %d %% not ASSURED, which a full table may drop early",
		f.Flows, percent(f.Unreplied, f.Flows), percent(f.Unassured, f.Flows)))
	for _, k := range f.Kinds[:min(mostKinds, len(f.Kinds))] {
		b = fmt.Appendf(b, "%*s%-40s %9d  %3d %%\n", statsName, "", k.Protocol+" "+k.State, k.Flows, percent(k.Flows, f.Flows))
	}
	for _, g := range []struct {
		name string
		groupsReport
	}{{"ports", f.Ports}, {"servers", f.Servers}, {"clients", f.Clients}} {
		if len(g.Groups) == 0 {
			continue
		}
		least := ""
		if g.AtLeast {
			least = ", at least"
		}
		b = fmt.Appendf(b, "\n%s with the most flows%s\n", g.name, least)
		for _, one := range g.Groups {
			line := fmt.Sprintf("%*s%-40s %9d  %3d %%  %3d %% unreplied", statsName, "", one.Name, one.Flows,
				percent(one.Flows, f.Flows), percent(one.Unreplied, one.Flows))
			if one.Bytes != nil {
				line += fmt.Sprintf("  %10s", show.AppendBytes(nil, *one.Bytes))
			}
			b = append(append(b, line...), '\n')
		}
	}
	return b
}

// sparkWidth is how wide a line of bars is.
const sparkWidth = 48

// appendSeries appends what changed over the time of the look.
func (r *statsReport) appendSeries(b []byte) []byte {
	b = fmt.Appendf(b, "\nover %s\n", time.Duration(r.ForMS)*time.Millisecond)
	for i, row := range health.Sparks(r.points, sparkWidth) {
		const born = 1
		if i == born && r.NewUnknown {
			continue
		}
		note := ""
		if i == born && r.NewAtLeast {
			note = ", and more that were not heard of"
		}
		b = fmt.Appendf(b, "  %-*s  %s, at most %s%s\n", sparkWidth, row[1], row[0], row[2], note)
	}
	return b
}
