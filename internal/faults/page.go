//go:build linux && amd64

package faults

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Markers of what Page writes.
const (
	pageBegin = "<!-- faults: begin -->\n"
	pageEnd   = "<!-- faults: end -->\n"
)

// Page writes the tables between the markers of a page.
func (b *Book) Page(name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	begin, end := bytes.Index(text, []byte(pageBegin)), bytes.Index(text, []byte(pageEnd))
	if begin < 0 || end < begin {
		return fmt.Errorf("%s has no markers", name)
	}
	out := string(text[:begin]) + pageBegin + b.tables() + string(text[end:])
	return os.WriteFile(name, []byte(out), 0o644)
}

// row is a call of a function, wherever that is called from.
type row struct {
	sites map[string]bool
	tried map[Fault]int
	bad   map[Fault]int
}

func newRow() *row { return &row{map[string]bool{}, map[Fault]int{}, map[Fault]int{}} }

func (r *row) add(c Case, e Entry) {
	r.sites[c.Site] = true
	r.tried[c.Fault]++
	if len(e.Bad) > 0 {
		r.bad[c.Fault]++
	}
}

func (r *row) String() string {
	s := fmt.Sprintf(" %d |", len(r.sites))
	for _, f := range Faults {
		switch {
		case r.tried[f] == 0:
			s += " |"
		case r.bad[f] > 0:
			s += fmt.Sprintf(" %d, **%d broken** |", r.tried[f], r.bad[f])
		default:
			s += fmt.Sprintf(" %d |", r.tried[f])
		}
	}
	return s
}

// caller returns the function that makes the call of a site, and the call.
func caller(site string) (function, call string) {
	parts := strings.Split(site, "/")
	if len(parts) < 2 {
		return "", site
	}
	return parts[len(parts)-2], parts[len(parts)-1]
}

// tables writes what the book holds.
func (b *Book) tables() string {
	rows, all := map[string]*row{}, newRow()
	endings := map[Fault]map[Ending]int{}
	var slowest time.Duration
	var last time.Time
	missed, cases, broken := 0, 0, 0
	for name, e := range b.Results {
		c, err := ParseCase(name)
		switch {
		case err != nil || b.Made[c.Variant][c.Site] == 0:
			continue // of a program that has changed since
		case e.Ending == "":
			missed++
			continue
		}
		cases++
		if len(e.Bad) > 0 {
			broken++
		}
		function, call := caller(c.Site)
		key := fmt.Sprintf("| %s | `%s` |", strings.ReplaceAll(function, "_", "\\_"), call)
		if rows[key] == nil {
			rows[key] = newRow()
		}
		rows[key].add(c, e)
		all.add(c, e)
		if endings[c.Fault] == nil {
			endings[c.Fault] = map[Ending]int{}
		}
		endings[c.Fault][e.Ending]++
		slowest = max(slowest, e.Lifted)
		if e.When.After(last) {
			last = e.When
		}
	}
	var s strings.Builder
	fmt.Fprintf(&s, "Tried: %d cases at %d places, of %d that there are. Promises broken in: %d. Last run: %s, %s; each case was tried on the program as it was then. ",
		cases, len(all.sites), len(casesOf(b.Made)), broken, last.Format(time.DateOnly), machine())
	fmt.Fprintf(&s, "After a SIGKILL the ruleset was as before within %v at the latest, the time to ask nft(8) included. ", slowest.Round(time.Millisecond))
	fmt.Fprintf(&s, "Calls that a run did not come to, since how often they are made is a matter of moments: %d.\n\n", missed)
	s.WriteString("How the cuts ended that met a fault:\n\n| fault | proven | not proven, and why | refused, nothing changed | killed |\n| --- | ---: | ---: | ---: | ---: |\n")
	for _, f := range Faults {
		e := endings[f]
		fmt.Fprintf(&s, "| %s | %d | %d | %d | %d |\n", f, e[Proven], e[NotProven], e[Refused], e[Killed])
	}
	s.WriteString("\nWhere, with the number of cases:\n\n| function | call | places |")
	for _, f := range Faults {
		fmt.Fprintf(&s, " %s |", f)
	}
	s.WriteString("\n| --- | --- | ---: |" + strings.Repeat(" ---: |", len(Faults)) + "\n")
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		fmt.Fprintf(&s, "%s%s\n", key, rows[key])
	}
	fmt.Fprintf(&s, "| **all** | |%s\n", all)
	return s.String()
}

// machine says what this ran on.
func machine() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "an unknown machine"
	}
	return fmt.Sprintf("Linux %s on %s", unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:]))
}
