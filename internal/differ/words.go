//go:build linux

package differ

import (
	"slices"
	"strings"
)

// line is a command line as the reference's getopt_long takes it apart. It is
// read loosely: what is illegal with a command is the programs' business.
type line struct {
	commands string // their letters
	table    string // "" if none is named
	options  []option
	stray    []string
	attached bool // a command with something attached to it
	bad      bool // unknown option, or one without its argument
}

// option is one option by its long name.
type option struct {
	name, value string
	attached    bool // value in the same word
	long        bool // written with two dashes
}

// has tells whether one of the options is there.
func (l *line) has(names ...string) bool {
	return slices.ContainsFunc(l.options, func(o option) bool { return slices.Contains(names, o.name) })
}

// values are those of all options of a name.
func (l *line) values(names ...string) (list []string) {
	for _, o := range l.options {
		if slices.Contains(names, o.name) {
			list = append(list, o.value)
		}
	}
	return list
}

// is tells whether the line is one of the commands, by letter, on flows.
func (l *line) is(letters string) bool {
	return l.commands != "" && strings.Contains(letters, l.commands[:1]) && !l.expect()
}

// expect tells whether the line is about expectations.
func (l *line) expect() bool { return l.table != "-" && strings.HasPrefix("expect", l.table) }

// proto returns the protocol option's value in lower case, "" if there is none.
func (l *line) proto() string {
	if v := l.values("protonum"); len(v) > 0 {
		return strings.ToLower(v[len(v)-1])
	}
	return ""
}

// argument says whether an option takes one.
type argument byte

const (
	none     argument = iota // no argument
	required                 // the rest of the word, or the next word
	optional                 // the rest of the word; here also the next word
	command                  // as optional: a table
)

// long is a long option.
type long struct {
	name  string
	short byte
	arg   argument
	means string // canonical name, if another
}

// longs are those that exist from the start.
var longs = []long{
	{"dump", 'L', command, ""}, {"create", 'I', command, ""}, {"delete", 'D', command, ""},
	{"update", 'U', command, ""}, {"get", 'G', command, ""}, {"flush", 'F', command, ""},
	{"event", 'E', command, ""}, {"counter", 'C', command, ""}, {"stats", 'S', command, ""},
	{"add", 'A', command, ""}, {"version", 'V', command, ""}, {"help", 'h', command, ""},
	{"src", 's', required, ""}, {"orig-src", 's', required, "src"},
	{"dst", 'd', required, ""}, {"orig-dst", 'd', required, "dst"},
	{"reply-src", 'r', required, ""}, {"reply-dst", 'q', required, ""},
	{"protonum", 'p', required, ""}, {"timeout", 't', required, ""}, {"status", 'u', required, ""},
	{"zero", 'z', none, ""}, {"event-mask", 'e', required, ""},
	{"tuple-src", '[', required, ""}, {"tuple-dst", ']', required, ""},
	{"mask-src", '{', required, ""}, {"mask-dst", '}', required, ""},
	{"nat-range", 'a', required, ""}, {"mark", 'm', required, ""}, {"secmark", 'c', required, ""},
	{"id", 'i', required, ""}, {"family", 'f', required, ""},
	{"src-nat", 'n', optional, ""}, {"dst-nat", 'g', optional, ""},
	{"output", 'o', required, ""}, {"buffer-size", 'b', required, ""}, {"any-nat", 'j', optional, ""},
	{"zone", 'w', required, ""}, {"label", 'l', required, ""}, {"labelmap", 'M', required, ""},
	{"label-add", '<', required, ""}, {"label-del", '>', optional, ""},
	{"orig-zone", '(', required, ""}, {"reply-zone", ')', required, ""},
}

// protoLongs are those that a protocol brings.
var protoLongs = func() (list []long) {
	for _, name := range []string{
		"sport", "dport", "reply-port-src", "reply-port-dst", "mask-port-src", "mask-port-dst",
		"tuple-port-src", "tuple-port-dst", "state", "orig-vtag", "reply-vtag",
		"icmp-type", "icmp-code", "icmp-id", "icmpv6-type", "icmpv6-code", "icmpv6-id",
		"srckey", "dstkey", "reply-key-src", "reply-key-dst",
		"mask-key-src", "mask-key-dst", "tuple-key-src", "tuple-key-dst", "role",
	} {
		list = append(list, long{name, 0, required, ""})
	}
	return append(list, long{"orig-port-src", 0, required, "sport"}, long{"orig-port-dst", 0, required, "dport"},
		long{"orig-key-src", 0, required, "srckey"}, long{"orig-key-dst", 0, required, "dstkey"})
}()

