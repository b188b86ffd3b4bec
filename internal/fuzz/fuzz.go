// Package fuzz runs the module's fuzz targets: all of them for long, by
// "make fuzz", and some for seconds within the tests.
//
// A target is a function FuzzX in a file of tests; what found a fault is kept
// in testdata/fuzz beside it, and tried by every run of the tests.
package fuzz

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// Targets returns the names of the targets in the test binary.
func targets(binary string) ([]string, error) {
	out, err := exec.Command(binary, "-test.list", "^Fuzz").Output()
	if err != nil {
		return nil, fmt.Errorf("list the targets of %s: %w", binary, err)
	}
	var names []string
	for _, name := range bytes.Fields(out) {
		names = append(names, string(name))
	}
	return names, nil
}

// Briefly fuzzes one target of the test's package for a time, each day another.
// It runs the binary of the tests itself, which takes no compiling; that it is
// not guided by what is covered matters little in seconds.
func Briefly(t *testing.T, d time.Duration) {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	names, err := targets(binary)
	if err != nil || len(names) == 0 {
		t.Fatalf("%d targets, %v", len(names), err)
	}
	name := names[time.Now().YearDay()%len(names)]
	r, err := Run(Slice{Binary: binary, Target: name, Time: d, Cache: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %d executions", name, r.Executions)
	if r.Crashed || r.Executions == 0 {
		t.Fatalf("%s, %d executions:\n%s", name, r.Executions, r.Output)
	}
}

// Slice is one run of a target.
type Slice struct {
	Binary string // built by go test -c
	Dir    string // the package's; where inputs that crash are written to
	Target string // name of the function
	Time   time.Duration
	Cache  string   // directory for inputs that reach something new
	Prefix []string // words in front of the command, such as nice -n 15
}

// Result is what came of it.
type Result struct {
	Executions  uint64
	Interesting uint64 // inputs that reached what none had reached before
	Seeds       uint64 // inputs that it began with, those of earlier runs among them
	Crashed     bool
	CPU         time.Duration
	Output      string
}

// Run runs a slice with one worker.
func Run(s Slice) (Result, error) {
	args := append(append([]string{}, s.Prefix...), s.Binary, "-test.run=^$", "-test.fuzz=^"+s.Target+"$",
		"-test.fuzztime="+s.Time.String(), "-test.parallel=1", "-test.fuzzcachedir="+filepath.Join(s.Cache, s.Target))
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = s.Dir
	out, err := cmd.CombinedOutput()
	r := parseOutput(out)
	if cmd.ProcessState == nil {
		return r, fmt.Errorf("run %s: %w", s.Target, err)
	}
	r.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	// What ends while an input is tried at the end of the time is no fault of
	// the target: go.dev/issue/75804.
	late := bytes.Contains(out, []byte("context deadline exceeded")) && !bytes.Contains(out, []byte("Failing input written"))
	r.Crashed = err != nil && !late
	return r, nil
}

// What the fuzzing engine says every three seconds and at the end.
var (
	progress    = regexp.MustCompile(`execs: (\d+)`)
	interesting = regexp.MustCompile(`new interesting: (\d+)`) // only where coverage guides it
	baseline    = regexp.MustCompile(`(?:gathering baseline coverage|testing seed corpus): \d+/(\d+)`)
)

func parseOutput(out []byte) Result {
	return Result{Output: string(out), Executions: last(progress, out), Interesting: last(interesting, out), Seeds: last(baseline, out)}
}

// last returns the number that matched last, 0 if none did.
func last(r *regexp.Regexp, out []byte) uint64 {
	all := r.FindAllSubmatch(out, -1)
	if len(all) == 0 {
		return 0
	}
	return number(all[len(all)-1][1])
}

// number reads digits.
func number(b []byte) uint64 {
	n, _ := strconv.ParseUint(string(b), 10, 64)
	return n
}
