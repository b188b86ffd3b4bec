package nft

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// cut returns a message whole and without its end.
func cut(b []byte) [][]byte { return [][]byte{b, b[:len(b)*3/4]} }

// FuzzElements: what the kernel lists of a set is ranges of the set's family,
// each from a lower to a higher address, or an error.
func FuzzElements(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, 4, 0, 3, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range cut(b) {
			for _, h := range []SetHeader{
				{Family: IPv4, KeyType: TypeIPv4.ID, KeyLen: 4}, {Family: Inet, KeyType: TypeIPv4.ID, KeyLen: 4, Interval: true},
				{Family: IPv6, KeyType: TypeIPv6.ID, KeyLen: 16, Interval: true},
			} {
				checkRanges(t, h, b)
			}
			_ = walk(b, unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(elems []byte) error {
				return attrs(elems, func(_ uint16, elem []byte) error {
					m, err := parseMember(elem)
					if m.Expires < 0 {
						t.Fatalf("expires in %v", m.Expires)
					}
					return err
				})
			})
		}
	})
}

func checkRanges(t *testing.T, h SetHeader, b []byte) {
	r := ranger{set: h}
	err := walk(b, unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(elems []byte) error {
		return attrs(elems, func(_ uint16, elem []byte) error { return r.add(elem) })
	})
	if err != nil {
		return
	}
	all := r.ranges()
	for _, a := range all {
		if !a.From.IsValid() || !a.To.IsValid() || a.To.Less(a.From) || a.From.BitLen() != h.KeyLen*8 || a.To.BitLen() != h.KeyLen*8 {
			t.Fatalf("%+v of %+v", a, h)
		}
	}
	if !slices.IsSortedFunc(all, func(a, b AddrRange) int { return a.From.Compare(b.From) }) {
		t.Fatalf("not sorted: %v", all)
	}
}

// FuzzRule: the counter of a rule is read or is an error.
func FuzzRule(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range cut(b) {
			r, err := parseRule(b)
			if err != nil && r != (RuleHeader{}) {
				t.Fatalf("%+v and %v", r, err)
			}
		}
	})
}

// FuzzHeader: what a set is, is read or is an error. Only sets whose keys are as
// long as addresses are read as such.
func FuzzHeader(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range cut(b) {
			h, err := parseHeader(b)
			if err != nil && h != (SetHeader{}) {
				t.Fatalf("%+v and %v", h, err)
			}
			if h.Addrs() && h.KeyLen != 4 && h.KeyLen != 16 {
				t.Fatalf("addresses of %d bytes", h.KeyLen)
			}
			_, _ = h.Type(), h.String()
		}
	})
}
