//go:build linux

package differ

import (
	"slices"
	"strings"
)

// spoilers make a mistake in a line, as people do.
var spoilers = []func(d *drawer, words []string) []string{
	func(d *drawer, w []string) []string { // leave a word out
		i := d.IntN(len(w))
		return slices.Delete(w, i, i+1)
	},
	func(d *drawer, w []string) []string { // add an option, often an illegal one
		return d.insert(w, d.any()...)
	},
	func(d *drawer, w []string) []string { // add an option, often an illegal one
		return d.insert(w, d.any()...)
	},
	func(d *drawer, w []string) []string { // a protocol's option
		if l := parse(w); !l.has("protonum") {
			w = append(w, d.spell("protonum", pick(d.Rand, "tcp", "gre", "dccp", "sctp", "udplite", "icmp"))...)
		}
		name := pick(d.Rand, protoLongs...).name
		return append(w, d.spellLong(name, d.fitting(name))...)
	},
	func(d *drawer, w []string) []string { // a bad value
		return d.replaceValue(w, pick(d.Rand, junk...))
	},
	func(d *drawer, w []string) []string { // a bad value
		return d.replaceValue(w, pick(d.Rand, junk...))
	},
	func(d *drawer, w []string) []string { // twice the same
		i := d.IntN(len(w))
		return d.insert(w, w[i])
	},
	func(d *drawer, w []string) []string { // stray words
		return d.insert(w, pick(d.Rand, "conntrack", "foo", "tcp", "x y", "1.2.3.4"))
	},
	func(d *drawer, w []string) []string { // a second command
		return d.insert(w, pick(d.Rand, "-L", "-D", "-C", "-F", "-U", "--dump", "-V", "-G"))
	},
	func(d *drawer, w []string) []string { // the argument is missing
		return append(w, pick(d.Rand, "-s", "--dst", "-p", "-t", "-m", "-u", "-o", "-w", "-f", "--label"))
	},
	func(d *drawer, w []string) []string { // no such option
		return d.insert(w, pick(d.Rand, "-Q", "--foo", "--orig", "--reply", "-x", "--s", "--d", "--state", "--sport", "--sport=1", "--zero=1", "-", "--", "--m"))
	},
	func(d *drawer, w []string) []string { // another order
		d.Shuffle(len(w), func(i, j int) { w[i], w[j] = w[j], w[i] })
		return w
	},
	func(d *drawer, w []string) []string { // another table
		return append([]string{w[0], pick(d.Rand, "foo", "expect", "dying", "unconfirmed", "e", "u", "", "conntracks", "EXPECT")}, w[1:]...)
	},
	func(d *drawer, w []string) []string { // bundled
		if l := parse(w); len(w[0]) == 2 && l.is("L") {
			w[0] += pick(d.Rand, "z", "oid", "fipv4", "p")
		}
		return w
	},
	func(d *drawer, w []string) []string { // the end is missing
		i := d.IntN(len(w))
		return w[:i+1]
	},
	func(d *drawer, w []string) []string { // the wrong case
		i := d.IntN(len(w))
		w[i] = pick(d.Rand, strings.ToUpper, strings.ToLower, strings.ToTitle)(w[i])
		return w
	},
	func(d *drawer, w []string) []string { // a letter is missing
		i := d.IntN(len(w))
		if n := len(w[i]); n > 2 {
			j := d.IntN(n)
			w[i] = w[i][:j] + w[i][j+1:]
		}
		return w
	},
}

