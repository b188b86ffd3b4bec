package demo

import (
	"bytes"
	"fmt"
	"math"
	"time"

	svg "github.com/ajstarks/svgo/float"
)

// Measures of the picture, in its own units: a strip for each method, one
// below the other, on one clock and one scale.
const (
	width   = 880.0
	left    = 64.0 // of the plots
	right   = 24.0
	top     = 92.0
	strip   = 84.0 // height of a plot
	gap     = 36.0 // between plots, for the line of text above each
	bottom  = 52.0
	grain   = 50 * time.Millisecond // of the lines
	minimum = 1e9                   // least top of the scale, bits a second
)

// look holds all colours, for light and for dark.
const look = `
.paper{fill:#ffffff} .word{fill:#1f2328} .faint{fill:#59636e} .axis{stroke:#d1d9e0;stroke-width:1}
.bad{stroke:#c2410c} .badfill{fill:#c2410c;fill-opacity:.13} .badword{fill:#b93a08}
.good{stroke:#0b7a4b} .goodfill{fill:#0b7a4b;fill-opacity:.13} .goodword{fill:#0b7a4b}
.line{fill:none;stroke-width:1.6;stroke-linejoin:round} .cut{stroke:#1f2328;stroke-width:1.4;stroke-dasharray:5 4}
text{font-family:system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;font-size:13px}
.title{font-size:17px;font-weight:600} .name{font-weight:600} .end{text-anchor:end} .middle{text-anchor:middle}
@media (prefers-color-scheme:dark){
.paper{fill:#0d1117} .word{fill:#e6edf3} .faint{fill:#9198a1} .axis{stroke:#3d444d}
.bad{stroke:#ff9a5c} .badfill{fill:#ff9a5c} .badword{fill:#ffa56b}
.good{stroke:#4ad295} .goodfill{fill:#4ad295} .goodword{fill:#4ad295} .cut{stroke:#e6edf3}
}`

// plot places moments and rates.
type plot struct {
	span  time.Duration // shown before and after the removal of the rule
	shift time.Duration // of the removal, from the left edge
	scale float64       // rate at the upper edge
}

func (p plot) x(at time.Duration) float64 {
	return left + (width-left-right)*float64(at)/float64(p.span)
}

// y returns the height of a rate in a strip whose foot is base.
func (p plot) y(base, rate float64) float64 { return base - strip*min(rate/p.scale, 1) }

// picture draws the throughput of the downloads over time.
func picture(results []result) []byte {
	var out bytes.Buffer
	height := top + float64(len(results))*(strip+gap) + bottom - gap
	c := svg.New(&out)
	c.Startview(width, height, 0, 0, width, height)
	c.Title("Throughput of four downloads through a gateway whose forwarding rule is removed")
	c.Style("text/css", look)
	c.Rect(0, 0, width, height, `class="paper"`)
	c.Text(left, 28, "Four downloads through a gateway; the rule that forwards them is removed", `class="word title"`)
	c.Text(left, 48, "Received by the client, mean of 50 ms, measured live by flowcut demo", `class="faint"`)
	p := scaleOf(results)
	for i, r := range results {
		p.strip(c, top+float64(i)*(strip+gap)+strip, r)
	}
	p.clock(c, height-bottom)
	c.End()
	return out.Bytes()
}

// scaleOf finds the room that all results need.
func scaleOf(results []result) plot {
	p := plot{scale: minimum}
	for _, r := range results {
		p.shift = max(p.shift, r.before)
		for _, pt := range coarse(r.points) {
			p.scale = max(p.scale, pt.rate)
			p.span = max(p.span, pt.at)
		}
	}
	p.span = max(p.span, p.shift, time.Second)
	p.scale = math.Ceil(p.scale/5e9) * 5e9
	return p
}

// coarse averages points over a grain of time each, so that the eye can
// follow the line.
func coarse(points []point) []point {
	var out []point
	begin, bits := time.Duration(0), 0.0
	previous := time.Duration(0)
	for _, pt := range points {
		bits += pt.rate * (pt.at - previous).Seconds()
		previous = pt.at
		if pt.at-begin >= grain {
			out = append(out, point{at: pt.at, rate: bits / (pt.at - begin).Seconds()})
			begin, bits = pt.at, 0
		}
	}
	return out
}

// strip draws one method: its words, its scale and its line.
func (p plot) strip(c *svg.SVG, base float64, r result) {
	kind := "bad"
	if r.silent {
		kind = "good"
	}
	c.Text(left, base-strip-9, r.name, `class="word name"`)
	c.Text(left+80, base-strip-9, r.does, `class="faint"`)
	c.Text(width-right, base-strip-9, r.verdict(), fmt.Sprintf(`class="%sword name end"`, kind))
	c.Line(left, base, width-right, base, `class="axis"`)
	c.Line(left, base-strip, width-right, base-strip, `class="axis"`)
	c.Text(left-8, base+4, "0", `class="faint end"`)
	c.Text(left-8, base-strip+4, fmt.Sprintf("%.0f", p.scale/1e9), `class="faint end"`)
	c.Text(left-8, base-strip/2+4, "Gbit/s", `class="faint end"`)

	// A method whose load ran a little longer before the cut is moved, so that
	// all cuts stand below each other.
	var xs, ys []float64
	for _, pt := range coarse(r.points) {
		xs, ys = append(xs, p.x(pt.at+p.shift-r.before)), append(ys, p.y(base, pt.rate))
	}
	if len(xs) == 0 {
		return
	}
	n := len(xs)
	c.Polygon(append(append([]float64{xs[0]}, xs...), xs[n-1]), append(append([]float64{base}, ys...), base), fmt.Sprintf(`class="%sfill"`, kind))
	c.Polyline(xs, ys, fmt.Sprintf(`class="line %s"`, kind))
	c.Line(p.x(p.shift), base-strip, p.x(p.shift), base+5, `class="cut"`)
}

// verdict is the result in a few words.
func (r result) verdict() string {
	switch {
	case !r.silent:
		return "still " + gbit(r.rate)
	case r.clientsTold+r.serversTold == 2*(streams+idles):
		return "silent after " + r.silence() + ", both ends told"
	}
	return "silent after " + r.silence()
}

// clock writes the seconds, which count from the cut, below the last strip.
func (p plot) clock(c *svg.SVG, base float64) {
	for s := -p.shift.Truncate(time.Second); p.shift+s <= p.span+grain; s += time.Second {
		c.Text(p.x(p.shift+s), base+20, fmt.Sprintf("%d s", int(s.Seconds())), `class="faint middle"`)
	}
	c.Text(p.x(p.shift), base+40, "rule removed, then the method", `class="word middle"`)
}
