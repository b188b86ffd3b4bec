//go:build linux

package main

import (
	_ "embed" // template.md
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

//go:embed template.md
var template string

// writeReport writes what is measured into the page at path, between its
// markers, and leaves the rest of it alone.
func (r *results) writeReport(path string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = []byte(template), nil
	}
	if err != nil {
		return err
	}
	page := replace(string(text), "env", "Measured on", r.environments())
	for _, p := range parts {
		if section := r.section(p.name); section != "" {
			page = replace(page, p.name, p.title, section)
		}
	}
	return os.WriteFile(path, []byte(page), 0o644)
}

// replace puts section between the markers called name. Where there are none,
// it adds them at the end of the page, below a title.
func replace(page, name, title, section string) string {
	begin, end := fmt.Sprintf("<!-- begin %s -->\n", name), fmt.Sprintf("<!-- end %s -->\n", name)
	before, rest, ok := strings.Cut(page, begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		before, after = page+"\n## "+title+"\n\n", ""
	}
	return before + begin + section + end + after
}

// runs returns the environments of all tables, each once.
func (r *results) runs() []env {
	var runs []env
	for _, t := range r.Tables {
		if !slices.Contains(runs, t.Env) {
			runs = append(runs, t.Env)
		}
	}
	return runs
}

// environments says what was measured on what.
func (r *results) environments() string {
	var b strings.Builder
	for i, e := range r.runs() {
		fmt.Fprintf(&b, "Run %d, %s: Linux %s, %d cores of %s, %.0f GB of memory; flowcut %s, built by %s; %s.\n\n    %s\n\n",
			i+1, e.Date, e.Kernel, e.Cores, e.CPU, float64(e.Memory)/1e9, e.Flowcut, e.Go, e.Conntrack, e.Command)
	}
	return b.String()
}

// section lays out the tables of a part.
func (r *results) section(part string) string {
	var b strings.Builder
	runs := r.runs()
	for _, t := range r.Tables {
		if t.Part != part {
			continue
		}
		fmt.Fprintf(&b, "### %s\n\n%s\n", t.heading(), t.markdown())
		fmt.Fprintf(&b, "Medians of %d rounds of run %d; in brackets the least and the greatest.", len(t.Rows[0].Rounds), slices.Index(runs, t.Env)+1)
		if t.Note != "" {
			b.WriteString(" " + t.Note)
		}
		b.WriteString("\n\n")
	}
	return b.String()
}

// markdown lays the table out for a page.
func (t *table) markdown() string {
	var b strings.Builder
	for i, line := range t.cells() {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(line, " | "))
		if i == 0 {
			fmt.Fprintf(&b, "| --- |%s\n", strings.Repeat(" ---: |", len(line)-1))
		}
	}
	return b.String()
}