// junk are values that are wrong for most options.
var junk = []string{
	"", "foo", "-1", "0", "1.2.3.4", "1.2.3.4/33", "1.2.3.4/24", "10.1.1.1/x", "::1", "fe80::1/64", "2001:db8::/129",
	"1.2.3", "1.2.3.4.5", "256.1.1.1", "0x", "08", "65536", "70000", "4294967296", "99999999999999999999", "5/", "5/x", "x/5", "/5", " 5", "5 ",
	"+5", "tcp", "TCP", "ip", "300", "256", "255", "udplite", "dccp", "ipv5", "ipv6", "ESTABLISHED", "established",
	"ASSURED,", ",ASSURED", "ASSURED,,EXPECTED", "SRC_NAT", "s", "DST_NAT", "!", "!foo", "UNREPLIED", "unreplied", "xml,save", "xml,", "NEW,",
	"save", "x,e,t,i,k,l,u", "zero,one", "none", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:99999", "[::1]:", "[]", "[::1", "[::1]:80", ":80", "1.2.3.4:8x",
}

// insert puts words somewhere.
func (d *drawer) insert(words []string, more ...string) []string {
	return slices.Insert(words, d.IntN(len(words)+1), more...)
}

// replaceValue gives one of the words another value.
func (d *drawer) replaceValue(words []string, value string) []string {
	for range 10 {
		i := d.IntN(len(words))
		name, _, attached := strings.Cut(words[i], "=")
		switch {
		case attached && strings.HasPrefix(name, "--"):
			words[i] = name + "=" + value
		case strings.HasPrefix(words[i], "-"):
			continue
		default:
			words[i] = value
		}
		break
	}
	return words
}

// any draws an option of all there are, with a value that fits it or not.
func (d *drawer) any() []string {
	if d.one(3) {
		return pick(d.Rand, conditions...).draw(d)
	}
	l := pick(d.Rand, longs[12:]...) // without the commands
	if d.one(4) {
		l = pick(d.Rand, protoLongs...)
	}
	if l.arg == none || l.arg == optional && d.one(2) {
		return []string{"--" + l.name}
	}
	return d.spellLong(l.name, d.fitting(l.name))
}

// fitting is a value that fits an option, mostly.
func (d *drawer) fitting(name string) string {
	switch {
	case d.one(6):
		return pick(d.Rand, junk...)
	case strings.HasSuffix(name, "zone"), strings.HasSuffix(name, "mark"), name == "id", name == "timeout":
		return d.number(uint64(100 + d.IntN(300)))
	case strings.Contains(name, "port"), strings.Contains(name, "key"), strings.Contains(name, "tag"), strings.Contains(name, "icmp"):
		return pick(d.Rand, "80", "53", "1001", "8", "0")
	}
	switch name {
	case "role":
		return pick(d.Rand, "client", "server")
	case "protonum":
		return pick(d.Rand, "tcp", "udp", "sctp", "icmp", "gre", "6", "esp", "200")
	case "status":
		return pick(d.Rand, "ASSURED", "SEEN_REPLY", "UNSET")
	case "event-mask":
		return pick(d.Rand, "NEW", "ALL")
	case "family":
		return pick(d.Rand, "ipv4", "ipv6")
	case "output":
		return pick(d.Rand, "xml", "extended", "save", "id")
	case "label", "label-add", "label-del":
		return pick(d.Rand, labelNames...).name
	case "state":
		return pick(d.Rand, "ESTABLISHED", "NONE", "CLOSED")
	}
	return d.ip(pick(d.Rand, d.f.Orig.Src, d.f.Orig.Dst, d.f.Reply.Src))
}

// spoil makes a mistake or two in the line, or in the file it loads.
func (d *drawer) spoil() {
	for range 1 + d.IntN(4)/3 {
		if d.c.loads() && !d.one(5) {
			d.spoilFile()
			continue
		}
		if len(d.c.Words) > 0 {
			d.c.Words = pick(d.Rand, spoilers...)(d, d.c.Words)
		}
	}
}

// spoilFile makes a mistake in a line of the file.
func (d *drawer) spoilFile() {
	text := &d.c.File
	if d.c.Words[1] == "-" {
		text = &d.c.Input
	}
	lines := strings.Split(*text, "\n")
	i := d.IntN(len(lines))
	switch words := strings.Fields(lines[i]); {
	case d.one(8):
		lines[i] = pick(d.Rand, "-L", "-C", "-I expect", "-G -p tcp", "foo", "conntrack", `-D "`, `"-D" -s "1.2.3.4`, "-F expect", "-V", "--load-file x")
	case len(words) > 0:
		lines[i] = strings.Join(pick(d.Rand, spoilers...)(d, words), " ")
	}
	*text = strings.Join(lines, "\n")
}
