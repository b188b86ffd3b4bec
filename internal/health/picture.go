package health

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"time"

	svg "github.com/ajstarks/svgo/float"
)

// Point is what a picture shows of a moment. Lost and New count from the first point on.
type Point struct {
	At    time.Time
	Count uint32 // entries
	Max   uint32 // most entries, 0: no limit
	Lost  uint64 // packets and entries, see [Lost]
	New   uint64 // flows that the kernel announced
}

// line is one course of a picture: a value for each point.
type line struct {
	name   string
	values []float64
	limit  float64 // drawn across, if it is not 0
	bad    bool
}

// thin returns n points at most, in even steps, the first and the last among them: samples in
// quick succession show the moments at which a busy machine came to take them.
func thin(points []Point, n int) []Point {
	if len(points) <= n {
		return points
	}
	out := make([]Point, n)
	for i := range out {
		out[i] = points[i*(len(points)-1)/(n-1)]
	}
	return out
}

// lines returns what is drawn of points: the count, and rates a second.
func lines(points []Point) []line {
	count := line{name: "entries"}
	born, lost := line{name: "new flows a second"}, line{name: "lost a second: drops and early drops", bad: true}
	for i, p := range points {
		count.values = append(count.values, float64(p.Count))
		count.limit = float64(p.Max)
		if i == 0 {
			continue
		}
		b := points[i-1]
		s := max(p.At.Sub(b.At).Seconds(), 1e-3)
		born.values = append(born.values, float64(p.New-b.New)/s)
		lost.values = append(lost.values, float64(p.Lost-b.Lost)/s)
	}
	return []line{count, born, lost}
}

// top returns the upper edge of a line's scale: the limit, where that is not far off.
func (l line) top() float64 {
	most := 1.
	for _, v := range l.values {
		most = max(most, v)
	}
	if l.limit > 0 && most > l.limit/4 {
		most = max(most, l.limit)
	}
	return most
}

// bars are the eighths of a line of text.
var bars = []rune("▁▂▃▄▅▆▇█")

// Spark returns values as a line of text of some columns at most, each the largest value
// that falls into it, from 0 to top.
func Spark(values []float64, top float64, columns int) string {
	var b strings.Builder
	columns = min(columns, len(values))
	for i := range columns {
		most := 0.
		for _, v := range values[i*len(values)/columns : (i+1)*len(values)/columns] {
			most = max(most, v)
		}
		level := 0
		if top > 0 {
			level = int(math.Ceil(most / top * float64(len(bars)-1)))
		}
		b.WriteRune(bars[min(max(level, 0), len(bars)-1)])
	}
	return b.String()
}

// Sparks returns a line of text for each course of a picture: the name, what is drawn, and
// the largest value.
func Sparks(points []Point, columns int) (rows [][3]string) {
	for _, l := range lines(thin(points, columns+1)) {
		most := 0.
		for _, v := range l.values {
			most = max(most, v)
		}
		rows = append(rows, [3]string{l.name, Spark(l.values, l.top(), columns), fmt.Sprintf("%.0f", most)})
	}
	return rows
}

// Measures of the picture, in its own units.
const (
	pictureWidth = 720.0
	marginLeft   = 76.0
	marginRight  = 20.0
	marginTop    = 56.0
	stripHeight  = 96.0
	stripGap     = 40.0
	marginBottom = 40.0
	pictureSteps = 90
)

// look has all colours, for light and for dark.
const look = `
.paper{fill:#ffffff} .word{fill:#1f2328} .faint{fill:#59636e} .axis{stroke:#d1d9e0;stroke-width:1}
.good{stroke:#0969da} .goodfill{fill:#0969da;fill-opacity:.13} .bad{stroke:#c2410c} .badfill{fill:#c2410c;fill-opacity:.13}
.limit{stroke:#c2410c;stroke-width:1.2;stroke-dasharray:5 4} .line{fill:none;stroke-width:1.6;stroke-linejoin:round}
text{font-family:system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;font-size:13px}
.title{font-size:16px;font-weight:600} .end{text-anchor:end} .middle{text-anchor:middle}
@media (prefers-color-scheme:dark){
.paper{fill:#0d1117} .word{fill:#e6edf3} .faint{fill:#9198a1} .axis{stroke:#3d444d}
.good{stroke:#58a6ff} .goodfill{fill:#58a6ff} .bad{stroke:#ff9a5c} .badfill{fill:#ff9a5c} .limit{stroke:#ff9a5c}
}`

// Picture draws points as an SVG: entries, new flows and losses on one clock.
func Picture(points []Point) []byte {
	var out bytes.Buffer
	strips := lines(thin(points, pictureSteps))
	height := marginTop + float64(len(strips))*(stripHeight+stripGap) - stripGap + marginBottom
	c := svg.New(&out)
	c.Startview(pictureWidth, height, 0, 0, pictureWidth, height)
	c.Title("The connection tracking table over time")
	c.Style("text/css", look)
	c.Rect(0, 0, pictureWidth, height, `class="paper"`)
	span := time.Duration(0)
	if n := len(points); n > 0 {
		span = points[n-1].At.Sub(points[0].At)
		c.Text(marginLeft, 26, fmt.Sprintf("Connection tracking table, %s, by flowcut stats", points[0].At.Format(time.DateTime)), `class="word title"`)
	}
	for i, l := range strips {
		l.draw(c, marginTop+float64(i)*(stripHeight+stripGap)+stripHeight)
	}
	for i := range 6 {
		x := marginLeft + (pictureWidth-marginLeft-marginRight)*float64(i)/5
		c.Text(x, height-marginBottom+20, (span * time.Duration(i) / 5).Round(100*time.Millisecond).String(), `class="faint middle"`)
	}
	c.End()
	return out.Bytes()
}

// draw draws a line in a strip whose foot is base.
func (l line) draw(c *svg.SVG, base float64) {
	kind, right, top := "good", pictureWidth-marginRight, l.top()
	if l.bad {
		kind = "bad"
	}
	y := func(v float64) float64 { return base - stripHeight*v/top }
	c.Text(marginLeft, base-stripHeight-8, l.name, `class="word"`)
	c.Line(marginLeft, base, right, base, `class="axis"`)
	c.Line(marginLeft, base-stripHeight, right, base-stripHeight, `class="axis"`)
	c.Text(marginLeft-8, base+4, "0", `class="faint end"`)
	c.Text(marginLeft-8, base-stripHeight+4, fmt.Sprintf("%.0f", top), `class="faint end"`)
	if l.limit > 0 && l.limit <= top {
		c.Line(marginLeft, y(l.limit), right, y(l.limit), `class="limit"`)
	}
	if len(l.values) < 2 {
		return
	}
	var xs, ys []float64
	for i, v := range l.values {
		xs = append(xs, marginLeft+(right-marginLeft)*float64(i)/float64(len(l.values)-1))
		ys = append(ys, y(v))
	}
	n := len(xs)
	c.Polygon(append(append([]float64{xs[0]}, xs...), xs[n-1]), append(append([]float64{base}, ys...), base), fmt.Sprintf(`class="%sfill"`, kind))
	c.Polyline(xs, ys, fmt.Sprintf(`class="line %s"`, kind))
}
