package demo

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// row is one line of the table: what was measured, for each method.
type row struct {
	what string
	of   func(r result) string
}

// rows of the table, in order.
func rows() []row {
	count := func(n func(r result) int) func(result) string {
		return func(r result) string { return strconv.Itoa(n(r)) }
	}
	ends := streams + idles
	return []row{
		{"", func(r result) string { return r.name }},
		{"entries deleted", func(r result) string { return r.deleted }},
		{"entries at the end", count(func(r result) int { return r.entries })},
		{"bytes after the cut", func(r result) string { return size(r.bytes) }},
		{"time to silence", result.silence},
		{"came back", result.returned},
		{fmt.Sprintf("clients told, of %d", ends), count(func(r result) int { return r.clientsTold })},
		{fmt.Sprintf("servers told, of %d", ends), count(func(r result) int { return r.serversTold })},
		{fmt.Sprintf("idle ones still open, of %d", idles), count(func(r result) int { return r.idleOpen })},
		{"bystanders: broken", func(r result) string { return fmt.Sprintf("%d of %d", r.broken, r.bystanders) }},
		{"bystanders: datagrams lost", func(r result) string { return fmt.Sprintf("%d of %d", r.lost, r.datagrams) }},
	}
}

// table prints a column a method.
func table(w io.Writer, results []result) error {
	var text strings.Builder
	t := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	for _, line := range rows() {
		cells := []string{line.what}
		for _, r := range results {
			cells = append(cells, line.of(r))
		}
		fmt.Fprintln(t, strings.Join(cells, "\t")) //nolint:errcheck // into memory
	}
	if err := t.Flush(); err != nil {
		return err
	}
	text.WriteByte('\n')
	for _, r := range results {
		fmt.Fprintf(&text, "%-10s %s\n", r.name, r.does)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// silence says when the downloads fell silent for good.
func (r result) silence() string {
	if !r.silent {
		return "never"
	}
	return r.last.Round(time.Millisecond / 10).String()
}

func (r result) returned() string {
	if r.silent {
		return "no"
	}
	return "yes, " + gbit(r.rate)
}

func gbit(rate float64) string { return fmt.Sprintf("%.1f Gbit/s", rate/1e9) }

// size writes a number of bytes for reading.
func size(n uint64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}
