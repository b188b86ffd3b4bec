//go:build linux

package main

import (
	"bytes"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// pictured are the works in the picture, and what is written below their bars.
var pictured = []struct{ work, label string }{
	{"list", "list all"}, {"filter", "list a tenth"}, {"delete", "delete a tenth"}, {"cut", "cut a tenth (others: delete)"},
}

// look holds the colour of each contender, for light and for dark; "" is that
// of words.
var look = []struct {
	who         string
	paint       color.RGBA // stands for the two in the drawing
	light, dark string
}{
	{us, color.RGBA{1, 0, 1, 255}, "#0b7a4b", "#4ad295"},
	{tool, color.RGBA{1, 0, 2, 255}, "#c2410c", "#ff9a5c"},
	{library, color.RGBA{1, 0, 3, 255}, "#7c3aed", "#b794f6"},
	{floor, color.RGBA{1, 0, 4, 255}, "#8c959f", "#6e7681"},
	{"", color.RGBA{1, 0, 5, 255}, "#1f2328", "#e6edf3"},
}

var ink = look[len(look)-1].paint

// bars plots the median times of the largest table that all contended on. It
// returns nil if there is none.
func (r *results) bars() (*plot.Plot, error) {
	size := 0
	for _, t := range r.Tables {
		if t.Size <= peerMost && t.pictured() {
			size = max(size, t.Size)
		}
	}
	if size == 0 {
		return nil, nil
	}
	p := newPlot(size)
	const bar = 26 // width, in points
	for i, l := range look[:len(look)-1] {
		values := make(plotter.Values, len(pictured))
		for j, w := range pictured {
			values[j] = r.median(w.work, size, l.who)
		}
		chart, err := plotter.NewBarChart(values, vg.Points(bar))
		if err != nil {
			return nil, err
		}
		chart.Color, chart.LineStyle.Width = l.paint, 0
		chart.Offset = vg.Points(bar+2) * vg.Length(float64(i)-1.5)
		labels, err := barLabels(values, chart.Offset)
		if err != nil {
			return nil, err
		}
		p.Add(chart, labels)
		p.Legend.Add(l.who, chart)
	}
	return p, nil
}

// pictured tells whether the table's work is in the picture.
func (t *table) pictured() bool {
	for _, w := range pictured {
		if w.work == t.Work {
			return true
		}
	}
	return false
}

// newPlot makes a plot without bars.
func newPlot(size int) *plot.Plot {
	plot.DefaultFont.Variant, plotter.DefaultFont.Variant = "Sans", "Sans"
	p := plot.New()
	p.BackgroundColor = nil // the page shows through
	p.Title.Text = fmt.Sprintf("A table of %s flows: median time in seconds, less is better", thousands(size))
	p.Title.TextStyle.Color = ink
	p.Title.TextStyle.Font.Size = vg.Points(15)
	p.Title.Padding = vg.Points(10)
	p.Legend.Top, p.Legend.TextStyle.Color = true, ink
	p.Legend.Left = true
	p.Legend.XOffs, p.Legend.Padding = vg.Points(10), vg.Points(4)
	p.Y.Min = 0
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Color, a.Tick.Color, a.Tick.Label.Color = ink, ink, ink
		a.Tick.Label.Font.Size = vg.Points(12)
	}
	names := make([]string, len(pictured))
	for i, w := range pictured {
		names[i] = w.label
	}
	p.NominalX(names...)
	return p
}

// barLabels writes each time above its bar.
func barLabels(values plotter.Values, offset vg.Length) (*plotter.Labels, error) {
	var at plotter.XYLabels
	for i, v := range values {
		if v > 0 {
			at.XYs = append(at.XYs, plotter.XY{X: float64(i), Y: v})
			at.Labels = append(at.Labels, fmt.Sprintf("%.2g", v))
		}
	}
	labels, err := plotter.NewLabels(at)
	if err != nil {
		return nil, err
	}
	labels.Offset = vg.Point{X: offset, Y: vg.Points(3)}
	for i := range labels.TextStyle {
		labels.TextStyle[i].Color = ink
		labels.TextStyle[i].XAlign = text.XCenter
	}
	return labels, nil
}

// median returns the median time of a contender's first row, 0 without one.
func (r *results) median(work string, size int, who string) float64 {
	for _, t := range r.Tables {
		if t.Work != work || t.Size != size {
			continue
		}
		for i := range t.Rows {
			if t.Rows[i].Who == who {
				return t.Rows[i].spread(wall).median
			}
		}
	}
	return 0
}

// drawing draws the plot with colours that follow the reader's choice of light
// or dark.
func drawing(p *plot.Plot) ([]byte, error) {
	c := vgsvg.New(vg.Points(660), vg.Points(330))
	const margin = 10
	p.Draw(draw.Crop(draw.New(c), margin, -margin, margin, -margin))
	var out bytes.Buffer
	if _, err := c.WriteTo(&out); err != nil {
		return nil, err
	}
	s := out.String()
	var light, dark strings.Builder
	for i, l := range look {
		fmt.Fprintf(&light, "--c%d:%s;", i, l.light)
		fmt.Fprintf(&dark, "--c%d:%s;", i, l.dark)
		s = strings.ReplaceAll(s, fmt.Sprintf("#%02X%02X%02X", l.paint.R, l.paint.G, l.paint.B), fmt.Sprintf("var(--c%d)", i))
	}
	style := fmt.Sprintf("<style>:root{%s} text{font-family:system-ui,sans-serif !important}\n@media (prefers-color-scheme:dark){:root{%s}}</style>\n", &light, &dark)
	head, body, ok := strings.Cut(s, "<g ")
	if !ok {
		return nil, fmt.Errorf("the drawing has no group to put its colours before")
	}
	return []byte(head + style + "<g " + body), nil
}

// writePicture draws the picture into a file, if there is anything to draw.
func (r *results) writePicture(path string) error {
	p, err := r.bars()
	if err != nil || p == nil {
		return err
	}
	b, err := drawing(p)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}
