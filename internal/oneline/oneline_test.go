package oneline

import (
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestValue(t *testing.T) {
	long := strings.Repeat("ä", 100)
	for in, want := range map[string]string{
		"":                "",
		"10.0.0.300":      "10.0.0.300",
		"two words, ü":    "two words, ü",
		"a\x1b[31m\n":     `"a\x1b[31m\n"`,
		"\xff":            `"\xff"`,
		"right\u202eleft": `"right\u202eleft"`,
		long:              strings.Repeat("ä", 48) + "...",
		"x" + long:        "x" + strings.Repeat("ä", 48) + "...",
	} {
		if got := Value(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestText(t *testing.T) {
	long := strings.Repeat("word ", 100)
	for in, want := range map[string]string{
		"bad \"x\": no":    "bad \"x\": no",
		"a\x1b[31m\nb\tc":  `a\x1b[31m\nb\tc`,
		"\xff\u202e\u0085": "\ufffd" + `\u202e\u0085`,
		long:               long[:237] + "...",
	} {
		if got := Text(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// FuzzLine: a terminal can show what comes out, and it is short.
func FuzzLine(f *testing.F) {
	for _, s := range []string{"", "10.0.0.1", "\x1b[2J", strings.Repeat("\u202e", 200), strings.Repeat("ä", 200), "\xf0\x9f\x98"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, out := range []struct {
			text string
			most int
		}{{Value(s), mostOfValue + 50}, {Text(s), mostOfText}} {
			if len(out.text) > out.most || !utf8.ValidString(out.text) {
				t.Fatalf("%q is %d bytes: %q", s, len(out.text), out.text)
			}
			for _, r := range out.text {
				if !strconv.IsPrint(r) {
					t.Fatalf("%q has %q", out.text, r)
				}
			}
		}
	})
}
