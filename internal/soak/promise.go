//go:build linux

package soak

import "fmt"

// Promise is one of those that a cut is held to.
type Promise string

// The promises, of which DESIGN and README speak.
const (
	Gone        Promise = "gone"
	Silent      Promise = "silent"
	Final       Promise = "final"
	Told        Promise = "told"
	NobodyElse  Promise = "nobody else"
	NothingLeft Promise = "nothing left"
	Proven      Promise = "proven" // the receipt says what the ends saw
)

// broken are the promises that did not hold, with what was seen. Of each the
// first few sightings are kept, since what happens to one flow happens to many.
type broken struct {
	texts []string
	count map[Promise]int
}

// kept is how many sightings of a promise are told in full.
const kept = 4

// add notes that a promise does not hold.
func (b *broken) add(p Promise, format string, args ...any) {
	if b.count == nil {
		b.count = map[Promise]int{}
	}
	if b.count[p]++; b.count[p] <= kept {
		b.texts = append(b.texts, string(p)+": "+fmt.Sprintf(format, args...))
	}
}

// list returns what was noted.
func (b *broken) list() []string {
	out := append([]string(nil), b.texts...)
	for p, n := range b.count {
		if n > kept {
			out = append(out, fmt.Sprintf("%s: %d times in all", p, n))
		}
	}
	return out
}
