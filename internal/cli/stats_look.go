package cli

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"flowcut/conntrack"
	"flowcut/internal/health"
	"flowcut/internal/oneline"
	"flowcut/internal/sysctl"
)

// look is what "flowcut stats" has seen.
type look struct {
	o    statsOptions
	c    *conntrack.Client
	here bool // the limit can be set in this namespace

	first  health.Sample
	recent []health.Sample // the last ones
	points []health.Point
	svg    *os.File // nil without --svg
	born   births

	outlook health.Outlook
	plateau health.Plateau
	warned  bool // at some moment

	before   *health.Profile // nil where the flows are not counted
	after    *health.Profile // nil unless the table grew
	growth   health.Growth   // from before to after
	compared time.Time       // when after was begun
	counting chan counted    // nil unless the flows are being counted
}

// counted is what came of counting the flows.
type counted struct {
	*health.Profile
	err error
}

// staleAfter is how long it counts that a table will level off.
const staleAfter = 10 * time.Second

// recentSamples is how many samples a forecast is made of, at most.
const recentSamples = 600

// births counts the flows that the kernel announces.
type births struct {
	n    atomic.Uint64
	lost atomic.Bool // some announcements were lost: n is too small
}

// watch takes samples until the time is over.
func (l *look) watch(ctx context.Context, p *statsPrinter) error {
	if l.o.period.value == 0 {
		return l.sample(ctx, p)
	}
	listener, err := l.c.Listen(conntrack.EventConfig{Flows: conntrack.EventNew})
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.Go(func() error { return l.born.hear(listener) })
	err = l.sample(ctx, p)
	return errors.Join(err, listener.Close(), g.Wait())
}

// hear counts until the listener is closed.
func (b *births) hear(l *conntrack.Listener) error {
	for e, err := range l.Events(context.Background()) {
		switch {
		case errors.Is(err, conntrack.ErrClosed):
			return nil
		case err != nil:
			return err
		case e.Kind == conntrack.EventOverrun:
			b.lost.Store(true)
		default:
			b.n.Add(1)
		}
	}
	return nil
}

// sample takes the samples.
func (l *look) sample(ctx context.Context, p *statsPrinter) (err error) {
	if err := l.add(ctx); err != nil {
		return err
	}
	l.first = l.recent[0]
	if l.o.svg != "" {
		if l.svg, err = os.Create(l.o.svg); err != nil { // before the time is spent
			return usage("give a file that can be written", "--svg %s: %v", oneline.Value(l.o.svg), cause(err))
		}
	}
	if l.o.talkers.wanted(l.first.Count) {
		if l.before, err = health.ReadProfile(ctx, l.c); err != nil {
			return err
		}
	}
	defer l.wait()
	if err := l.follow(ctx, p); err != nil {
		return err
	}
	l.wait()
	if l.begin(ctx) {
		return l.take(<-l.counting)
	}
	return nil
}

// follow takes samples until the time is over. The flows are counted beside that, since
// it may take seconds, just when each of them matters.
func (l *look) follow(ctx context.Context, p *statsPrinter) error {
	tick := time.NewTicker(l.o.every.value)
	defer tick.Stop()
	for end := time.Now().Add(l.o.length()); time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case c := <-l.counting:
			if err := l.take(c); err != nil {
				return err
			}
			continue
		case <-tick.C: // time itself is meant
		}
		if err := l.add(ctx); err != nil {
			return err
		}
		if l.soon() && (l.after == nil || l.levels() && time.Since(l.compared) > staleAfter) {
			l.begin(ctx)
		}
		warning := l.warns()
		l.warned = l.warned || warning
		if l.o.period.value > 0 {
			if err := p.sample(l.last(), l.outlook, l.plateau, warning); err != nil {
				return err
			}
		}
	}
	return nil
}

// last returns the last sample.
func (l *look) last() *health.Sample { return &l.recent[len(l.recent)-1] }

// add takes a sample.
func (l *look) add(ctx context.Context) error {
	s, err := health.Read(ctx, l.c)
	if err != nil {
		return err
	}
	if len(l.recent) == 0 {
		l.first = s
	}
	if l.recent = append(l.recent, s); len(l.recent) > 2*recentSamples {
		l.recent = append(l.recent[:0:0], l.recent[recentSamples:]...)
	}
	since := s.Since(&l.first)
	l.points = append(l.points, health.Point{At: s.At, Count: s.Count, Max: s.Max, Lost: health.Lost(&since), New: l.born.n.Load()})
	l.outlook = health.Forecast(l.recent[max(0, len(l.recent)-recentSamples):])
	return nil
}

