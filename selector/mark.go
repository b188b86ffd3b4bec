package selector

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"flowcut/conntrack"
)

// Marks is a list of mark conditions, flow.Mark & Mask == Value.
type Marks struct {
	Set     bool
	Negated bool
	List    []MaskedMark // sorted
}

// MaskedMark is one mark condition; without a mask given Mask is all ones.
type MaskedMark struct{ Value, Mask conntrack.Mark }

const fullMask conntrack.Mark = 0xffffffff

// parseMark reads V or V/M.
func parseMark(s string) (MaskedMark, *Error) {
	value, mask, hasMask := strings.Cut(s, "/")
	v, err := parseNumber(value, uint64(fullMask))
	if err == nil && !hasMask {
		return MaskedMark{conntrack.Mark(v), fullMask}, nil
	}
	m := uint64(0)
	if err == nil {
		m, err = parseNumber(mask, uint64(fullMask))
	}
	if err != nil {
		return MaskedMark{}, wrong(s, err.Problem, "write MARK or MARK/MASK, each in decimal or as 0x and hexadecimal, up to 0xffffffff")
	}
	if v&^m != 0 {
		return MaskedMark{}, wrong(s, "no mark can match, the value has bits outside the mask", "clear these bits, or widen the mask")
	}
	return MaskedMark{conntrack.Mark(v), conntrack.Mark(m)}, nil
}

// String returns the condition as --mark takes it.
func (m MaskedMark) String() string {
	v := "0x" + strconv.FormatUint(uint64(m.Value), 16)
	if m.Mask == fullMask {
		return v
	}
	return v + "/0x" + strconv.FormatUint(uint64(m.Mask), 16)
}

func compareMarks(a, b MaskedMark) int {
	return cmp.Or(cmp.Compare(a.Value, b.Value), cmp.Compare(a.Mask, b.Mask))
}

// match reports whether the condition holds for a mark.
func (l *Marks) match(m conntrack.Mark) bool {
	if !l.Set {
		return true
	}
	for _, c := range l.List {
		if m&c.Mask == c.Value {
			return !l.Negated
		}
	}
	return l.Negated
}

// scope returns what the condition does to flows.
func (l *Marks) scope() scope {
	if !l.Set {
		return scopeAll
	}
	if slices.Contains(l.List, MaskedMark{}) { // 0/0 is every mark
		return scopeAll.negate(l.Negated)
	}
	return scopeSome
}
