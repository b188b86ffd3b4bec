package health

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"flowcut/conntrack"
)

// course returns samples of a count, one each tenth of a second.
func course(most uint32, n int, count func(second float64) float64) []Sample {
	begin := time.Unix(1_000_000, 0)
	all := make([]Sample, n)
	for i := range all {
		at := time.Duration(i) * 100 * time.Millisecond
		all[i].At = begin.Add(at)
		all[i].Limits = conntrack.Limits{Count: uint32(max(0, math.Round(count(at.Seconds())))), Max: most}
	}
	return all
}

func TestForecast(t *testing.T) {
	line := func(from, rate float64) func(float64) float64 {
		return func(s float64) float64 { return from + rate*s }
	}
	for name, c := range map[string]struct {
		samples []Sample
		trend   Trend
		in      time.Duration
	}{
		"none":             {nil, Unknown, 0},
		"one":              {course(1000, 1, line(5, 0)), Unknown, 0},
		"four":             {course(1000, 4, line(5, 100)), Unknown, 0},
		"one, full":        {course(1000, 1, line(1000, 0)), Full, 0},
		"five":             {course(1000, 5, line(0, 100)), Filling, 9600 * time.Millisecond},
		"still":            {course(1000, 11, line(500, 0)), Steady, 0},
		"line":             {course(262144, 11, line(100000, 6500)), Filling, seconds((262144 - 106500) / 6500.)},
		"down":             {course(262144, 11, line(100000, -6500)), Emptying, 0},
		"full":             {course(1000, 21, line(0, 500)), Full, 0},
		"no limit":         {course(0, 11, line(0, 500)), Filling, 0},
		"one more":         {course(262144, 11, func(s float64) float64 { return math.Floor(s) }), Steady, 0},
		"even, but little": {course(262144, 11, line(100000, 20)), Steady, 0},
		// What was is forgotten: a flood that begins, one that ends, a cut.
		"begins":      {course(262144, 100, func(s float64) float64 { return 1000 + 6000*max(0, s-7) }), Filling, seconds((262144 - 1000 - 6000*2.9) / 6000)},
		"begins soon": {course(262144, 12, func(s float64) float64 { return 1000 + 3000*max(0, s-0.35) }), Filling, seconds((262144 - 1000 - 3000*0.75) / 3000)},
		"ends":        {course(262144, 100, func(s float64) float64 { return 1000 + 6000*min(3, s) }), Steady, 0},
		"cut":         {course(262144, 60, func(s float64) float64 { return 100000 - 90000*math.Trunc(s/2.95) }), Steady, 0},
	} {
		o := Forecast(c.samples)
		if o.Trend != c.trend || (o.FullIn-c.in).Abs() > max(c.in/50, time.Millisecond) {
			t.Errorf("%s: %+v, want %s and full in %v", name, o, c.trend, c.in)
		}
		if o.Earliest > o.FullIn || o.FullIn > o.Latest || o.Low > o.Rate || o.Rate > o.High {
			t.Errorf("%s: the ranges are in no order: %+v", name, o)
		}
	}
}

// Entries that begin and end at random are no trend, and the range of a rate holds
// the true one as often as it says.
func TestRange(t *testing.T) {
	const seed, runs = 7, 2000
	r := rand.New(rand.NewPCG(seed, seed))
	for _, drift := range []float64{0, 400} {
		held, seen := 0, 0
		for range runs {
			count := 50000.
			o := Forecast(course(262144, 31, func(float64) float64 {
				count += drift/10 + r.NormFloat64()*60
				return count
			}))
			if o.Low <= drift && drift <= o.High {
				held++
			}
			if o.Trend == Filling || o.Trend == Emptying {
				seen++
			}
		}
		if held < runs*90/100 {
			t.Errorf("drift %v: the range holds the rate in %d of %d cases", drift, held, runs)
		}
		if drift == 0 && seen > runs*10/100 {
			t.Errorf("a trend is seen in %d of %d walks without one", seen, runs)
		}
		if drift > 0 && seen < runs*90/100 {
			t.Errorf("a trend is seen in %d of %d walks with one", seen, runs)
		}
	}
}

// A table that drops entries early is full, though it has room again; one that drops
// packets is, unless it has much room.
func TestFullByCounters(t *testing.T) {
	for name, c := range map[string]struct {
		count uint32
		last  conntrack.CPUStats
		want  Trend
	}{
		"early drops":             {900, conntrack.CPUStats{EarlyDrop: 8}, Full},
		"drops":                   {900, conntrack.CPUStats{Drop: 8}, Full},
		"drops for other reasons": {300, conntrack.CPUStats{Drop: 8}, Steady},
		"drops of old":            {900, conntrack.CPUStats{Drop: 7, EarlyDrop: 7}, Steady},
	} {
		samples := course(1000, 12, func(float64) float64 { return float64(c.count) })
		for i := range samples {
			samples[i].CPUs = []conntrack.CPUStats{{Drop: 7, EarlyDrop: 7}}
		}
		c.last.Drop, c.last.EarlyDrop = max(c.last.Drop, 7), max(c.last.EarlyDrop, 7)
		samples[11].CPUs = []conntrack.CPUStats{c.last}
		if o := Forecast(samples); o.Trend != c.want {
			t.Errorf("%s: %+v, want %s", name, o, c.want)
		}
	}
}

func TestSince(t *testing.T) {
	a := Sample{CPUs: []conntrack.CPUStats{{Drop: math.MaxUint32 - 1, New: 5}, {CPU: 1, Drop: 7}}}
	b := Sample{CPUs: []conntrack.CPUStats{{Drop: 3, New: 9}, {CPU: 1, Drop: 8}}}
	if got := b.Since(&a); got != (conntrack.CPUStats{Drop: 6, New: 4}) {
		t.Errorf("since: %+v", got)
	}
	if got := b.Total(); got != (conntrack.CPUStats{Drop: 11, New: 9}) {
		t.Errorf("total: %+v", got)
	}
}
