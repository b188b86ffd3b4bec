//go:build linux

package labtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Build builds the program as the Makefile does, in a directory of the test.
func Build(t testing.TB) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "flowcut")
	if err := build(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// Main runs the tests of a package with the program built for all of them, whose
// path it writes to program first. It is for TestMain.
func Main(m *testing.M, program *string) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "flowcut")
		if err == nil {
			defer func() { _ = os.RemoveAll(dir) }()
			*program = filepath.Join(dir, "flowcut")
			err = build(*program)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

func build(path string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, "flowcut/cmd/flowcut")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	return nil
}

// Seeds adds the files that a pattern names to a fuzz target's.
func Seeds(f *testing.F, pattern string) {
	f.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		f.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}
