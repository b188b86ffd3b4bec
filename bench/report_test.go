//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What is written by hand stays when the report is written again, and what is
// generated is there once.
func TestReportKeepsWords(t *testing.T) {
	r := &results{}
	path := filepath.Join(t.TempDir(), "page.md")
	for _, wall := range []time.Duration{time.Second, 2 * time.Second} {
		r.add(&table{Part: "list", Work: "list", Title: "List", Size: 1000, Rows: []row{
			{Name: "ours", Who: us, Rounds: []measure{{Wall: wall}}},
			{Name: "theirs", Who: tool, Rounds: []measure{{Wall: 4 * time.Second}}},
		}})
		if err := r.writeReport(path); err != nil {
			t.Fatal(err)
		}
		page, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(page, "By hand.\n"...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int{"By hand.\n": 2, "| ours |": 1, "0.50 (0.50..0.50)": 1, "<!-- begin list -->": 1} {
		if got := strings.Count(string(page), text); got != want {
			t.Errorf("%q is there %d times, not %d:\n%s", text, got, want, page)
		}
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   spread
	}{
		{[]float64{3}, spread{3, 3, 3}},
		{[]float64{3, 1}, spread{2, 1, 3}},
		{[]float64{9, 1, 2}, spread{2, 1, 9}},
	} {
		if got := spreadOf(c.values); got != c.want {
			t.Errorf("spread of %v: %+v, want %+v", c.values, got, c.want)
		}
	}
}

// A table that names its columns shows these, with their spread, and how many
// times the first row's median each value is.
func TestNamedColumns(t *testing.T) {
	values := func(v ...float64) (rounds []measure) {
		for _, x := range v {
			rounds = append(rounds, measure{Values: map[string]float64{"last": x, "hidden": 7}})
		}
		return rounds
	}
	tab := &table{Columns: []string{"last", "ratio"}, Rows: []row{{Name: "few", Rounds: values(20, 10, 30)}, {Name: "many", Rounds: values(40, 40)}}}
	tab.relate(func(m *measure) float64 { return m.Values["last"] }, "ratio")
	want := "|  | last | ratio |\n| --- | ---: | ---: |\n| few | 20 (10..30) | 1 (0.50..1.50) |\n| many | 40 | 2 |\n"
	if got := tab.markdown(); got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
}
