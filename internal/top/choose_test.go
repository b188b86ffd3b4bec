package top

import (
	"slices"
	"strings"
	"testing"

	"flowcut/conntrack"
	"flowcut/internal/example"
	"flowcut/internal/tally"
	"flowcut/selector"
)

// filters are what a group, or a flow, may be chosen under.
var filters = []string{
	"", "-p tcp", "! -p tcp", "-d 203.0.113.0/24", "! -d 198.51.100.9", "-s 192.168.0.0/16 -p udp",
	"-g", "-g 192.168.1.0/24", "-g 192.168.1.100:5201", "-n", "! -g", "! -n", "-j", "-w 7,0", "! -w 7", "--orig-zone 8,0",
	"--dport 1-5000", "-r 192.168.1.0/24", "-q 203.0.113.1", "-f ipv6", "-u SEEN_REPLY",
}

func parse(t *testing.T, words string) selector.Selector {
	t.Helper()
	s, err := selector.Parse(strings.Fields(words))
	if err != nil {
		t.Fatalf("%s: %v", words, err)
	}
	return s
}

// What is cut for a group are the flows that it was counted of, no more and no less.
func TestGroupSelectors(t *testing.T) {
	met := 0
	for _, words := range filters {
		filter := parse(t, words)
		for _, by := range tally.All {
			for name, of := range example.Flows() {
				k, ok := tally.KeyOf(by, of)
				if !ok || !filter.Match(of) {
					continue
				}
				list, err := groupSelectors(filter, k)
				if err != nil {
					t.Fatal(err)
				}
				for other, f := range example.Flows() {
					of, ok := tally.KeyOf(by, f)
					want := ok && of == k && filter.Match(f)
					got := slices.ContainsFunc(list, func(s selector.Selector) bool { return s.Match(f) })
					if got != want {
						t.Errorf("filter %q, group %v of %s: %s is meant: %v, want %v (%v)", words, k, name, other, got, want, list)
					}
					met++
				}
			}
		}
	}
	if met < 1000 {
		t.Errorf("%d cases", met)
	}
}

// What is cut for a flow is that flow alone, also where the same tuple is in two zones.
func TestFlowSelector(t *testing.T) {
	flows := example.Flows()
	twin := flows["unreplied"].Clone() // of "zone"
	twin.Zone, twin.Has = 9, twin.Has|conntrack.AttrZone
	flows["twin"] = twin
	id := uint32(0)
	for _, f := range flows {
		id++
		f.ID = id
	}
	for _, words := range filters {
		filter := parse(t, words)
		for name, f := range flows {
			if !filter.Match(f) {
				continue
			}
			s, err := flowSelector(filter, f, 2)
			if err != nil {
				t.Fatal(err)
			}
			if !s.Narrows() {
				t.Errorf("%s: %v does not narrow", name, s)
			}
			for other, o := range flows {
				if got := s.Match(o); got != (o == f) {
					t.Errorf("filter %q, %s: %s is meant: %v (%v)", words, name, other, got, s)
				}
			}
		}
	}
}
