//go:build linux && amd64

package faults

import "fmt"

// Ports that flows go to: those that are cut, and those that are left alone.
const (
	port      = 5201
	bulk      = 5203 // downloads
	others    = 5202
	otherBulk = 5204
)

// selected means what goes to port and bulk.
const selected = "5201,5203"

// Variant is a way to call the program: each makes calls that others do not.
type Variant struct {
	Name  string
	About string
	args  []string
	stdin string
	netns bool // by --netns, else it starts inside
	crowd int  // entries of nobody besides
}

// Variants are all of them. Of those behind the first only the calls are tried
// that no one before makes.
var Variants = []Variant{
	{Name: "plain", About: "flowcut cut --netns NAME --dport 5201,5203", netns: true,
		args: []string{"--dport", selected, "--flows"}},
	{Name: "inside", About: "started inside the namespace, with --max and --spare",
		args: []string{"--dport", selected, "--flows", "--max", "100000", "--spare", "-s 192.0.2.7"}},
	{Name: "tuples", About: "a selector that rules cannot say (--status): the guard knows tuples", netns: true,
		args: []string{"--dport", selected, "--flows", "--status", "DST_NAT"}},
	{Name: "batch", About: "two lines by --batch", netns: true,
		args: []string{"--batch", "-", "--flows"}, stdin: "--dport " + selected + " -p tcp\n--dport " + selected + " -p udp\n"},
	{Name: "crowd", About: "6,000 entries more, --no-kick --settle 0s --hold 0s", netns: true, crowd: 6_000,
		args: []string{"--dport", selected, "--no-kick", "--settle", "0s", "--hold", "0s"}},
}

// patience is what a cut gets, which is more than one takes on a busy machine.
const patience = "5s"

// variant returns the variant of a name.
func variant(name string) (Variant, error) {
	for _, v := range Variants {
		if v.Name == name {
			return v, nil
		}
	}
	return Variant{}, fmt.Errorf("there is no variant %q", name)
}

// line is the command line in a namespace.
func (v Variant) line(netns string) []string {
	line := []string{"cut", "-o", "json", "--timeout", patience}
	if v.crowd == 0 {
		line = append(line, "--settle", "30ms", "--hold", "30ms")
	}
	if v.netns {
		line = append(line, "--netns", netns)
	}
	return append(line, v.args...)
}
