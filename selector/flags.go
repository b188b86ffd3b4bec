package selector

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// Flags is the command-line front of a Selector: every command that takes a
// selector registers the same flags, has its words normalized, lets pflag
// parse them and then asks for the Selector.
//
// The zero value is ready. A Flags serves one command line.
type Flags struct {
	LabelFile string // names of labels; empty means DefaultLabelFile

	// NFT returns the addresses in a set of nf_tables, in any order, for
	// @nft:FAMILY/TABLE/SET. Nil refuses such items. An *Error it returns is
	// the user's mistake; Flag and Value are filled in.
	NFT func(family, table, set string) ([]AddrRange, error)

	words   []word // in the order given
	noFiles bool   // refuse @FILE
}

// word is one flag as it was given.
type word struct {
	cond  *condition
	value string
}

// condition is one flag: its names, and how its values become a part of a
// Selector and words again. All of a flag's values are parsed at once.
type condition struct {
	name, short string
	aliases     []string
	arg         string // placeholder of the value in the help
	bare        string // value of the flag without one; empty: it needs one
	usage       string
	parse       func(p *parser, s *Selector, l list) *Error
	format      func(s *Selector) (l list, set bool)
}

// list is what a flag was given, in all of its occurrences: the items between
// the commas, and whether they were negated as a whole.
type list struct {
	negated bool
	items   []string
}

// argAddr begins the placeholder of flags that take addresses.
const argAddr = "ADDR"

// Bare values of flags whose value is optional.
const (
	anyTarget = "any"
	yes       = "yes"
	no        = "no"
)

// conditions are the flags of a selector, in the order in which they print.
var conditions = []condition{
	{name: "family", short: "f", arg: "FAMILY", usage: "ipv4 or ipv6 (default: both)",
		parse: (*parser).family, format: formatFamily},
	{name: "proto", short: "p", aliases: []string{"protonum"}, arg: "PROTO", usage: "protocols, by name or number",
		parse: (*parser).protos, format: formatProtos},
	addrCondition("orig-src", "s", []string{"src"}, "source address of the original direction", func(s *Selector) *Addrs { return &s.OrigSrc }),
	addrCondition("orig-dst", "d", []string{"dst"}, "destination address of the original direction", func(s *Selector) *Addrs { return &s.OrigDst }),
	addrCondition("reply-src", "r", nil, "source address of the reply direction", func(s *Selector) *Addrs { return &s.ReplySrc }),
	addrCondition("reply-dst", "q", nil, "destination address of the reply direction", func(s *Selector) *Addrs { return &s.ReplyDst }),
	addrCondition("host", "", nil, "address of any end, before or after NAT", func(s *Selector) *Addrs { return &s.Host }),
	portCondition("orig-port-src", "sport", "source port of the original direction", func(s *Selector) *Ports { return &s.OrigSrcPort }),
	portCondition("orig-port-dst", "dport", "destination port of the original direction", func(s *Selector) *Ports { return &s.OrigDstPort }),
	portCondition("reply-port-src", "", "source port of the reply direction", func(s *Selector) *Ports { return &s.ReplySrcPort }),
	portCondition("reply-port-dst", "", "destination port of the reply direction", func(s *Selector) *Ports { return &s.ReplyDstPort }),
	natCondition("dst-nat", "g", "destination translated, to ADDR[:PORT] if given", func(s *Selector) *NAT { return &s.DstNAT }),
	natCondition("src-nat", "n", "source translated, to ADDR[:PORT] if given", func(s *Selector) *NAT { return &s.SrcNAT }),
	natCondition("any-nat", "j", "source or destination translated, to ADDR[:PORT] if given", func(s *Selector) *NAT { return &s.AnyNAT }),
	{name: "status", short: "u", arg: "STATUS", usage: "all of these statuses, such as ASSURED or UNREPLIED",
		parse: (*parser).statuses, format: formatStatuses},
	{name: "state", arg: "STATE", usage: "one of these TCP states, such as ESTABLISHED",
		parse: (*parser).states, format: formatStates},
	{name: "mark", short: "m", arg: "MARK[/MASK]", usage: "connection mark",
		parse: (*parser).marks, format: formatMarks},
	{name: "label", short: "l", arg: "LABEL", usage: "all of these labels, by number or name",
		parse: (*parser).labels, format: formatLabels},
	zoneCondition("zone", "w", "conntrack zone", func(s *Selector) *Zones { return &s.Zone }),
	zoneCondition("orig-zone", "", "conntrack zone of the original direction", func(s *Selector) *Zones { return &s.OrigZone }),
	zoneCondition("reply-zone", "", "conntrack zone of the reply direction", func(s *Selector) *Zones { return &s.ReplyZone }),
	{name: "id", arg: "ID", usage: "ids of entries, as the kernel numbers them",
		parse: (*parser).ids, format: formatIDs},
	{name: "picked-up", arg: "yes|no", bare: yes, usage: "TCP flows that look adopted in mid-stream",
		parse: (*parser).pickedUp, format: formatPickedUp},
}

func addrCondition(name, short string, aliases []string, usage string, field func(*Selector) *Addrs) condition {
	return condition{
		name: name, short: short, aliases: aliases, arg: argAddr, usage: usage,
		parse:  func(p *parser, s *Selector, l list) *Error { return p.addrs(field(s), l) },
		format: func(s *Selector) (list, bool) { return formatAddrs(field(s)) },
	}
}

func portCondition(name, alias, usage string, field func(*Selector) *Ports) condition {
	c := condition{
		name: name, arg: "PORT", usage: usage,
		parse:  func(p *parser, s *Selector, l list) *Error { return p.ports(field(s), l) },
		format: func(s *Selector) (list, bool) { return formatPorts(field(s)) },
	}
	if alias != "" {
		c.aliases = []string{alias}
	}
	return c
}