// parser reads one command line.
type parser struct {
	line
	words []string
	proto bool // a protocol has brought its options
}

// parse reads words.
func parse(words []string) line {
	p := parser{line: line{table: "-"}, words: words}
	for len(p.words) > 0 && !p.bad {
		w := p.words[0]
		p.words = p.words[1:]
		switch {
		case w == "--":
			p.stray = append(p.stray, p.words...)
			p.words = nil
		case strings.HasPrefix(w, "--"):
			p.long(w[2:])
		case len(w) > 1 && w[0] == '-':
			p.short(w[1:])
		default:
			p.stray = append(p.stray, w)
		}
	}
	return p.line
}

// long reads a long option.
func (p *parser) long(w string) {
	name, value, attached := strings.Cut(w, "=")
	list := longs
	if p.proto {
		list = append(slices.Clip(list), protoLongs...)
	}
	found := lookup(list, name)
	if found == nil || attached && found.arg == none {
		p.bad = true
		return
	}
	p.take(*found, value, attached, true)
}

// lookup finds the option of a name or of its unique beginning.
func lookup(list []long, name string) *long {
	var found *long
	for i := range list {
		l := &list[i]
		if l.name == name {
			return l
		}
		if !strings.HasPrefix(l.name, name) {
			continue
		}
		if found != nil && (found.short != l.short || found.short == 0) {
			return nil
		}
		found = l
	}
	return found
}

// short reads a word of short options.
func (p *parser) short(w string) {
	for w != "" && !p.bad {
		i := slices.IndexFunc(longs, func(l long) bool { return l.short == w[0] })
		if i < 0 {
			p.bad = true
			return
		}
		l := longs[i]
		w = w[1:]
		if l.arg == command && w != "" {
			p.attached = true
			p.command(l.short)
			continue
		}
		p.take(l, w, w != "" && l.arg != none, false)
		if l.arg != none {
			return
		}
	}
}

// take books an option, with the next word if it needs one.
func (p *parser) take(l long, value string, attached, isLong bool) {
	if l.arg == command {
		p.attached = p.attached || attached
		p.command(l.short)
		if !attached {
			p.nextTable()
		}
		return
	}
	o := option{name: l.name, value: value, attached: attached, long: isLong}
	if l.means != "" {
		o.name = l.means
	}
	switch {
	case attached || l.arg == none:
	case l.arg == required && len(p.words) == 0:
		p.bad = true
	case l.arg == required, len(p.words) > 0 && !strings.HasPrefix(p.words[0], "-") && !strings.HasPrefix(p.words[0], "!"):
		o.value = p.words[0]
		p.words = p.words[1:]
	}
	p.proto = p.proto || o.name == "protonum"
	p.options = append(p.options, o)
}

func (p *parser) command(letter byte) { p.commands += string(letter) }

// nextTable takes the next word for a table's name.
func (p *parser) nextTable() {
	if len(p.words) > 0 && !strings.HasPrefix(p.words[0], "-") && !strings.HasPrefix(p.words[0], "!") {
		p.table = p.words[0]
		p.words = p.words[1:]
	}
}

// lines are the command lines that a case runs: its own, or those of a file.
func (c *Case) lines() []line {
	if len(c.Words) < 2 || c.Words[0] != "-R" && c.Words[0] != "--load-file" {
		return []line{parse(c.Words)}
	}
	text := c.File
	if c.Words[1] == "-" {
		text = c.Input
	}
	var list []line
	for s := range strings.Lines(text) {
		s = strings.TrimLeft(strings.TrimRight(s, "\n"), " \t")
		if s != "" && s[0] != '#' {
			list = append(list, parse(split(s)))
		}
	}
	return list
}

// split takes a line of a file apart: blanks divide, double quotes join, a
// backslash between them takes the next byte as it is.
func split(s string) (words []string) {
	var word []byte
	quoted := false
	end := func() {
		if len(word) > 0 {
			words = append(words, string(word))
		}
		word = nil
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\' && i+1 < len(s):
			i++
			word = append(word, s[i])
		case c == '"':
			if quoted {
				end() // a quote ends a word, whatever follows
			}
			quoted = !quoted
		case !quoted && (c == ' ' || c == '\t'):
			end()
		default:
			word = append(word, c)
		}
	}
	end()
	return words
}

// loads tells whether the case is of -R.
func (c *Case) loads() bool {
	return len(c.Words) > 1 && (c.Words[0] == "-R" || c.Words[0] == "--load-file")
}
