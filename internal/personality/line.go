package personality

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/conntrack8"
)

// table is what a command works on.
type table int

// Tables, in the order in which a word is compared with their names.
const (
	tableExpect table = iota
	tableConntrack
	tableDying
	tableUnconfirmed
)

var tableNames = [...]string{"expect", "conntrack", "dying", "unconfirmed"}

// line is a parsed command line.
type line struct {
	command *command // nil: none
	table   table
	given   []string  // names of the options that were given
	proto   *protocol // nil: no -p
	family  conntrack.Family

	// What addresses, ports and the like were given, and which.
	orig, reply, expected, mask        conntrack.Tuple
	origHas, replyHas, expHas, maskHas conntrack.TupleFields

	dstNAT, srcNAT, anyNAT *target // nil: none given, whatever -g, -n and -j say

	timeout time.Duration
	status  statusBits
	mark    maskedMark
	zone    conntrack.Zone
	zones   [2]conntrack.Zone // of the original and of the reply direction
	id      uint32
	state   uint8     // of the protocol
	vtags   [2]uint32 // of SCTP
	role    uint8     // of DCCP

	labels, labelsAdded, labelsDeleted labelWords
	labelFile                          string

	kinds  conntrack.EventKind
	out    conntrack8.Format
	named  bool // -o labels
	buffer int

	warnings []string // lines for the standard error
}

// target is what -g, -n and -j take.
type target struct {
	addr netip.Addr
	port uint16 // 0: any
}

// maskedMark is what -m takes.
type maskedMark struct{ value, mask conntrack.Mark }

// parse reads a command line, without the program's name.
func parse(args []string) (*line, error) {
	l := &line{table: tableConntrack, given: make([]string, 0, 16)} // few lines have more
	w := &words{in: args}
	names := globalNames()
	for {
		f, ok, err := w.option(names)
		if err != nil {
			return l, err
		}
		if !ok {
			return l, l.check()
		}
		if f.command != 0 {
			err = l.setCommand(f.command, w, f.attached)
		} else {
			err = l.setOption(f, w)
		}
		if err != nil {
			return l, err
		}
		if f.option != nil && f.option.short == 'p' {
			names = l.proto.names()
		}
	}
}

// globalNames returns the names of what does not depend on the protocol.
var globalNames = sync.OnceValue(func() []name {
	var out []name
	for i := range commands {
		c := &commands[i]
		arg := optionalValue
		if c.short == 'S' || c.short == 'V' || c.short == 'h' {
			arg = noValue
		}
		if !c.expect {
			out = append(out, name{c.name, arg, found{command: c.short}})
		}
	}
	for i := range options {
		o := &options[i]
		out = append(out, name{o.name, o.arg, found{option: o}})
		for _, alias := range o.aliases {
			out = append(out, name{alias, o.arg, found{option: o}})
		}
	}
	return slices.Clip(out)
})

// setCommand takes a command, and the table if it is the next word. A value in
// the same word means nothing, as in conntrack(8).
func (l *line) setCommand(letter byte, w *words, attached bool) error {
	t := tableConntrack
	if word, ok := "", false; !attached {
		if word, ok = w.optional(); ok {
			i := slices.IndexFunc(tableNames[:], func(n string) bool { return strings.HasPrefix(n, word) })
			if i < 0 {
				return usage("unknown type `%s'", word)
			}
			t = table(i)
		}
	}
	if letter != 'L' && t > tableConntrack {
		return usage("Can't do that command with tables `dying' and `unconfirmed'")
	}
	i := slices.IndexFunc(commands[:], func(c command) bool {
		return c.short == letter && c.expect == (t == tableExpect)
	})
	if i < 0 {
		return usage("Can't do --%s on expectations", commandName(letter))
	}
	if l.command != nil {
		return usage("Invalid commands combination")
	}
	l.command, l.table = &commands[i], t
	return nil
}

func commandName(letter byte) string {
	i := slices.IndexFunc(commands[:], func(c command) bool { return c.short == letter })
	return commands[i].name
}

// setOption takes an option of the matrix, or of the protocol.
func (l *line) setOption(f found, w *words) error {
	o := f.option
	if o.arg == optionalValue {
		given := f.attached
		if !given {
			f.value, given = w.optional()
		}
		if given && f.value == "" {
			// As of a variable that is not set: it must not mean any.
			return usage("option `--%s' has an empty value: leave it out to mean any", o.name)
		}
	}
	l.give(o.name)
	return o.set(l, f.value)
}

// give notes that an option was given. A deprecated one is never held against
// a command.
func (l *line) give(name string) {
	if !l.has(name) && name != "nat-range" {
		l.given = append(l.given, name)
	}
}

// has tells whether an option was given.
func (l *line) has(name string) bool { return slices.Contains(l.given, name) }
