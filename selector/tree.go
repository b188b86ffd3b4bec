package selector

import (
	"cmp"
	"slices"
)

// number is an unsigned one of 128 bits.
type number struct{ hi, lo uint64 }

func (n number) compare(m number) int {
	return cmp.Or(cmp.Compare(n.hi, m.hi), cmp.Compare(n.lo, m.lo))
}

func (n number) less(m number) bool {
	return n.hi < m.hi || n.hi == m.hi && n.lo < m.lo
}

// span is an inclusive range of numbers, and whose it is.
type span struct {
	from, to number
	index    int
}

// tree finds the spans that hold a number, also of those that overlap. It is a
// balanced tree in a sorted list: the root is in the middle, and so on.
type tree struct {
	spans []span
	max   []number // highest end below and at each root
}

// build makes the tree of its spans.
func (t *tree) build() {
	slices.SortFunc(t.spans, func(a, b span) int { return a.from.compare(b.from) })
	t.max = make([]number, len(t.spans))
	t.highest(0, len(t.spans))
}

// highest fills in a part of the tree and returns its highest end.
func (t *tree) highest(lo, hi int) number {
	if lo >= hi {
		return number{}
	}
	mid := int(uint(lo+hi) >> 1)
	n := t.spans[mid].to
	for _, m := range [...]number{t.highest(lo, mid), t.highest(mid+1, hi)} {
		if n.less(m) {
			n = m
		}
	}
	t.max[mid] = n
	return n
}

// find calls yield for the spans that hold n, until it returns false, and
// reports whether it never did.
func (t *tree) find(n number, yield func(i int) bool) bool {
	return t.findIn(0, len(t.spans), n, yield)
}

func (t *tree) findIn(lo, hi int, n number, yield func(i int) bool) bool {
	if lo >= hi {
		return true
	}
	mid := int(uint(lo+hi) >> 1)
	if t.max[mid].less(n) {
		return true
	}
	if !t.findIn(lo, mid, n, yield) {
		return false
	}
	s := &t.spans[mid]
	if n.less(s.from) {
		return true
	}
	if !s.to.less(n) && !yield(s.index) {
		return false
	}
	return t.findIn(mid+1, hi, n, yield)
}
