//go:build linux

package kernels

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"flowcut/internal/kernels/plan"
)

// What a scenario has said the last time that it was run on a kernel is in a file
// of its own, so that a kernel can be gone through in pieces.

func said(dir string, s Scenario) string { return filepath.Join(dir, "said", s.Name+".log") }

// forget removes what the scenarios have said.
func forget(dir string, scenarios []Scenario) error {
	for _, s := range scenarios {
		if err := os.Remove(said(dir, s)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// keep takes what each scenario has said out of a guest's output.
func keep(dir, output string, scenarios []Scenario) error {
	if err := os.MkdirAll(filepath.Join(dir, "said"), 0o755); err != nil {
		return err
	}
	for _, s := range scenarios {
		begin := plan.Begin + s.Name + "\n"
		_, text, begun := strings.Cut(output, begin)
		if !begun {
			continue
		}
		text, _, _ = strings.Cut(text, plan.Begin)
		if err := os.WriteFile(said(dir, s), []byte(begin+text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// recall makes results of what the scenarios have said.
func recall(dir string, scenarios []Scenario) (results []Result, err error) {
	for _, s := range scenarios {
		text, err := os.ReadFile(said(dir, s))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		results = append(results, s.read(string(text)))
	}
	return results, nil
}