func natCondition(name, short, usage string, field func(*Selector) *NAT) condition {
	return condition{
		name: name, short: short, arg: argAddr + "[:PORT]", bare: anyTarget, usage: usage,
		parse:  func(p *parser, s *Selector, l list) *Error { return p.targets(s, field(s), l) },
		format: func(s *Selector) (list, bool) { return formatNAT(field(s)) },
	}
}

func zoneCondition(name, short, usage string, field func(*Selector) *Zones) condition {
	return condition{
		name: name, short: short, arg: "ZONE", usage: usage,
		parse:  func(p *parser, s *Selector, l list) *Error { return p.zones(field(s), l) },
		format: func(s *Selector) (list, bool) { return formatZones(field(s)) },
	}
}

// Register adds the selector's flags to a flag set.
//
// The words that the set is to parse go through Normalize first.
func (f *Flags) Register(fs *pflag.FlagSet) {
	for i := range conditions {
		c := &conditions[i]
		f.register(fs, c, c.name, c.short)
		for _, alias := range c.aliases {
			f.register(fs, c, alias, "").Hidden = true
		}
	}
}

func (f *Flags) register(fs *pflag.FlagSet, c *condition, name, short string) *pflag.Flag {
	usage := c.usage
	if len(c.aliases) > 0 {
		usage += " (also --" + strings.Join(c.aliases, ", --") + ")"
	}
	flag := fs.VarPF(&flagValue{f, c}, name, short, usage)
	flag.NoOptDefVal = c.bare
	return flag
}

// flagValue hands the values of one flag to its Flags; they are parsed
// together later, when all are known.
type flagValue struct {
	flags *Flags
	cond  *condition
}

func (v *flagValue) String() string { return "" }

func (v *flagValue) Type() string { return v.cond.arg }

func (v *flagValue) Set(value string) error {
	v.flags.words = append(v.flags.words, word{v.cond, value})
	return nil
}

// Selector returns the selector that the parsed flags ask for. Files named by
// @FILE are read, and standard input for @-; a nil stdin refuses @-.
//
// Errors are of type *Error, or wrap one of NFT.
func (f *Flags) Selector(stdin io.Reader) (Selector, error) {
	p := parser{stdin: stdin, labelFile: f.LabelFile, nft: f.NFT, noFiles: f.noFiles}
	if p.labelFile == "" {
		p.labelFile = DefaultLabelFile
	}
	var s Selector
	for i := range conditions {
		c := &conditions[i]
		l, given, err := f.list(c)
		if err == nil && given {
			err = c.parse(&p, &s, l)
		}
		if err != nil {
			err.Flag = c.name
			if p.failed != nil {
				return Selector{}, fmt.Errorf("selector: --%s %s: %w", c.name, err.Value, p.failed)
			}
			return Selector{}, err
		}
	}
	if p.nothing {
		s.Host = Addrs{Set: true}
	}
	if err := s.check(); err != nil {
		return Selector{}, err
	}
	return s, nil
}

// list joins all that one flag was given.
func (f *Flags) list(c *condition) (l list, given bool, err *Error) {
	for _, w := range f.words {
		if w.cond != c {
			continue
		}
		value, negated := strings.CutPrefix(w.value, "!")
		if given && negated != l.negated {
			return l, true, wrong(w.value, "given both with and without !", "negate the whole list, or nothing of it")
		}
		given, l.negated = true, negated
		items, err := splitList(value)
		if err != nil {
			return l, true, err
		}
		l.items = append(l.items, items...)
	}
	return l, given, nil
}

// splitList cuts a value at its commas.
func splitList(value string) ([]string, *Error) {
	items := strings.Split(value, ",")
	for i, item := range items {
		item = strings.TrimSpace(item)
		items[i] = item
		switch {
		case strings.TrimSpace(value) == "":
			return nil, wrong("", "empty value", "give a value, or leave the flag out")
		case item == "":
			return nil, wrong(value, "an empty place in the list", "take out the comma that has nothing beside it")
		case strings.HasPrefix(item, "!"):
			return nil, wrong(value, "a ! inside the list", "put one ! in front to negate the whole list")
		}
	}
	return items, nil
}

// Parse reads a selector from words as on a command line, such as
// {"-g", "192.168.1.100", "-p", "tcp"}. It takes no value from standard input
// and none from a set of nf_tables; see [Flags.Parse] for these.
//
// Errors about a flag's value are of type *Error.
func Parse(args []string) (Selector, error) {
	return new(Flags).Parse(args, nil)
}

// Parse reads a selector from words that are all its own, unlike those of a
// command that registers the flags beside others. The rest is as for Selector.
func (f *Flags) Parse(args []string, stdin io.Reader) (Selector, error) {
	fs := pflag.NewFlagSet("selector", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	f.Register(fs)
	if err := fs.Parse(Normalize(fs, args)); err != nil {
		return Selector{}, &Error{Problem: err.Error()}
	}
	if fs.NArg() > 0 {
		return Selector{}, StrayWord(fs.Arg(0))
	}
	return f.Selector(stdin)
}

// StrayWord returns the Error for a word that belongs to no flag.
func StrayWord(w string) *Error {
	switch w {
	case "":
		return wrong(`""`, "an empty word that belongs to no flag", "take it out; a shell makes one of a variable that is not set")
	case "!":
		return wrong(w, "nothing to negate", "put ! right in front of a flag of the selection, or of its value")
	}
	return wrong(w, "a word that belongs to no flag", "take it out, or put its flag in front of it")
}
