package selector

import (
	"slices"

	"flowcut/conntrack"
)

// Zones is a list of zones.
type Zones struct {
	Set     bool
	Negated bool
	List    []conntrack.Zone // sorted
}

// match reports whether the condition holds for a zone.
func (l *Zones) match(z conntrack.Zone) bool {
	if !l.Set {
		return true
	}
	_, found := slices.BinarySearch(l.List, z)
	return found != l.Negated
}

// IDs is a list of entry ids.
type IDs struct {
	Set     bool
	Negated bool
	List    []uint32 // sorted
}

// match reports whether the condition holds for an id.
func (l *IDs) match(id uint32) bool {
	if !l.Set {
		return true
	}
	_, found := slices.BinarySearch(l.List, id)
	return found != l.Negated
}

// Tristate is a condition on a yes or no.
type Tristate uint8

// The three states; the zero value is no condition.
const (
	Any Tristate = iota
	Yes
	No
)

// match reports whether the condition holds for an answer.
func (t Tristate) match(yes bool) bool {
	return t == Any || yes == (t == Yes)
}

// Zoned reports whether a condition asks for a zone.
func (s *Selector) Zoned() bool { return s.Zone.Set || s.OrigZone.Set || s.ReplyZone.Set }
