package selector

import (
	"cmp"
	"net/netip"
	"slices"

	"flowcut/conntrack"
)

// index finds the selectors of a list that may match a flow, by an address, a
// port or the id that each of them asks for.
type index struct {
	list  []Selector
	trees [numValues]tree
	ends  []Addrs // what a selector in the tree of ends is found by
	rest  []int   // selectors that ask for nothing of that kind
}

// Values of a flow that selectors are found by. An end is any address of the flow.
const (
	byOrigSrc = iota
	byOrigDst
	byReplySrc
	byReplyDst
	byOrigSrcPort
	byOrigDstPort
	byReplySrcPort
	byReplyDstPort
	byID
	byEnd
	numValues
)

// newIndex makes the index of a list, which must not change any more. Of what a
// selector can be found by, that is taken which the fewest others ask for.
func newIndex(list []Selector) *index {
	x := &index{list: list, ends: make([]Addrs, len(list))}
	others := make(map[ask]int)
	var all []wanted
	for i := range list {
		all = list[i].wanted(all[:0])
		for k := range all {
			others[all[k].ask()]++
		}
	}
	for i := range list {
		all = list[i].wanted(all[:0])
		if len(all) == 0 {
			x.rest = append(x.rest, i)
			continue
		}
		x.add(i, slices.MinFunc(all, func(a, b wanted) int { return cmp.Compare(others[a.ask()], others[b.ask()]) }))
	}
	for v := range x.trees {
		x.trees[v].build()
	}
	return x
}

func (x *index) add(i int, w wanted) {
	if w.value == byEnd {
		x.ends[i] = Addrs{Set: true, Ranges: w.addrs}
	}
	t := &x.trees[w.value]
	for k := range w.len() {
		s := w.span(k)
		s.index = i
		t.spans = append(t.spans, s)
	}
}

// each calls yield for the selectors that match, each once, until it returns false.
func (x *index) each(f *conntrack.Flow, yield func(i int) bool) {
	try := func(i int) bool { return !x.list[i].Match(f) || yield(i) }
	for _, i := range x.rest {
		if !try(i) {
			return
		}
	}
	values := [...]number{
		addrNumber(f.Orig.Src), addrNumber(f.Orig.Dst), addrNumber(f.Reply.Src), addrNumber(f.Reply.Dst),
		{lo: uint64(f.Orig.SrcPort)}, {lo: uint64(f.Orig.DstPort)}, {lo: uint64(f.Reply.SrcPort)}, {lo: uint64(f.Reply.DstPort)},
		{lo: uint64(f.ID)},
	}
	for v, n := range values {
		if !x.trees[v].find(n, try) {
			return
		}
	}
	addrs := [...]netip.Addr{f.Orig.Src, f.Orig.Dst, f.Reply.Src, f.Reply.Dst}
	for k := range addrs {
		once := func(i int) bool {
			return slices.ContainsFunc(addrs[:k], x.ends[i].contains) || try(i)
		}
		if !x.trees[byEnd].find(values[k], once) {
			return
		}
	}
}
