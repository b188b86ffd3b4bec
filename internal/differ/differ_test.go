//go:build linux

package differ

import (
	"flag"
	"os"
	"strings"
	"testing"
	"time"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "seed of the first case; 0: from the clock")
	countFlag = flag.Int("count", 3000, "how many cases")
	refFlag   = flag.String("reference", "conntrack", "the program that is held to be right")
)

// compare runs cases and reports.
func compare(t *testing.T, o Options) *Report {
	t.Helper()
	if o.Seed == 0 {
		o.Seed = uint64(time.Now().Unix()) * 1000
	}
	t.Logf("seed %d", o.Seed)
	began := time.Now()
	rep, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v: %v", time.Since(began).Round(time.Millisecond), rep)
	for reason, n := range rep.Known {
		t.Logf("%5d %s", n, reason)
	}
	return rep
}

// The reference does what the reference does: nothing that is compared varies.
func TestReferenceAgainstItself(t *testing.T) {
	path := reference(t)
	compare(t, Options{
		Programs: Programs{path, path}, Seed: *seedFlag, Count: *countFlag, Strict: true,
		Each: func(r *Result) {
			if len(r.Differences) > 0 {
				t.Errorf("%v", r)
			}
		},
	})
}

// reference is the path of the reference.
func reference(t *testing.T) string {
	t.Helper()
	if strings.Contains(*refFlag, "/") {
		return *refFlag
	}
	for _, dir := range []string{"/usr/sbin/", "/usr/bin/", "/sbin/"} {
		if _, err := os.Stat(dir + *refFlag); err == nil {
			return dir + *refFlag
		}
	}
	t.Fatalf("there is no %s to compare with", *refFlag)
	return ""
}
