//go:build linux

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

// shown returns what a terminal shows of some bytes.
func shown(t *testing.T, width, height int, text string) screen {
	t.Helper()
	term, err := openTerminal(width, height)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = term.close() })
	if _, err := term.Write([]byte(strings.ReplaceAll(text, "\n", "\r\n"))); err != nil {
		t.Fatal(err)
	}
	return term.look()
}

// A picture is XML, has each word where its column is, in the colours of the
// terminal, and ends with the last row that is not empty.
func TestDraw(t *testing.T) {
	seen := shown(t, 40, 9, "\x1b[1;32mproven\x1b[0m: <all>\n  a      b & c\n\x1b[7mselected\x1b[0m \x1b[38;5;196mred\x1b[m\n日本 x\n")
	svg := string(draw(&scene{columns: 40, line: "flowcut <x>", says: "A & B"}, seen))
	for _, want := range []string{
		`<title id="title">flowcut &lt;x&gt;</title>`, `<desc id="desc">A &amp; B</desc>`, "prefers-color-scheme:dark",
		`x="14.00" y="55.00" class="c2 b" textLength="46.8" >proven</text>`,
		`x="60.80" y="55.00" class="f" textLength="54.6" >: &lt;all&gt;</text>`,
		`x="29.60" y="73.00" class="f" textLength="7.8" >a</text>`, // two columns from the left
		`x="84.20" y="73.00" class="f" textLength="39.0" >b &amp; c</text>`,
		`<rect x="14.00" y="77.00" width="62.40" height="18.00" class="f" />`, // reversed
		`class="p" textLength="62.4" >selected</text>`,
		`fill="#ff0000" class="" textLength="23.4" >red</text>`,
		`x="14.00" y="109.00" class="f" textLength="46.8" >日本 x</text>`,
		`height="128"`, // four rows
	} {
		if !strings.Contains(svg, want) {
			t.Errorf("no %s in\n%s", want, svg)
		}
	}
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// What is waited for is found in one row, as it is shown.
func TestShows(t *testing.T) {
	seen := shown(t, 20, 3, "one\x1b[31m two\x1b[0m\nthree")
	if !seen.shows("one two") || seen.shows("two three") || seen.shows("four") {
		t.Errorf("%q", seen.lines())
	}
}
