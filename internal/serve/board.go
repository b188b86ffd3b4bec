//go:build linux

package serve

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/internal/health"
	"flowcut/internal/oneline"
	"flowcut/internal/receipts"
	"flowcut/internal/show"
	"flowcut/internal/tally"
)

// board is what the page shows. Views are texts and numbers, ready to be shown: the
// template of the page and its script put them into the same places.
type board struct {
	ct  *conntrack.Client
	hub *hub

	mu       sync.Mutex
	samples  []health.Sample // the last, one a second
	receipts []receiptView   // the last, newest first
	top      topView
	walked   chan struct{} // closed by the next walk
}

func newBoard(ct *conntrack.Client, h *hub) *board {
	h.tell("receipts", []receiptView{}) // a page that was open before has those of another process
	return &board{ct: ct, hub: h, walked: make(chan struct{})}
}

const (
	mostSamples  = 120
	mostReceipts = 20
	mostRows     = 10 // of each group
)

// tableView is how full the table is.
type tableView struct {
	Count    uint32  `json:"count"`
	Max      uint32  `json:"max"`
	Words    string  `json:"words"`
	Forecast string  `json:"forecast"`
	Alarm    bool    `json:"alarm"`   // full, or will be within minutes
	Points   string  `json:"points"`  // of a line in a box of 120 by 40
	Range    string  `json:"range"`   // what the line shows, in words
	FullIn   float64 `json:"full_in"` // seconds, 0: not to be said
	Rate     float64 `json:"rate"`    // entries a second
	Buckets  uint32  `json:"buckets"`
}

// sample counts the table each second, which costs one short request, until ctx ends.
func (b *board) sample(ctx context.Context) error {
	const period = time.Second
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		l, err := b.ct.Limits(ctx)
		if err != nil {
			return err
		}
		b.mu.Lock()
		if len(b.samples) == mostSamples {
			b.samples = append(b.samples[:0], b.samples[1:]...)
		}
		b.samples = append(b.samples, health.Sample{At: time.Now(), Limits: l})
		b.mu.Unlock()
		b.hub.tell("table", b.table())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// table returns the view of the samples.
func (b *board) table() tableView {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.samples) == 0 {
		return tableView{Words: "not counted yet"}
	}
	l := b.samples[len(b.samples)-1].Limits
	o := health.Forecast(b.samples)
	v := tableView{Count: l.Count, Max: l.Max, Buckets: l.Buckets, Rate: o.Rate, FullIn: o.FullIn.Seconds()}
	v.Words = number(l.Count) + " entries, no limit"
	if l.Max > 0 {
		v.Words = fmt.Sprintf("%s of %s entries, %.1f %%", number(l.Count), number(l.Max), 100*float64(l.Count)/float64(l.Max))
	}
	v.Forecast, v.Alarm = outlook(&o)
	v.Points, v.Range = line(b.samples)
	return v
}

// soon is how near the end is when it is shown as an alarm.
const soon = 10 * time.Minute

// outlook puts a forecast into words.
func outlook(o *health.Outlook) (words string, alarm bool) {
	rate := func(r float64) string { return fmt.Sprintf("%.3g entries a second", math.Abs(r)) }
	switch o.Trend {
	case health.Filling:
		if o.FullIn == 0 {
			return "filling by " + rate(o.Rate), false
		}
		return fmt.Sprintf("filling by %s: full in %s, if that goes on", rate(o.Rate), show.AppendDuration(nil, o.FullIn)), o.FullIn < soon
	case health.Emptying:
		return "emptying by " + rate(o.Rate), false
	case health.Steady:
		return "steady", false
	case health.Full:
		return "full: new connections are dropped", true
	}
	return "too few counts yet for a forecast", false
}

// line draws the samples: oldest left, from 0 at the bottom to their greatest.
func line(samples []health.Sample) (points, words string) {
	const width, height, room = mostSamples, 40, 2
	least, peak := samples[0].Count, uint32(0)
	for _, s := range samples {
		least, peak = min(least, s.Count), max(peak, s.Count)
	}
	var p strings.Builder
	for i, s := range samples {
		y := height - room - float64(height-2*room)*float64(s.Count)/float64(max(peak, 1))
		fmt.Fprintf(&p, "%d,%.1f ", width-len(samples)+i, y)
	}
	return strings.TrimSpace(p.String()), fmt.Sprintf("between %s and %s in the last %s",
		number(least), number(peak), show.Count(len(samples), "second"))
}

// number writes a number with commas.
func number[T int | uint32](n T) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// receiptView is a receipt on the page.
type receiptView struct {
	Time     string `json:"time"` // RFC 3339
	Proven   bool   `json:"proven"`
	Verdict  string `json:"verdict"`
	Selector string `json:"selector"`
	By       string `json:"by"`
	Rows     string `json:"rows"` // lines
}

