//go:build linux

package kernels

import (
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"flowcut/internal/kernels/plan"
)

// Result is what came of a scenario on a kernel.
type Result struct {
	Scenario string
	Tests    int // that passed, without subtests
	Took     time.Duration
	Failure  string // "" if all passed
}

// String returns a cell of the table.
func (r Result) String() string {
	if r.Failure == "" {
		return fmt.Sprintf("passed (%d tests, %.0f s)", r.Tests, r.Took.Seconds())
	}
	return "FAILED: " + r.Failure
}

// verdict is how a test ended, as the testing package writes it.
var verdict = regexp.MustCompile(`^( *)--- (PASS|FAIL|SKIP): (\S+) \(`)

// read makes a result of what a guest has printed. What it has not come to is a
// failure.
func (s Scenario) read(output string) Result {
	r := Result{Scenario: s.Name}
	_, text, begun := strings.Cut(output, plan.Begin+s.Name+"\n")
	if !begun {
		r.Failure = "not run"
		return r
	}
	text, end, ended := strings.Cut(text, plan.End+s.Name+" ")
	var failed []string
	for line := range strings.Lines(text) {
		found := verdict.FindStringSubmatch(line)
		switch {
		case found == nil:
		case found[2] != "PASS":
			failed = append(failed, found[3])
		case found[1] == "":
			r.Tests++
		}
	}
	line, _, _ := strings.Cut(end, "\n")
	code, seconds, _ := strings.Cut(line, " ")
	if took, err := strconv.ParseFloat(seconds, 64); err == nil {
		r.Took = time.Duration(took * float64(time.Second))
	}
	switch {
	case !ended:
		r.Failure = "the kernel stopped in the middle"
	case len(failed) > 0:
		r.Failure = strings.Join(leaves(failed), ", ")
	case code != "0":
		r.Failure = "exit code " + code
	case r.Tests != len(s.Tests):
		r.Failure = fmt.Sprintf("%d of %d tests ran", r.Tests, len(s.Tests))
	}
	return r
}

// leaves returns the names that are not those of tests with subtests in the
// list: what failed, without what failed for it.
func leaves(names []string) (out []string) {
next:
	for i, name := range names {
		for j, other := range names {
			if i != j && strings.HasPrefix(other, name+"/") {
				continue next
			}
		}
		out = append(out, name)
	}
	return out
}

// Table is the results of each kernel.
type Table struct {
	Kernels []*Kernel
	Results [][]Result
}

// Passed tells whether everything passed on all kernels.
func (t *Table) Passed() bool {
	for _, results := range t.Results {
		for _, r := range results {
			if r.Failure != "" {
				return false
			}
		}
	}
	return len(t.Results) > 0
}

// Write writes the table as text, a scenario a line.
func (t *Table) Write(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	t.rows(func(cells []string) { fmt.Fprintln(tw, strings.Join(cells, "\t")) })
	return tw.Flush()
}

// Markdown returns the table for docs/kernels.md.
func (t *Table) Markdown() string {
	var b strings.Builder
	line := 0
	t.rows(func(cells []string) {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
		if line == 0 {
			b.WriteString(strings.Repeat("| --- ", len(cells)) + "|\n")
		}
		line++
	})
	return b.String()
}

func (t *Table) rows(row func(cells []string)) {
	head := []string{"scenario"}
	for _, k := range t.Kernels {
		head = append(head, k.Release)
	}
	row(head)
	for i := range t.Results[0] {
		cells := []string{t.Results[0][i].Scenario}
		for _, results := range t.Results {
			cells = append(cells, results[i].String())
		}
		row(cells)
	}
}
