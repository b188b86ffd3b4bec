//go:build linux

package kernels

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// What stands between these lines of a page is written by WriteDocs.
const (
	docsBegin = "<!-- make kernels: begin -->\n"
	docsEnd   = "<!-- make kernels: end -->\n"
)

// WriteDocs puts the table into a page, between its markers.
func (t *Table) WriteDocs(path string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text, err := between(string(page), t.section(time.Now()))
	if err != nil {
		return fmt.Errorf("kernels: %s: %w", path, err)
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

func (t *Table) section(now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Run on %s, under QEMU without KVM:\n\n", now.Format(time.DateOnly))
	for _, k := range t.Kernels {
		fmt.Fprintf(&b, "- Linux %s, Debian's package %s\n", k.Release, k.Package)
	}
	return b.String() + "\n" + t.Markdown()
}

func between(page, section string) (string, error) {
	before, rest, begins := strings.Cut(page, docsBegin)
	_, after, ends := strings.Cut(rest, docsEnd)
	if !begins || !ends {
		return "", fmt.Errorf("no lines %q and %q", strings.TrimSpace(docsBegin), strings.TrimSpace(docsEnd))
	}
	return before + docsBegin + section + docsEnd + after, nil
}