// soon tells whether the table is full, or will be too soon if it does not level off.
func (l *look) soon() bool {
	o := l.outlook
	return o.Trend == health.Full || o.Trend == health.Filling && l.last().Max > 0 && o.FullIn <= l.o.warn.value
}

// noWait is when a table that fills is too near its limit to wait for what it may come to.
const noWait = 10 * time.Second

// warns tells whether to warn: not if it levels off, and not before that is known, if
// there is the time.
func (l *look) warns() bool {
	known := l.before == nil || l.after != nil
	full := l.outlook.Trend == health.Full
	return l.soon() && !l.levels() && (known || full || l.outlook.FullIn < noWait)
}

// levels tells whether the table levels off below its limit.
func (l *look) levels() bool {
	return l.outlook.Trend != health.Full && l.plateau.AtMost > 0 && l.plateau.AtMost < float64(l.last().Max)
}

// begin begins to count the flows again, if the table fills or did, and that is not
// under way.
func (l *look) begin(ctx context.Context) bool {
	fills := l.warned || l.outlook.Trend == health.Filling || l.outlook.Trend == health.Full
	if l.before == nil || !fills || l.counting != nil {
		return false
	}
	l.compared, l.counting = time.Now(), make(chan counted, 1)
	go func(c chan<- counted) {
		p, err := health.ReadProfile(ctx, l.c)
		c <- counted{p, err}
	}(l.counting)
	return true
}

// take finds what was added, when the flows are counted.
func (l *look) take(c counted) error {
	l.counting = nil
	if c.err != nil {
		return c.err
	}
	l.after, l.growth = c.Profile, health.Compare(l.before, c.Profile)
	l.plateau = health.PlateauOf(l.growth, l.after, l.last().Count, l.outlook.Rate, setting)
	return nil
}

// wait lets a count that is under way end, for what it is worth.
func (l *look) wait() {
	if l.counting != nil {
		_ = l.take(<-l.counting) // an error that matters comes again
	}
}

// setting reads a setting of the thread's namespace; one that cannot be read is
// taken as absent.
func setting(key string) int {
	n, err := sysctl.Get(key)
	if err != nil {
		return sysctl.Absent
	}
	return n
}

// report puts together what was seen.
func (l *look) report(ctx context.Context) (*statsReport, error) {
	last := l.last()
	r := &statsReport{
		Type: "report", Version: 1, Time: last.At, ForMS: last.At.Sub(l.first.At).Milliseconds(), Warning: l.warned,
		Outlook: outlookOf(l.outlook, l.plateau), points: l.points, NewUnknown: setting("net.netfilter.nf_conntrack_events") == 0, NewAtLeast: l.born.lost.Load(),
	}
	r.Table.Count, r.Table.Max, r.Table.Buckets, r.Table.MaxSetHere = last.Count, last.Max, last.Buckets, l.here
	r.Table.ComparedFound, r.Table.ComparedNew = health.Steps(last.Limits)
	expected := 0
	for _, err := range l.c.DumpExpectations(ctx, conntrack.FamilyBoth) {
		if err != nil {
			return nil, err
		}
		expected++
	}
	r.Findings = []health.Finding{
		health.Entries(last.Limits, l.here), health.Buckets(last.Limits),
		health.Expectations(expected, setting("net.netfilter.nf_conntrack_expect_max")),
	}
	if e := &r.Findings[0]; l.outlook.Trend == health.Full && e.Level != health.Fail {
		e.Level, e.Means = health.Fail, "the table was full a moment ago: flows are dropped early to make room, or new ones if there is none"
	}
	r.Counters = countersOf(&l.first, last)
	if now := l.before; now != nil {
		if l.after != nil {
			now = l.after
		}
		r.Flows = flowsOf(now, l.o.top)
	}
	if l.growth.Flows > 0 {
		cause := health.Explain(l.growth, last.Limits, l.here, setting)
		r.Fills = &fillReport{Flows: l.growth.Flows, Found: cause.Found, Means: cause.Means, Do: cause.Do}
	}
	if l.o.period.value > 0 {
		for _, p := range l.points {
			r.Series = append(r.Series, seriesPoint{p.At, p.Count, p.Lost, p.New})
		}
	}
	return r, nil
}
