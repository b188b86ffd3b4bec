package health

import (
	"math"
	"time"
)

// Trend is where the number of entries goes.
type Trend string

// Trends.
const (
	Unknown  Trend = "unknown"  // too few samples, or no time between them
	Steady   Trend = "steady"   // no change that stands out from the ups and downs
	Filling  Trend = "filling"  // more entries begin than end
	Emptying Trend = "emptying" // more end than begin
	Full     Trend = "full"     // as many as the limit lets be
)

// Outlook is where the number of entries goes, as it went on last.
type Outlook struct {
	Trend Trend

	// Rate is by how many entries a second the table grows, those that end taken
	// off. It is between Low and High in 19 of 20 cases, as long as all goes on as
	// it did.
	Rate, Low, High float64

	// Window is the time that Rate was taken from.
	Window time.Duration

	// FullIn is when the table will be full, counted from the last sample; Earliest
	// and Latest are the same for High and Low. All are zero unless Trend is
	// Filling and there is a limit.
	FullIn, Earliest, Latest time.Duration
}

const (
	leastSteps = 4    // between samples, for a rate
	even       = 0.01 // rates that differ by this share are the same

	// noise is the change of the count, as a share of the limit, from which on a
	// change is more than ups and downs, even if it is as even as can be.
	noise = 1.0 / 10000
)

// Forecast returns the outlook that samples show, which are in the order of their
// times, at least five.
//
// A count is a random walk: what begins and ends between two samples adds to it for
// good. So the mean change between samples is taken, and its error from how they
// differ. (A line of least squares takes the ups and downs for independent of each other
// and finds trends where there are none.) Where older samples show another rate than the
// newer, they are left out: what counts is how things are now.
func Forecast(samples []Sample) Outlook {
	if len(samples) == 0 {
		return Outlook{Trend: Unknown}
	}
	last := samples[len(samples)-1]
	full := isFull(samples)
	r, ok := recent(steps(samples))
	if !ok {
		if full {
			return Outlook{Trend: Full}
		}
		return Outlook{Trend: Unknown}
	}
	o := Outlook{Trend: Steady, Rate: r.mean, Low: r.mean - r.margin, High: r.mean + r.margin, Window: seconds(r.time)}
	moved := math.Abs(r.mean)*r.time >= max(1, noise*float64(last.Max))
	switch {
	case full:
		o.Trend = Full
	case moved && o.Low > 0:
		o.Trend = Filling
		if last.Max > 0 {
			left := float64(last.Max - last.Count)
			o.FullIn, o.Earliest, o.Latest = seconds(left/o.Rate), seconds(left/o.High), seconds(left/o.Low)
		}
	case moved && o.High < 0:
		o.Trend = Emptying
	}
	return o
}

// isFull tells whether there is no room, or was none since the sample before the last:
// early drops make room for many at times.
func isFull(samples []Sample) bool {
	last := &samples[len(samples)-1]
	if last.Max == 0 || last.Count >= last.Max {
		return last.Max > 0
	}
	if len(samples) < 2 {
		return false
	}
	since := last.Since(&samples[len(samples)-2])
	return since.EarlyDrop > 0 || since.Drop > 0 && uint64(last.Count)*100 >= uint64(last.Max)*nearlyFull
}

// step is how the count changed between two samples.
type step struct{ change, time float64 }

func steps(samples []Sample) []step {
	var all []step
	for i := 1; i < len(samples); i++ {
		a, b := &samples[i-1], &samples[i]
		if d := b.At.Sub(a.At).Seconds(); d > 0 {
			all = append(all, step{float64(b.Count) - float64(a.Count), d})
		}
	}
	return all
}

// rate is the mean change a second, and half the width of the range that it is in
// with a probability of 95 %.
type rate struct{ mean, margin, time float64 }

// recent returns the rate of the longest window, up to now, that agrees with its newer
// half.
func recent(s []step) (rate, bool) {
	for len(s) >= 2*leastSteps {
		now := rateOf(s[len(s)/2:])
		if math.Abs(rateOf(s).mean-now.mean) <= max(now.margin, even*math.Abs(now.mean)) {
			break
		}
		s = s[len(s)/4:]
	}
	if len(s) < leastSteps {
		return rate{}, false
	}
	return rateOf(s), true
}

func rateOf(s []step) rate {
	var change, time, spread float64
	for _, d := range s {
		change += d.change
		time += d.time
	}
	mean := change / time
	for _, d := range s {
		off := d.change - mean*d.time
		spread += off * off / d.time
	}
	free := float64(len(s) - 1)
	return rate{mean, student(free) * math.Sqrt(spread/free/time), time}
}

// student returns the 97.5 % quantile of Student's distribution, within 1 % for
// three degrees of freedom and more.
func student(free float64) float64 { return 1.96 + 2.4/free + 3.8/(free*free) }

// seconds returns a time, the longest that there is where it is too long.
func seconds(s float64) time.Duration {
	if d := s * float64(time.Second); d < math.MaxInt64 {
		return time.Duration(d)
	}
	return math.MaxInt64
}
