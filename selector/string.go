package selector

import (
	"fmt"
	"strconv"
	"strings"

	"flowcut/conntrack"
)

// emptyFile stands for an empty list of addresses, for which there is no word.
const emptyFile = "@/dev/null"

// reversedTarget begins the targets of a translation that Mirror has turned
// round, for which there is no word.
const reversedTarget = "from:"

// briefItems is the number of a list's items that Brief shows.
const briefItems = 4

// Args returns the selector as words of a command line, in a fixed order and
// with long names. Parse makes the same selector of them, except of one that
// Mirror made from targets of a translation, which no flag can ask for.
func (s Selector) Args() []string { return s.args(0) }

// String returns Args with blanks between them; no word of it has a blank or
// needs quotes in a shell.
func (s Selector) String() string { return strings.Join(s.Args(), " ") }

// Brief returns String with long lists cut short, for people to read.
func (s Selector) Brief() string { return strings.Join(s.args(briefItems), " ") }

// args returns the words of the selector, lists with at most limit items, all
// if 0.
func (s *Selector) args(limit int) []string {
	var out []string
	for i := range conditions {
		c := &conditions[i]
		l, set := c.format(s)
		if !set {
			continue
		}
		if l.negated {
			out = append(out, "!")
		}
		value := l.join(limit)
		switch {
		case c.bare != "" && value == c.bare:
			out = append(out, "--"+c.name)
		case c.bare != "":
			out = append(out, "--"+c.name+"="+value)
		default:
			out = append(out, "--"+c.name, value)
		}
	}
	return out
}

func (l *list) join(limit int) string {
	if limit == 0 || len(l.items) <= limit {
		return strings.Join(l.items, ",")
	}
	return fmt.Sprintf("%s,...(%d)", strings.Join(l.items[:limit], ","), len(l.items))
}

// stringsOf formats the items of a list.
func stringsOf[T any](vs []T, format func(T) string) []string {
	out := make([]string, len(vs))
	for i, v := range vs {
		out[i] = format(v)
	}
	return out
}

func formatFamily(s *Selector) (list, bool) {
	return list{items: []string{familyString(s.Family)}}, s.Family != conntrack.FamilyBoth
}

func formatProtos(s *Selector) (list, bool) {
	return list{s.Proto.Negated, stringsOf(s.Proto.List, protoString)}, s.Proto.Set
}

func formatAddrs(l *Addrs) (list, bool) {
	items := stringsOf(l.Ranges, AddrRange.String)
	if len(items) == 0 {
		items = []string{emptyFile}
	}
	return list{l.Negated, items}, l.Set
}

func formatPorts(l *Ports) (list, bool) {
	return list{l.Negated, stringsOf(l.Ranges, PortRange.String)}, l.Set
}

func formatNAT(n *NAT) (list, bool) {
	items := stringsOf(n.Targets, NATTarget.String)
	if len(items) == 0 {
		items = []string{anyTarget}
	}
	if n.Reversed {
		items[0] = reversedTarget + items[0]
	}
	return list{n.Negated, items}, n.Set
}

func formatStatuses(s *Selector) (list, bool) {
	return list{s.Status.Negated, s.Status.names()}, s.Status.Set
}

func formatStates(s *Selector) (list, bool) {
	return list{s.State.Negated, stringsOf(s.State.List, conntrack.TCPState.String)}, s.State.Set
}

func formatMarks(s *Selector) (list, bool) {
	return list{s.Mark.Negated, stringsOf(s.Mark.List, MaskedMark.String)}, s.Mark.Set
}

func formatLabels(s *Selector) (list, bool) {
	return list{s.Labels.Negated, s.Labels.numbers()}, s.Labels.Set
}

func formatZones(l *Zones) (list, bool) {
	return list{l.Negated, stringsOf(l.List, func(z conntrack.Zone) string { return strconv.Itoa(int(z)) })}, l.Set
}

func formatIDs(s *Selector) (list, bool) {
	return list{s.ID.Negated, stringsOf(s.ID.List, func(id uint32) string { return strconv.FormatUint(uint64(id), 10) })}, s.ID.Set
}

func formatPickedUp(s *Selector) (list, bool) {
	return list{s.PickedUp == No, []string{yes}}, s.PickedUp != Any
}
