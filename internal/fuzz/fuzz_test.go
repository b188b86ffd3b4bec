package fuzz

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseOutput(t *testing.T) {
	for out, want := range map[string]Result{
		`fuzz: elapsed: 0s, gathering baseline coverage: 0/41 completed
fuzz: elapsed: 0s, gathering baseline coverage: 41/41 completed, now fuzzing with 1 workers
fuzz: elapsed: 3s, execs: 51 (17/sec), new interesting: 2 (total: 43)
fuzz: elapsed: 5s, execs: 1051 (500/sec), new interesting: 13 (total: 54)
PASS
`: {Executions: 1051, Interesting: 13, Seeds: 41},
		`warning: the test binary was not built with coverage instrumentation
fuzz: elapsed: 0s, testing seed corpus: 34/34 completed, now fuzzing with 1 workers
fuzz: elapsed: 1s, execs: 41651 (38605/sec)
PASS
`: {Executions: 41651, Seeds: 34},
		"": {},
	} {
		want.Output = out
		if diff := cmp.Diff(want, parseOutput([]byte(out))); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// TestPage: what is written into a page is read from it, and the rest of it stays.
func TestPage(t *testing.T) {
	path := t.TempDir() + "/page.md"
	if err := os.WriteFile(path, []byte("# Head\n"+begin+"old\n"+end+"tail\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []Row{
		{Target: "a.FuzzA", CPU: 7 * time.Second, Executions: 1 << 40, Interesting: 3, Crashes: 1},
		{Target: "b.FuzzB", CPU: time.Hour, Executions: 2},
	}
	_, page, err := ReadPage(path)
	if err == nil {
		err = WritePage(path, page, []Row{want[1], want[0]})
	}
	if err != nil {
		t.Fatal(err)
	}
	got, page, err := ReadPage(path)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if !strings.HasPrefix(page, "# Head\n") || !strings.HasSuffix(page, "| all | 3607 | 1099511627778 | 3 | 1 |\n"+end+"tail\n") {
		t.Errorf("the page is\n%s", page)
	}
	if WritePage(path, "no marks", want) == nil {
		t.Error("a page without a place for the table is no error")
	}
}
