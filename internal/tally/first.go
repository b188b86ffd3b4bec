package tally

import (
	"iter"
	"sort"
)

// First returns the n values that come first, in order, and keeps no more than
// 2n of them meanwhile.
func First[T any](n int, order func(a, b *T) int, all iter.Seq[T]) []T {
	f := NewFirsts(n, order)
	for v := range all {
		f.Add(v)
	}
	return f.Values()
}

// Firsts keeps of the values that it is given those that come first: n, and 2n
// meanwhile.
type Firsts[T any] struct {
	n     int
	order func(a, b *T) int
	kept  []T
	full  bool // kept[n-1] is the last of n that are sorted
}

// NewFirsts returns an empty Firsts.
func NewFirsts[T any](n int, order func(a, b *T) int) *Firsts[T] {
	return &Firsts[T]{n: max(n, 0), order: order}
}

// Wants tells whether Add would keep a value.
func (f *Firsts[T]) Wants(v *T) bool {
	return f.n > 0 && (!f.full || f.order(v, &f.kept[f.n-1]) < 0)
}

// Add takes a value. Of equal ones the first that came is kept.
func (f *Firsts[T]) Add(v T) {
	if !f.Wants(&v) {
		return
	}
	if f.kept = append(f.kept, v); len(f.kept) >= 2*f.n {
		f.sort()
		f.full = true
	}
}

func (f *Firsts[T]) sort() {
	sort.Stable((*inOrder[T])(f)) // slices.SortStableFunc would make a copy for each comparison
	f.kept = f.kept[:min(f.n, len(f.kept))]
}

// inOrder is what is kept, to be sorted.
type inOrder[T any] Firsts[T]

func (s *inOrder[T]) Len() int           { return len(s.kept) }
func (s *inOrder[T]) Less(i, j int) bool { return s.order(&s.kept[i], &s.kept[j]) < 0 }
func (s *inOrder[T]) Swap(i, j int)      { s.kept[i], s.kept[j] = s.kept[j], s.kept[i] }

// Values returns what is kept, in order. It is valid until the next Add.
func (f *Firsts[T]) Values() []T {
	f.sort()
	return f.kept
}
