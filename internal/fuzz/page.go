package fuzz

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Where the table stands in the page.
const (
	begin = "<!-- fuzz -->\n"
	end   = "<!-- /fuzz -->\n"
)

// Row is what one target has done.
type Row struct {
	Target      string // with its package
	CPU         time.Duration
	Executions  uint64
	Interesting uint64
	Crashes     uint64
}

var rowLine = regexp.MustCompile("(?m)^\\| `(\\S+)` \\| (\\d+) \\| (\\d+) \\| (\\d+) \\| (\\d+) \\|$")

// ReadPage returns the rows that are in a page, and the page.
func ReadPage(path string) (rows []Row, page string, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, "", err
	}
	for _, m := range rowLine.FindAllSubmatch(b, -1) {
		rows = append(rows, Row{
			Target: string(m[1]), CPU: time.Duration(number(m[2])) * time.Second,
			Executions: number(m[3]), Interesting: number(m[4]), Crashes: number(m[5]),
		})
	}
	return rows, string(b), nil
}

// WritePage puts a table of rows between the marks of a page.
func WritePage(path, page string, rows []Row) error {
	before, rest, ok := strings.Cut(page, begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return fmt.Errorf("%s: no place for the table: %q and %q are not there", path, begin, end)
	}
	return os.WriteFile(path, []byte(before+begin+Table(rows)+end+after), 0o644)
}

// Table returns the rows as a table in Markdown, sorted by target, with their sum.
func Table(rows []Row) string {
	slices.SortFunc(rows, func(a, b Row) int { return strings.Compare(a.Target, b.Target) })
	var b strings.Builder
	b.WriteString("| target | CPU seconds | executions | new inputs | crashes |\n| --- | ---: | ---: | ---: | ---: |\n")
	var sum Row
	for _, r := range rows {
		line(&b, "`"+r.Target+"`", r)
		sum.CPU += r.CPU
		sum.Executions += r.Executions
		sum.Interesting += r.Interesting
		sum.Crashes += r.Crashes
	}
	line(&b, "all", sum)
	return b.String()
}

func line(b *strings.Builder, name string, r Row) {
	fmt.Fprintf(b, "| %s | %.0f | %d | %d | %d |\n", name, r.CPU.Seconds(), r.Executions, r.Interesting, r.Crashes)
}
