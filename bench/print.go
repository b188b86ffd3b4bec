//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// cells lays the table out: the first line has the names of the columns.
func (t *table) cells() [][]string {
	if len(t.Columns) > 0 {
		return t.named()
	}
	extra := t.extra()
	rivals := slices.ContainsFunc(t.Rows, func(r row) bool { return r.Who != us })
	head := []string{""}
	if t.By == "" {
		head = append(head, "time")
	}
	head = append(head, "CPU time", "peak memory")
	if rivals {
		head = append(head, "flowcut's "+t.what()+" / its")
	}
	out := [][]string{append(head, extra...)}
	for i := range t.Rows {
		r := &t.Rows[i]
		line := []string{r.Name}
		if t.By == "" {
			line = append(line, seconds(r.spread(wall).median))
		}
		line = append(line, seconds(r.spread(cpu).median), megabytes(r.spread(memory).most))
		if rivals {
			line = append(line, t.share(i))
		}
		for _, name := range extra {
			line = append(line, r.value(name))
		}
		out = append(out, line)
	}
	return out
}

// share is the ratio of the first contender's result to that of row i.
func (t *table) share(i int) string {
	switch r := &t.Rows[i]; {
	case i == 0:
		return "1"
	case r.Who != us:
		return t.ratio(r).String()
	}
	return ""
}

// named lays out the values that the table asks for.
func (t *table) named() [][]string {
	out := [][]string{append([]string{""}, t.Columns...)}
	for i := range t.Rows {
		r := &t.Rows[i]
		line := []string{r.Name}
		for _, name := range t.Columns {
			line = append(line, spreadText(r.values(name)))
		}
		out = append(out, line)
	}
	return out
}

// spreadText writes a spread, one number where all values are the same.
func spreadText(values []float64) string {
	if len(values) == 0 {
		return ""
	}
	s := spreadOf(values)
	if s.least == s.most {
		return figure(s.median)
	}
	return s.String()
}

// what is compared.
func (t *table) what() string {
	if t.By == "" {
		return "time"
	}
	return t.By
}

// extra returns the names of what rows have to tell beyond time and memory.
func (t *table) extra() []string {
	var names []string
	for _, r := range t.Rows {
		for _, m := range r.Rounds {
			for name := range m.Values {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// values returns a value of all rounds that have it.
func (r *row) values(name string) []float64 {
	var values []float64
	for _, m := range r.Rounds {
		if v, ok := m.Values[name]; ok {
			values = append(values, v)
		}
	}
	return values
}

// value returns the median of a value, "" if the row has none.
func (r *row) value(name string) string {
	values := r.values(name)
	if len(values) == 0 {
		return ""
	}
	return figure(spreadOf(values).median)
}

// figure writes a number with about three digits, more if they stand before the point.
func figure(v float64) string {
	switch {
	case v >= 1000:
		return thousands(int(v + 0.5))
	case v >= 100, v == float64(int(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// String returns the spread of a ratio: 0.45 (0.44..0.47).
func (s spread) String() string {
	return fmt.Sprintf("%s (%s..%s)", figure(s.median), figure(s.least), figure(s.most))
}

func megabytes(b float64) string {
	if b < 10e6 {
		return fmt.Sprintf("%.1f MB", b/1e6)
	}
	return fmt.Sprintf("%.0f MB", b/1e6)
}

// heading is the title with the size.
func (t *table) heading() string {
	if t.Size == 0 {
		return t.Title
	}
	return fmt.Sprintf("%s: %s flows", t.Title, thousands(t.Size))
}

// thousands writes n with commas.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// print prints the table for a terminal.
func (t *table) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s, median of %d rounds\n", t.heading(), len(t.Rows[0].Rounds))
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, line := range t.cells() {
		fmt.Fprintln(tab, strings.Join(line, "\t"))
	}
	_ = tab.Flush()
}
