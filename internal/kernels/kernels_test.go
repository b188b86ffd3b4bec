//go:build linux

package kernels

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What we write is what cpio(1) reads; the kernel's own reader is tried by make
// kernels.
func TestArchive(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	if err := os.WriteFile(source, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	a := newArchive(&b)
	for _, err := range []error{
		a.text("a/b/text", "words"), a.file("/usr/bin/program", source), a.link("bin", "usr/bin"), a.text("a/b/text", "others"), a.dir("empty"), a.close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	to := filepath.Join(dir, "out")
	if err := os.Mkdir(to, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cpio", "--extract", "--no-preserve-owner", "--quiet")
	cmd.Dir, cmd.Stdin = to, &b
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	for path, want := range map[string]string{"a/b/text": "words", "bin/program": "#!/bin/sh\n"} {
		if got, err := os.ReadFile(filepath.Join(to, path)); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v", path, got, err)
		}
	}
	for path, want := range map[string]os.FileMode{"usr/bin/program": 0o755, "a/b/text": 0o644, "empty": os.ModeDir | 0o755, "a": os.ModeDir | 0o755} {
		if st, err := os.Stat(filepath.Join(to, path)); err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v", path, st, err)
		}
	}
}

const output = `@@begin good
=== RUN   TestA
=== RUN   TestA/x
--- PASS: TestA (0.10s)
    --- PASS: TestA/x (0.05s)
--- PASS: TestB (0.20s)
PASS
@@end good 0 1.5
@@begin bad
=== RUN   TestA
--- FAIL: TestA (0.10s)
    --- PASS: TestA/x (0.05s)
    --- FAIL: TestA/y (0.05s)
--- PASS: TestB (0.20s)
FAIL
@@end bad 1 2.0
@@begin skipped
--- PASS: TestA (0.10s)
--- SKIP: TestB (0.10s)
PASS
@@end skipped 0 2.0
@@begin few
--- PASS: TestA (0.10s)
PASS
@@end few 0 2.0
@@begin crashed
--- PASS: TestA (0.10s)
--- PASS: TestB (0.10s)
panic: nil
@@end crashed 2 2.0
@@begin cut-off
--- PASS: TestA (0.10s)
--- PASS: TestB (0.10s)
`

func TestRead(t *testing.T) {
	var scenarios []Scenario
	for _, name := range []string{"good", "bad", "skipped", "few", "crashed", "cut-off", "never"} {
		scenarios = append(scenarios, Scenario{name, "cut", []string{"TestA", "TestB"}})
	}
	dir := t.TempDir()
	if err := keep(dir, output, scenarios); err != nil {
		t.Fatal(err)
	}
	// Another run of one of them leaves the others as they are.
	if err := errors.Join(forget(dir, scenarios[:1]), keep(dir, output, scenarios[:1])); err != nil {
		t.Fatal(err)
	}
	results, err := recall(dir, scenarios)
	if err != nil {
		t.Fatal(err)
	}
	want := []Result{
		{"good", 2, 1500 * time.Millisecond, ""},
		{"bad", 1, 2 * time.Second, "TestA/y"},
		{"skipped", 1, 2 * time.Second, "TestB"},
		{"few", 1, 2 * time.Second, "1 of 2 tests ran"},
		{"crashed", 2, 2 * time.Second, "exit code 2"},
		{"cut-off", 2, 0, "the kernel stopped in the middle"},
		{"never", 0, 0, "not run"},
	}
	if diff := cmp.Diff(want, results); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	table := &Table{Kernels: []*Kernel{{Release: "6.1"}, {Release: "7.3"}}, Results: [][]Result{results[:1], results[:1]}}
	if !table.Passed() {
		t.Error("not passed")
	}
	table.Results[1] = results[1:2]
	if table.Passed() || (&Table{}).Passed() {
		t.Error("passed")
	}
	const page = "| scenario | 6.1 | 7.3 |\n| --- | --- | --- |\n| good | passed (2 tests, 2 s) | FAILED: TestA/y |\n"
	if diff := cmp.Diff(page, table.Markdown()); diff != "" {
		t.Errorf("page (-want +got):\n%s", diff)
	}
}

func TestBetween(t *testing.T) {
	got, err := between("head\n"+docsBegin+"old\n"+docsEnd+"tail\n", "new\n")
	if want := "head\n" + docsBegin + "new\n" + docsEnd + "tail\n"; err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	for _, page := range []string{"", docsBegin, docsEnd + docsBegin} {
		if _, err := between(page, "new"); err == nil {
			t.Errorf("%q is no error", page)
		}
	}
}

// Each scenario names tests that exist, each once.
func TestScenarios(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Scenarios {
		if seen[s.Name] || strings.ContainsAny(s.Name, " \n,") {
			t.Errorf("scenario %q: twice, or no word", s.Name)
		}
		seen[s.Name] = true
		files, err := filepath.Glob(filepath.Join("../..", s.Package, "*_test.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("tests of %s: %v", s.Package, err)
		}
		var text []byte
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			text = append(text, b...)
		}
		for _, test := range s.Tests {
			if !bytes.Contains(text, []byte("\nfunc "+test+"(t ")) || seen[s.Package+test] {
				t.Errorf("%s: %s is not there, or twice", s.Name, test)
			}
			seen[s.Package+test] = true
		}
	}
}
