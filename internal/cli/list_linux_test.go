package cli

import (
	"io"
	"testing"

	"flowcut/internal/lab/tabletest"
	"flowcut/selector"
)

// TestListAllocates holds "flowcut list" to memory that does not grow with the table.
func TestListAllocates(t *testing.T) {
	const few, many = 500, 5000
	formats := []string{"text", "json"}
	count := func(format string) float64 {
		return testing.AllocsPerRun(2, func() {
			if err := list(t.Context(), io.Discard, 0, selector.Selector{}, format); err != nil {
				t.Fatal(err)
			}
		})
	}
	tabletest.FillOwn(t, few)
	base := make(map[string]float64)
	for _, f := range formats {
		base[f] = count(f)
	}
	tabletest.FillOwn(t, many)
	for _, f := range formats {
		if n := count(f); n > base[f]+20 { // the scheduler keeps a few things of its own
			t.Errorf("%s: %v allocations for %d flows, %v for %d", f, base[f], few, n, many)
		}
	}
}
