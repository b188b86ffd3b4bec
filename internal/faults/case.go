//go:build linux && amd64

// Package faults runs a built flowcut under ptrace(2) in a network of its own,
// lets one system call of a cut go wrong, and looks at what the cut promises:
// that nothing stays behind, nobody else is hurt, exit code and receipt are
// true, and a second cut finishes the work. Needs root.
package faults

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Fault is what goes wrong at a call.
type Fault string

// Faults.
const (
	NoBufs    Fault = "ENOBUFS"      // of a receive: and what was received is lost
	Intr      Fault = "EINTR"        //
	Perm      Fault = "EPERM"        //
	NoMem     Fault = "ENOMEM"       //
	Short     Fault = "short"        // about half of the message, or of the messages
	Truncated Fault = "truncated"    // said to have been longer than the room for it
	NetNS     Fault = "netns"        // the namespace loses its name and its devices
	Kill      Fault = "SIGKILL"      //
	Stop      Fault = "SIGSTOP"      // and SIGCONT a moment later
	StopKill  Fault = "SIGSTOP+KILL" // and SIGKILL a moment later
)

// Faults are all of them.
var Faults = []Fault{NoBufs, Intr, Perm, NoMem, Short, Truncated, NetNS, Kill, Stop, StopKill}

var errnos = map[Fault]unix.Errno{NoBufs: unix.ENOBUFS, Intr: unix.EINTR, Perm: unix.EPERM, NoMem: unix.ENOMEM}

// fits tells whether a fault can be at a call.
func (f Fault) fits(k known) bool {
	switch f {
	case Short:
		return k.form >= sendto && k.form <= read
	case Truncated:
		return k.form == recvfrom || k.form == recvmsg || k.form == recvmmsg
	case NoBufs, Perm, NoMem:
		return k.form != waiting // the runtime's own; the kernel has no such answer
	}
	return true
}

// Point is a call: where in the program it is made, and how many times it has
// been made there.
type Point struct {
	Site string // functions, from the outermost to the innermost, and the system call
	N    int    // from 1 on
}

// Case is one fault at one call.
type Case struct {
	Variant string
	Point
	Fault Fault
}

// String returns what ParseCase reads.
func (c Case) String() string { return fmt.Sprintf("%s:%s:%d:%s", c.Variant, c.Site, c.N, c.Fault) }

// ParseCase reads a case.
func ParseCase(s string) (Case, error) {
	parts := strings.Split(s, ":")
	if len(parts) != 4 {
		return Case{}, fmt.Errorf("%q is no case: VARIANT:SITE:NUMBER:FAULT", s)
	}
	n, err := strconv.Atoi(parts[2])
	c := Case{Variant: parts[0], Point: Point{parts[1], n}, Fault: Fault(parts[3])}
	if err != nil || n < 1 || !slices.Contains(Faults, c.Fault) {
		return Case{}, fmt.Errorf("%q is no case: number or fault", s)
	}
	if _, err := variant(c.Variant); err != nil {
		return Case{}, err
	}
	return c, nil
}

// hash is a number that makes choices which are always the same.
func (c Case) hash() uint32 {
	h := fnv.New32a()
	fmt.Fprint(h, c)
	return h.Sum32()
}

// long tells whether the program is to be stopped for longer than it may take.
func (c Case) long() bool { return c.Fault == Stop && c.hash()%4 == 0 }

// slow tells whether a case takes seconds: where the program waits for what does
// not come.
func (c Case) slow() bool { return c.Fault == NetNS || c.long() }

// Made is how often each site was passed in a run.
type Made map[string]int

// syscallOf returns the system call of a site.
func syscallOf(site string) (known, bool) {
	name := site[strings.LastIndexByte(site, '/')+1:]
	for _, k := range calls {
		if k.name == name {
			return k, true
		}
	}
	return known{}, false
}

// Cases returns what is to be tried of the sites that a run has passed: each
// fault at the first call of a site, and at one of the others: the second, the
// one in the middle or the last, which by what is left of a hash.
func (m Made) Cases(variant string) (list []Case) {
	for _, site := range slices.Sorted(maps.Keys(m)) {
		k, ok := syscallOf(site)
		if !ok {
			continue
		}
		n := m[site]
		for _, f := range Faults {
			if !f.fits(k) {
				continue
			}
			c := Case{variant, Point{site, 1}, f}
			list = append(list, c)
			if n > 1 {
				c.N = []int{2, (n + 2) / 2, n}[c.hash()%3]
				list = append(list, c)
			}
		}
	}
	return list
}
