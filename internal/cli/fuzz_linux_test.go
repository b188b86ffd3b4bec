package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"flowcut/conntrack"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/show"
	"flowcut/selector"
)

// FuzzCommand reads any command line, up to where the work would begin: an error
// is one line that a terminal can show, with code 2.
func FuzzCommand(f *testing.F) {
	for _, line := range append(goodLines, "", "help cut", "nosuch --x", "lst -g", "cut --batch", "cut -- -g", "! !", "completion bash", "-V", "demo -x") {
		f.Add(strings.ReplaceAll(line, " ", "\n"))
	}
	f.Fuzz(func(t *testing.T, text string) {
		args := strings.Split(text, "\n") // words may have blanks
		if strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) || args[0] == conntrackName || strings.Contains(text, "@") {
			return // no files, and conntrack has targets of its own
		}
		root := newRoot(time.Now())
		for _, c := range root.Commands() {
			if c.RunE != nil {
				c.RunE = func(*cobra.Command, []string) error { return nil }
			}
		}
		var out, errs bytes.Buffer
		root.SetOut(&out)
		root.SetErr(&errs)
		code := report(context.Background(), &errs, execute(context.Background(), root, args))
		switch {
		case code == codeOK && errs.Len() == 0:
		case code == codeUsage:
			checkLines(t, args, errs.String())
		default:
			t.Fatalf("%q: code %d, %q", args, code, errs.String())
		}
	})
}

// FuzzValues reads values of flags: what they take, they write so that it is the
// same again.
func FuzzValues(f *testing.F) {
	for _, v := range []string{"5s", "0", "quiet", "-1s", "1h2m3.5s", "9223372036854775807ns", "99999999999h", "", "1", "-p tcp", "-s 10.0.0.0/8 -p tcp", "µs", "\x1b"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v string) {
		d := duration{words: map[string]time.Duration{"quiet": -1}}
		if d.Set(v) == nil {
			again := duration{words: d.words}
			if d.value < 0 && v != "quiet" || again.Set(d.String()) != nil || again.value != d.value {
				t.Fatalf("%q is %v, again %v", v, d.value, again.value)
			}
		}
		var m most
		if m.Set(v) == nil && (m < 1 || m.String() != strconv.Itoa(int(m))) {
			t.Fatalf("%q is %d", v, m)
		}
		if strings.Contains(v, "@") {
			return // no files
		}
		all, err := spares{v}.selectors(nil)
		switch {
		case err == nil && (len(all) != 1 || !all[0].Narrows()):
			t.Fatalf("--spare %q is %v", v, all)
		case err != nil && !isUsage(err):
			t.Fatalf("%T %v", err, err)
		case err == nil:
			again, err := selector.Parse(all[0].Args())
			if err != nil || again.String() != all[0].String() {
				t.Fatalf("--spare %q is %v, again %v, %v", v, all[0], again, err)
			}
		}
	})
}

// FuzzRow: whatever flow there is, its row is one line that a terminal can show.
func FuzzRow(f *testing.F) {
	labtest.Seeds(f, "../../conntrack/testdata/flow/*.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		var x conntrack.Flow
		if json.Unmarshal(b, &x) != nil {
			return
		}
		row := string(show.AppendRow(nil, &x, time.Unix(1e9, 0)))
		for _, r := range row {
			if !strconv.IsPrint(r) {
				t.Fatalf("%q in %q", r, row)
			}
		}
		for _, format := range []string{"text", "json", "conntrack"} {
			var out bytes.Buffer
			r := newRenderer(&out, format, time.Unix(1e9, 0))
			if err := r.flow(&x); err != nil {
				t.Fatal(err)
			}
			if err := r.end(); err != nil {
				t.Fatal(err)
			}
			want := 1
			if format == "text" {
				want = 2 // with the heading
			}
			if n := strings.Count(out.String(), "\n"); n != want {
				t.Fatalf("%s: %d lines: %q", format, n, out.String())
			}
		}
	})
}
