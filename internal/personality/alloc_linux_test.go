package personality

import (
	"context"
	"io"
	"testing"

	"flowcut/internal/lab/tabletest"
)

// TestListAllocates holds -L to memory that does not grow with the table.
func TestListAllocates(t *testing.T) {
	const few, many = 500, 5000
	formats := [][]string{nil, {"-o", "extended,id,ktimestamp"}, {"-o", "save"}, {"-o", "xml"}}
	count := func(args []string) float64 {
		return testing.AllocsPerRun(2, func() {
			args := append([]string{"-L"}, args...)
			if code := Run(context.Background(), Config{Args: args, Stdout: io.Discard, Stderr: io.Discard}); code != 0 {
				t.Fatalf("code %d", code)
			}
		})
	}
	tabletest.FillOwn(t, few)
	var base []float64
	for _, f := range formats {
		base = append(base, count(f))
	}
	tabletest.FillOwn(t, many)
	for i, f := range formats {
		if n := count(f); n > base[i]+20 { // the scheduler keeps a few things of its own
			t.Errorf("%q: %v allocations for %d flows, %v for %d", f, base[i], few, n, many)
		}
	}
}
