package selector

import (
	"cmp"
	"slices"

	"flowcut/conntrack"
)

// maxMerges bounds how often all kinds of merging are tried one after the other.
// Two or three are enough but for lists that are made to need more.
const maxMerges = 8

// merge returns few selectors that mean what the list means: those that differ
// in the items of one condition alone become one. The list stays as it is.
func merge(list []Selector) []Selector {
	list = withoutEmpty(list)
	var key []byte
	for i := range list {
		key = list[i].appendKey(key[:0])
		if !slices.ContainsFunc(key, func(b byte) bool { return b != 0 }) { // no condition
			return list[i : i+1 : i+1]
		}
	}
	for range maxMerges {
		n := len(list)
		for i := range joiners {
			list = mergeBy(list, &joiners[i])
		}
		if len(list) == n {
			break
		}
	}
	return list
}

// withoutEmpty leaves out selectors that match nothing, but one if all are so.
func withoutEmpty(list []Selector) []Selector {
	empty := func(i int) bool {
		return !list[i].admits(conntrack.FamilyIPv4) && !list[i].admits(conntrack.FamilyIPv6)
	}
	for i := range list {
		if !empty(i) {
			continue
		}
		out := slices.Clone(list[:i])
		for k := range list[i:] {
			if !empty(i + k) {
				out = append(out, list[i+k])
			}
		}
		if len(out) == 0 {
			return list[:1:1]
		}
		return out
	}
	return list
}

// joiner joins selectors that differ in one condition alone, one that holds if
// any of its items does.
type joiner struct {
	can  func(s *Selector) bool                       // the condition is there, and so are its items
	drop func(s *Selector)                            // takes the items out
	join func(to *Selector, all []Selector, of []int) // gives to the items of some of all
}

// joiners are the conditions that can be joined. A negated one cannot: it holds
// if none of its items does.
var joiners = []joiner{
	addrJoiner(func(s *Selector) *Addrs { return &s.Host }),
	addrJoiner(func(s *Selector) *Addrs { return &s.OrigSrc }),
	addrJoiner(func(s *Selector) *Addrs { return &s.OrigDst }),
	addrJoiner(func(s *Selector) *Addrs { return &s.ReplySrc }),
	addrJoiner(func(s *Selector) *Addrs { return &s.ReplyDst }),
	natJoiner(func(s *Selector) *NAT { return &s.DstNAT }),
	natJoiner(func(s *Selector) *NAT { return &s.SrcNAT }),
	natJoiner(func(s *Selector) *NAT { return &s.AnyNAT }),
	portJoiner(func(s *Selector) *Ports { return &s.OrigSrcPort }),
	portJoiner(func(s *Selector) *Ports { return &s.OrigDstPort }),
	portJoiner(func(s *Selector) *Ports { return &s.ReplySrcPort }),
	portJoiner(func(s *Selector) *Ports { return &s.ReplyDstPort }),
	zoneJoiner(func(s *Selector) *Zones { return &s.Zone }),
	zoneJoiner(func(s *Selector) *Zones { return &s.OrigZone }),
	zoneJoiner(func(s *Selector) *Zones { return &s.ReplyZone }),
	listJoiner(func(s *Selector) (bool, *[]uint32) { return s.ID.Set && !s.ID.Negated, &s.ID.List },
		func(vs []uint32) []uint32 { return set(vs, cmp.Compare) }),
	listJoiner(func(s *Selector) (bool, *[]MaskedMark) { return s.Mark.Set && !s.Mark.Negated, &s.Mark.List },
		func(vs []MaskedMark) []MaskedMark { return set(vs, compareMarks) }),
	listJoiner(func(s *Selector) (bool, *[]conntrack.TCPState) { return s.State.Set && !s.State.Negated, &s.State.List },
		func(vs []conntrack.TCPState) []conntrack.TCPState { return set(vs, cmp.Compare) }),
	listJoiner(func(s *Selector) (bool, *[]conntrack.Proto) { return s.Proto.Set && !s.Proto.Negated, &s.Proto.List },
		func(vs []conntrack.Proto) []conntrack.Proto { return set(vs, cmp.Compare) }),
	{ // equal ones
		can:  func(*Selector) bool { return true },
		drop: func(*Selector) {},
		join: func(*Selector, []Selector, []int) {},
	},
}

// listJoiner joins a condition given where its items are, if it is a positive
// one, and how they are put in order.
func listJoiner[T any](items func(*Selector) (positive bool, list *[]T), order func([]T) []T) joiner {
	return joiner{
		can: func(s *Selector) bool {
			positive, _ := items(s)
			return positive
		},
		drop: func(s *Selector) {
			_, list := items(s)
			*list = nil
		},
		join: func(to *Selector, all []Selector, of []int) {
			var union []T
			for _, i := range of {
				_, list := items(&all[i])
				union = append(union, *list...)
			}
			_, list := items(to)
			*list = order(union)
		},
	}
}

func addrJoiner(field func(*Selector) *Addrs) joiner {
	return listJoiner(func(s *Selector) (bool, *[]AddrRange) {
		l := field(s)
		return l.Set && !l.Negated, &l.Ranges
	}, mergeRanges)
}

func portJoiner(field func(*Selector) *Ports) joiner {
	return listJoiner(func(s *Selector) (bool, *[]PortRange) {
		l := field(s)
		return l.Set && !l.Negated, &l.Ranges
	}, mergePorts)
}

// natJoiner: no target is any target, which is another condition.
func natJoiner(field func(*Selector) *NAT) joiner {
	return listJoiner(func(s *Selector) (bool, *[]NATTarget) {
		n := field(s)
		return n.Set && !n.Negated && len(n.Targets) > 0, &n.Targets
	}, mergeTargets)
}

func zoneJoiner(field func(*Selector) *Zones) joiner {
	return listJoiner(func(s *Selector) (bool, *[]conntrack.Zone) {
		l := field(s)
		return l.Set && !l.Negated, &l.List
	}, func(vs []conntrack.Zone) []conntrack.Zone { return set(vs, cmp.Compare) })
}

// mergeBy joins those of a list that are equal but for the joiner's condition.
// It returns the list itself where there are none.
func mergeBy(list []Selector, j *joiner) []Selector {
	var (
		first  = make(map[string]int) // by the key of what the members of a group share
		groups = make(map[int][]int)  // those of several, by the first
		joined = make([]bool, len(list))
		key    []byte
		shared Selector
	)
	n := len(list)
	for i := range list {
		if !j.can(&list[i]) {
			continue
		}
		shared = list[i]
		j.drop(&shared)
		key = shared.appendKey(key[:0])
		to, found := first[string(key)]
		if !found {
			first[string(key)] = i
			continue
		}
		groups[to] = append(groups[to], i)
		joined[i] = true
		n--
	}
	if n == len(list) {
		return list
	}
	out := make([]Selector, 0, n)
	for i := range list {
		if joined[i] {
			continue
		}
		out = append(out, list[i])
		if others := groups[i]; others != nil {
			j.join(&out[len(out)-1], list, append(others, i))
		}
	}
	return out
}
