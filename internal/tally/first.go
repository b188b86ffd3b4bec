package tally

import (
	"iter"
	"slices"
)

// First returns the n values that come first, in order, and keeps no more than
// 2n of them meanwhile.
func First[T any](n int, order func(a, b *T) int, all iter.Seq[T]) []T {
	if n <= 0 {
		return nil
	}
	by := func(a, b T) int { return order(&a, &b) }
	var kept []T
	full := false // kept[n-1] is the last of n that are sorted
	for v := range all {
		if full && order(&v, &kept[n-1]) >= 0 {
			continue
		}
		if kept = append(kept, v); len(kept) >= 2*n {
			slices.SortStableFunc(kept, by)
			kept, full = kept[:n], true
		}
	}
	slices.SortStableFunc(kept, by)
	return kept[:min(n, len(kept))]
}
