//go:build linux

package main

import (
	"bytes"
	"fmt"
	"image/color"
	"strings"

	svg "github.com/ajstarks/svgo/float"
	uv "github.com/charmbracelet/ultraviolet"
	"github.com/charmbracelet/x/ansi"
)

// Measures of a picture.
const (
	cellWidth  = 7.8 // 0.6 of the size of the text, as in most fonts
	cellHeight = 18.0
	baseline   = 13.0 // of a row's text, from its upper edge
	margin     = 14.0
	prompt     = 28.0 // height of the line above the screen
)

// look holds all colours, for light and for dark: f is the usual text, p the paper,
// c0 to c15 are the terminal's sixteen colours.
var look = `text{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:13px;white-space:pre}
.b{font-weight:700} .d{opacity:.65} .i{font-style:italic} .u{text-decoration:underline}
` + colours("#1f2328", "#ffffff", "#d1d9e0", light) + "@media (prefers-color-scheme:dark){\n" + colours("#e6edf3", "#0d1117", "#3d444d", dark) + "}"

// The sixteen colours, on light and on dark paper: readable on both.
var (
	light = [16]string{"#24292f", "#b42318", "#0b7a4b", "#8a5a00", "#0550ae", "#8250df", "#0b6b7a", "#59636e",
		"#57606a", "#cf222e", "#0b7a4b", "#9a6700", "#0969da", "#8250df", "#0b7285", "#6e7781"}
	dark = [16]string{"#8b949e", "#ff8f85", "#4ad295", "#e3b341", "#79c0ff", "#d2a8ff", "#56d4dd", "#c9d1d9",
		"#9198a1", "#ffa198", "#6ee7b0", "#f0c95a", "#a5d6ff", "#e2c5ff", "#8ae4ea", "#f0f6fc"}
)

func colours(text, paper, edge string, list [16]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".f{fill:%s} .p{fill:%s} .frame{fill:%s;stroke:%s}\n", text, paper, paper, edge)
	for i, c := range list {
		fmt.Fprintf(&b, ".c%d{fill:%s} ", i, c)
	}
	b.WriteByte('\n')
	return b.String()
}

// draw draws a screen below the line that made it.
func draw(s *scene, seen screen) []byte {
	rows := len(seen.lines())
	width := float64(s.columns)*cellWidth + 2*margin
	height := float64(rows)*cellHeight + prompt + 2*margin
	var out bytes.Buffer
	c := svg.New(&out)
	c.Startraw(fmt.Sprintf(`width="%.1f" height="%.0f" viewBox="0 0 %.1f %.0f" role="img" aria-labelledby="title desc" xml:space="preserve"`, width, height, width, height))
	fmt.Fprintf(&out, "<title id=\"title\">%s</title>\n<desc id=\"desc\">%s</desc>\n", escape(s.line), escape(s.says))
	c.Style("text/css", look)
	c.Roundrect(0.5, 0.5, width-1, height-1, 6, 6, `class="frame"`)
	c.Text(margin, margin+baseline, "# "+s.line, `class="f b"`)
	for y := range rows {
		top := margin + prompt + float64(y)*cellHeight
		for _, r := range spans(seen[y]) {
			r.draw(c, top)
		}
	}
	c.End()
	return out.Bytes()
}

var escape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace

// span is a part of a row that looks the same and has no wide gap: each has its place,
// so that columns stay columns whatever font there is.
type span struct {
	at    int // first column
	cells int
	text  string
	style uv.Style
}

// spans takes a row apart. What is blank on the usual paper is left out.
func spans(row []uv.Cell) []span {
	var out []span
	var open *span
	for x, c := range row {
		content := c.Content
		switch {
		case content == "" && c.Width == 0 && x > 0 && row[x-1].Width == 2:
			if open != nil {
				open.cells++
			}
			continue
		case content == "":
			content = " "
		}
		same := open != nil && open.style.Equal(&c.Style)
		if blank(c) && (!same || x+1 == len(row) || blank(row[x+1])) {
			open = nil
			continue
		}
		if !same {
			out = append(out, span{at: x, style: c.Style})
			open = &out[len(out)-1]
		}
		open.text += content
		open.cells++
	}
	return out
}

func blank(c uv.Cell) bool { return (c.Content == " " || c.Content == "") && plain(c.Style) }

// plain tells whether a blank of a style is not to be seen.
func plain(s uv.Style) bool {
	return s.Bg == nil && s.Attrs&uv.AttrReverse == 0 && s.Underline == ansi.UnderlineNone
}

// draw draws a span: its paper, if that is not the usual one, and its text.
func (r *span) draw(c *svg.SVG, top float64) {
	x, width := margin+float64(r.at)*cellWidth, float64(r.cells)*cellWidth
	text, paper := paint(r.style.Fg, "f"), paint(r.style.Bg, "")
	if r.style.Attrs&uv.AttrReverse != 0 {
		text, paper = paint(r.style.Bg, "p"), paint(r.style.Fg, "f")
	}
	if paper.set() {
		c.Rect(x, top-1, width, cellHeight, paper.attribute(""))
	}
	trimmed := strings.TrimRight(r.text, " ")
	if trimmed == "" {
		return
	}
	width -= float64(len(r.text)-len(trimmed)) * cellWidth
	more := ""
	for _, m := range []struct {
		is    bool
		class string
	}{
		{r.style.Attrs&uv.AttrBold != 0, " b"}, {r.style.Attrs&uv.AttrFaint != 0, " d"},
		{r.style.Attrs&uv.AttrItalic != 0, " i"}, {r.style.Underline != ansi.UnderlineNone, " u"},
	} {
		if m.is {
			more += m.class
		}
	}
	c.Text(x, top+baseline, trimmed, fmt.Sprintf(`%s textLength="%.1f"`, text.attribute(more), width))
}

// ink is a class of the style sheet, or a colour.
type ink struct{ class, colour string }

func (i ink) set() bool { return i.class != "" || i.colour != "" }

func (i ink) attribute(more string) string {
	if i.colour == "" {
		return `class="` + i.class + more + `"`
	}
	return fmt.Sprintf(`fill="%s" class="%s"`, i.colour, strings.TrimSpace(more))
}

// paint returns the ink of a terminal's colour; usual is the class of none.
func paint(c color.Color, usual string) ink {
	switch v := c.(type) {
	case nil:
		return ink{class: usual}
	case ansi.BasicColor:
		return ink{class: fmt.Sprintf("c%d", v)}
	case ansi.IndexedColor:
		if v < 16 {
			return ink{class: fmt.Sprintf("c%d", v)}
		}
	}
	r, g, b, _ := c.RGBA()
	return ink{colour: fmt.Sprintf("#%02x%02x%02x", r>>8, g>>8, b>>8)}
}