func viewReceipt(n *receipts.Note, at time.Time) receiptView {
	v := receiptView{Time: at.Format(time.RFC3339), Proven: n.Receipt.Proven, Selector: oneline.Whole(n.Receipt.Selector), By: oneline.Whole(n.By)}
	if v.Selector == "" {
		v.Selector = "--all"
	}
	for text := range strings.Lines(n.Words) {
		text = strings.TrimPrefix(oneline.Whole(strings.TrimSuffix(text, "\n")), "  ")
		if v.Verdict == "" {
			v.Verdict = text
		} else {
			v.Rows += text + "\n"
		}
	}
	return v
}

// receipt shows a receipt.
func (b *board) receipt(n *receipts.Note) {
	v := viewReceipt(n, time.Now())
	b.mu.Lock()
	defer b.mu.Unlock()
	b.receipts = append([]receiptView{v}, b.receipts[:min(len(b.receipts), mostReceipts-1)]...)
	b.hub.tell("receipts", b.receipts) // before the next one is
}

// latest returns what is shown of receipts and of the top.
func (b *board) latest() ([]receiptView, topView) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.receipts, b.top
}

// topView is who has most flows, as a walk through the table has counted.
type topView struct {
	Words  string      `json:"words"`
	Groups []groupView `json:"groups"`
	at     time.Time
}

// groupView is the top of one kind of group.
type groupView struct {
	By   string    `json:"by"`
	Rows []rowView `json:"rows"`
}

// rowView is one group.
type rowView struct {
	Name  string `json:"name"`
	Flows int    `json:"flows"`
	Of    int    `json:"of"` // all flows
	Words string `json:"words"`
}

// Pauses between walks: so long at least, and so many times what the last one took,
// so that walks take a twentieth of one processor at most, whatever the size of the table.
const (
	leastPause  = 2 * time.Second
	pauseFactor = 19
)

// walk counts the top when somebody looks at the page, until ctx ends.
func (b *board) walk(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.hub.wanted:
		}
		began := time.Now()
		v, err := b.count(ctx)
		took := time.Since(began)
		pause := max(leastPause, pauseFactor*took)
		v.at = time.Now()
		v.Words += fmt.Sprintf(", counted at %s in %s; again in %s", v.at.Format(time.TimeOnly), cut.Millis(took), cut.Millis(pause))
		if err != nil {
			v.Words = oneline.Text("could not be counted: " + err.Error())
		}
		b.mu.Lock()
		b.top = v
		close(b.walked)
		b.walked = make(chan struct{})
		b.mu.Unlock()
		b.hub.tell("top", v)
		timer := time.NewTimer(pause) // time itself is meant: the table is walked from time to time
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		if b.hub.len() > 0 {
			b.hub.want()
		}
	}
}

// groups is how many groups of a kind are told apart, some 5 MB: with more, the
// sums of small ones are too small.
const groups = 1 << 15

// count walks through the table.
func (b *board) count(ctx context.Context) (topView, error) {
	var tallies []*tally.Tally
	for _, by := range []tally.By{tally.Server, tally.Client, tally.Port} {
		tallies = append(tallies, tally.New(by, groups))
	}
	all := 0
	for f, err := range b.ct.Dump(ctx, conntrack.Filter{}) {
		if err != nil {
			return topView{Groups: []groupView{}}, err
		}
		all++
		for _, t := range tallies {
			t.Add(f)
		}
	}
	v := topView{Words: number(all) + " flows"}
	for _, t := range tallies {
		g := groupView{By: t.By().String(), Rows: []rowView{}}
		for _, r := range t.Top(mostRows, nil) {
			g.Rows = append(g.Rows, viewRow(&r, all, t.Dropped() > 0))
		}
		v.Groups = append(v.Groups, g)
	}
	return v, nil
}

func viewRow(r *tally.Row, all int, atLeast bool) rowView {
	words := []string{number(r.Flows)}
	if atLeast {
		words[0] += " or more"
	}
	if r.Unreplied > 0 {
		words = append(words, number(r.Unreplied)+" unreplied")
	}
	if r.Bytes > 0 {
		words = append(words, string(show.AppendBytes(nil, r.Bytes)))
	}
	return rowView{Name: r.String(), Flows: r.Flows, Of: max(all, 1), Words: strings.Join(words, ", ")}
}

// fresh waits for a top that is not old, but not for long.
func (b *board) fresh(ctx context.Context) {
	const patience, old = 400 * time.Millisecond, time.Minute
	b.mu.Lock()
	walked, at := b.walked, b.top.at
	b.mu.Unlock()
	if time.Since(at) < old {
		return
	}
	b.hub.want()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-walked:
	case <-ctx.Done():
	}
}
