package conntrack

import (
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tool runs conntrack(8) on this thread's namespace and returns the fields of
// each line.
func tool(t testing.TB, args ...string) []string {
	t.Helper()
	out, err := exec.Command("conntrack", args...).Output()
	if err != nil {
		t.Fatalf("conntrack %v: %v", args, err)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}

// TestCPUStats makes entries, on whichever CPUs, and compares the counters with
// that and with conntrack(8).
func TestCPUStats(t *testing.T) {
	c := dialTest(t)
	fill(t, c, 123)
	all, err := c.CPUStats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var insert uint32
	var lines []string
	for _, s := range all {
		insert += s.Insert
		lines = append(lines, fmt.Sprintf("cpu=%d found=%d invalid=%d insert=%d insert_failed=%d drop=%d early_drop=%d "+
			"error=%d search_restart=%d clash_resolve=%d chaintoolong=%d", s.CPU, s.Found, s.Invalid, s.Insert,
			s.InsertFailed, s.Drop, s.EarlyDrop, s.Error, s.SearchRestart, s.ClashResolve, s.ChainTooLong))
	}
	if insert != 123 || len(all) < runtime.NumCPU() {
		t.Errorf("%d inserted by %d CPUs, want 123 by at least %d", insert, len(all), runtime.NumCPU())
	}
	if diff := cmp.Diff(tool(t, "-S"), lines); diff != "" {
		t.Errorf("conntrack(8) against ours (-want +got):\n%s", diff)
	}
}

func TestExpectCPUStats(t *testing.T) {
	c := dialTest(t)
	keys := fillExpectations(t, c, 9)
	if n, err := c.DeleteExpectations(t.Context(), keys[:4], nil); n != 4 || err != nil {
		t.Fatalf("deleted %d, %v", n, err)
	}
	all, err := c.ExpectCPUStats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var sum ExpectCPUStats
	var lines []string
	for _, s := range all {
		sum.New, sum.Create, sum.Delete = sum.New+s.New, sum.Create+s.Create, sum.Delete+s.Delete
		lines = append(lines, fmt.Sprintf("cpu=%d expect_new=%d expect_create=%d expect_delete=%d", s.CPU, s.New, s.Create, s.Delete))
	}
	if sum != (ExpectCPUStats{0, 0, 9, 4}) || len(all) < runtime.NumCPU() {
		t.Errorf("%+v of %d CPUs, want 9 created and 4 deleted", sum, len(all))
	}
	if diff := cmp.Diff(tool(t, "-S", "expect"), lines); diff != "" {
		t.Errorf("conntrack(8) against ours (-want +got):\n%s", diff)
	}
}
