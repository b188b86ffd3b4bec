//go:build linux

package differ

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"flowcut/conntrack"
)

func (d *drawer) list() []string {
	cmd := d.command('L', "", "", "", "", "conntrack", "c", "con", "expect", "e", "exp", "dying", "d", "unconfirmed", "u")
	l := parse(cmd)
	switch {
	case l.table != "-" && l.expect():
		blocks := [][]string{cmd}
		if d.one(3) {
			blocks = append(blocks, d.family())
		}
		if d.one(3) {
			blocks = append(blocks, d.spell("output", pick(d.Rand, "xml", "timestamp", "id", "extended")))
		}
		return d.blocks(blocks)
	case d.one(16):
		return d.blocks([][]string{cmd, pick(d.Rand, []string{"-z"}, []string{"--zero"}, []string{"-z", "-o", "id"})})
	}
	blocks := append([][]string{cmd}, d.narrow("L", 4)...)
	if d.one(3) {
		blocks = append(blocks, d.output("xml", "extended", "id", "labels", "ktimestamp", "timestamp", "userspace"))
	}
	return d.blocks(blocks)
}

func (d *drawer) delete() []string {
	cmd := d.command('D', "", "", "", "conntrack", "c")
	most := 5
	if d.one(4) {
		// What scripts do: all of a flow.
		return d.blocks([][]string{cmd, d.spell("src", d.ip(d.f.Orig.Src)), d.spell("dst", d.ip(d.f.Orig.Dst)), d.protocol()})
	}
	blocks := append([][]string{cmd}, d.narrow("D", most)...)
	if d.one(4) {
		blocks = append(blocks, d.output("extended", "id", "labels"))
	}
	return d.blocks(blocks)
}

// tupleWords are -s, -d and -p with all of one direction, or both.
func (d *drawer) tupleWords(f *conntrack.Flow, both bool) (blocks [][]string) {
	orig, reply := both || !d.one(3), both
	if !orig {
		reply = true
	}
	if orig {
		blocks = append(blocks, d.spell("src", d.ip(f.Orig.Src)), d.spell("dst", d.ip(f.Orig.Dst)))
	}
	if reply {
		blocks = append(blocks, d.spell("reply-src", d.ip(f.Reply.Src)), d.spell("reply-dst", d.ip(f.Reply.Dst)))
	}
	proto := d.spell("protonum", d.protoName())
	for _, o := range d.protoOptions(f) {
		isReply := strings.HasPrefix(o[0], "reply-")
		isEither := strings.HasPrefix(o[0], "icmp") || o[0] == "state"
		if isEither || isReply && reply || !isReply && orig {
			if o[0] != "state" { // those who need it add it
				proto = append(proto, d.spell(o[0], o[1])...)
			}
		}
	}
	return append(blocks, proto)
}

func (d *drawer) get() []string {
	blocks := append([][]string{d.command('G', "", "", "conntrack")}, d.tupleWords(d.f, false)...)
	if d.one(3) {
		blocks = append(blocks, d.output("extended", "id", "labels", "ktimestamp"))
	}
	if d.one(12) {
		blocks = append(blocks, d.spell("id", fmt.Sprintf("{id:%d}", d.n)))
	}
	if d.one(20) {
		blocks = append(blocks, d.label())
	}
	return d.blocks(blocks)
}

// other returns a flow like d.f that is not there, mostly.
func (d *drawer) other() *conntrack.Flow {
	f := d.f.Clone()
	if d.one(4) {
		return f
	}
	v6 := f.Orig.Src.Is6()
	f.Orig.Src = client(v6, 220+d.IntN(9))
	if f.Reply.Dst == d.f.Orig.Src {
		f.Reply.Dst = f.Orig.Src
	}
	if f.Orig.IsICMP() {
		f.Orig.ICMPID += 3000
	}
	f.Reply.ICMPID = f.Orig.ICMPID
	return f
}

func (d *drawer) create() []string {
	return d.creation(d.command(pick[byte](d.Rand, 'I', 'I', 'A'), "", "", "conntrack"))
}

// creation draws what makes a flow.
func (d *drawer) creation(cmd []string) []string {
	f := d.other()
	d.c.makes = append(d.c.makes, f.Orig)
	tuple := d.tupleWords(f, d.one(4))
	last := &tuple[len(tuple)-1]
	switch f.Orig.Proto {
	case conntrack.ProtoTCP:
		*last = append(*last, d.spell("state", pick(d.Rand, f.TCP.State.String(), "ESTABLISHED", "SYN_SENT", "LISTEN", "NONE"))...)
	case conntrack.ProtoSCTP:
		*last = append(*last, d.spell("state", f.SCTP.State.String())...)
		*last = append(*last, d.spell("orig-vtag", strconv.Itoa(d.IntN(99)))...)
		*last = append(*last, d.spell("reply-vtag", strconv.Itoa(d.IntN(99)))...)
	}
	blocks := append([][]string{cmd, d.spell("timeout", strconv.Itoa(100+d.IntN(900)))}, tuple...)
	add := func(in int, words []string) {
		if d.one(in) {
			blocks = append(blocks, words)
		}
	}
	add(4, d.spell("mark", d.number(uint64(d.IntN(300)))))
	add(4, d.spell("status", pick(d.Rand, "ASSURED", "SEEN_REPLY", "ASSURED,SEEN_REPLY", "UNSET", "FIXED_TIMEOUT", "seen", "a,f")))
	add(6, d.spell("label-add", pick(d.Rand, labelNames...).name))
	add(8, d.spell("zone", pick(d.Rand, "0", "1", "7", "8")))
	add(12, d.spell("orig-zone", pick(d.Rand, "1", "7")))
	add(12, d.spell("reply-zone", pick(d.Rand, "1", "7")))
	v6 := f.Orig.Src.Is6()
	add(5, append(d.spellFlag("dst-nat"), d.target(inside(v6, 33), f)))
	add(6, append(d.spellFlag("src-nat"), d.target(inside(v6, 233), f)))
	return d.blocks(blocks)
}

// target is what a new flow is translated to.
func (d *drawer) target(a netip.Addr, f *conntrack.Flow) string {
	switch {
	case !d.one(3) || !f.Orig.HasPorts():
		return a.String()
	case a.Is6():
		return "[" + a.String() + "]:8081"
	}
	return a.String() + ":8081"
}

func (d *drawer) update() []string {
	return d.updating(d.command('U', "", "", "conntrack"), true)
}

// updating draws what is changed, and of which flows.
func (d *drawer) updating(cmd []string, output bool) []string {
	blocks := [][]string{cmd}
	blocks = append(blocks, d.narrow("U", 3)...)
	if !slices.ContainsFunc(blocks[1:], func(b []string) bool { l := parse(b); return l.has("protonum") }) && d.one(2) {
		blocks = append(blocks, d.tupleWords(d.f, false)...)
	}
	if l := parse(d.blocks(blocks)); !l.has("family") && d.one(2) {
		blocks = append(blocks, d.spell("family", d.f.Orig.Family().String()))
	}
	for range 1 + d.IntN(2) {
		kind := d.IntN(6)
		if l := parse(d.blocks(blocks)); kind == 2 && !l.oneFlow() && !d.one(6) {
			kind = 0 // the kernel refuses it for some flows, and there the reference stops
		}
		switch kind {
		case 0, 1:
			v := d.number(uint64(d.IntN(300)))
			if d.one(2) {
				v += "/" + d.number(pick[uint64](d.Rand, 0xff, 1, 0xffffffff, 0, 0xf0))
			}
			blocks = append(blocks, d.spell("mark", v))
		case 2:
			blocks = append(blocks, d.spell("timeout", strconv.Itoa(100+d.IntN(900))))
		case 3:
			blocks = append(blocks, d.spell("status", pick(d.Rand, "ASSURED", "SEEN_REPLY", "ASSURED,SEEN_REPLY", "FIXED_TIMEOUT")))
		case 4:
			blocks = append(blocks, d.spell("label-add", pick(d.Rand, labelNames...).name))
		case 5:
			words := d.spellFlag("label-del")
			if !d.one(3) {
				words = append(words, d.label()...)[:1]
				words = append(words, pick(d.Rand, labelNames...).name)
			}
			blocks = append(blocks, words)
		}
	}
	if output && d.one(4) {
		blocks = append(blocks, d.output("extended", "id", "labels"))
	}
	return d.blocks(blocks)
}

func (d *drawer) event() []string {
	if d.one(5) {
		cmd := d.command('E', "expect", "e")
		if d.one(3) {
			cmd = append(cmd, d.spell("output", pick(d.Rand, "timestamp", "id"))...)
		}
		return cmd
	}
	blocks := [][]string{d.command('E', "", "", "conntrack")}
	d.f = pick(d.Rand, d.w.extra...)
	d.n = 0
	if d.one(2) {
		blocks = append(blocks, d.narrow("E", 1)...)
	}
	if d.one(2) {
		blocks = append(blocks, d.spell("event-mask", pick(d.Rand, "NEW", "UPDATES", "DESTROY", "ALL", "NEW,DESTROY", "new,u", "de", "n")))
	}
	if d.one(2) {
		blocks = append(blocks, d.output("xml", "extended", "id", "labels", "ktimestamp", "timestamp", "userspace"))
	}
	if d.one(8) {
		blocks = append(blocks, d.spell("buffer-size", "65536"))
	}
	return d.blocks(blocks)
}

// plain is one of those that take nothing or little.
func (d *drawer) plain() []string {
	switch d.IntN(8) {
	case 0:
		return d.command('C', "", "expect", "e", "conntrack")
	case 1:
		return d.command('S', "", "expect", "conntrack")
	case 2:
		return d.command('V', "", "expect")
	case 3:
		return append(d.command('h'), pick(d.Rand, nil, []string{"-p", "tcp"}, []string{"-p", "esp"}, []string{"--proto", "icmp"})...)
	case 4:
		return nil
	case 5:
		return append(d.command('F', "", "conntrack", "c"), pick(d.Rand, nil, nil, d.family())...)
	case 6:
		return d.command('F', "expect", "e", "exp")
	}
	return d.command('C', "", "conntrack", "exp")
}

// load draws -R with a file or standard input.
func (d *drawer) load() []string {
	var b strings.Builder
	for range 1 + d.IntN(4) {
		d.aim()
		switch d.IntN(12) {
		case 0:
			b.WriteString("# a comment\n")
		case 1:
			b.WriteString(pick(d.Rand, "\n", "  \t# indented\n", "   \n"))
		}
		var words []string
		switch d.IntN(7) {
		case 0, 1, 2:
			words = d.creation(d.command(pick[byte](d.Rand, 'A', 'I', 'A'), "", "conntrack"))
		case 3, 4:
			words = d.blocks(append([][]string{d.command('D')}, d.tupleWords(d.f, false)...))
		case 5:
			words = d.updating(d.command('U'), false)
		case 6:
			words = pick(d.Rand, d.command('F'), d.command('D'), d.command('D', "conntrack"))
			if !d.one(4) {
				words = append([]string{"-D"}, d.spell("reply-src", d.ip(d.f.Reply.Src))...)
			}
		}
		for i, w := range words {
			if i > 0 {
				b.WriteString(pick(d.Rand, " ", " ", " ", "  ", "\t"))
			} else if d.one(6) {
				b.WriteString(pick(d.Rand, " ", "\t", "conntrack "))
			}
			b.WriteString(d.quote(w))
		}
		if !d.one(20) {
			b.WriteString("\n")
		} else {
			b.WriteString(" \n")
		}
	}
	text := b.String()
	if d.one(8) {
		text = strings.TrimSuffix(text, "\n")
	}
	load := pick(d.Rand, "-R", "-R", "--load-file")
	if d.one(2) {
		d.c.Input = text
		return []string{load, "-"}
	}
	d.c.File = text
	return []string{load, "{file}"}
}

// quote quotes a word sometimes.
func (d *drawer) quote(w string) string {
	if d.one(8) && !strings.Contains(w, `"`) {
		if d.one(4) && len(w) > 2 && w[0] != '{' {
			return `"` + w[:1] + `\` + w[1:] + `"`
		}
		return `"` + w + `"`
	}
	return w
}

// expectation draws commands on expectations.
func (d *drawer) expectation() []string {
	masters := slices.DeleteFunc(slices.Clone(d.w.flows), func(f *conntrack.Flow) bool { return f.Helper == "" })
	if len(masters) > 0 && !d.one(6) {
		d.f = pick(d.Rand, masters...)
	}
	v6 := d.f.Orig.Src.Is6()
	letter := pick[byte](d.Rand, 'I', 'I', 'D', 'G', 'F', 'F', 'C', 'L')
	blocks := [][]string{d.command(letter, "expect", "e", "exp")}
	if strings.IndexByte("FCL", letter) >= 0 {
		return blocks[0]
	}
	if letter != 'I' {
		if d.w.ftp && !d.one(3) {
			return append(blocks[0], d.expected(letter)...)
		}
		proto := append(d.spell("protonum", d.protoName()), d.allPorts("sport", "dport", "reply-port-src", "reply-port-dst")...)
		return d.blocks(append(blocks, d.spell("src", d.ip(d.f.Orig.Src)), d.spell("dst", d.ip(d.f.Orig.Dst)), proto))
	}
	mask := "255.255.255.255"
	if v6 {
		mask = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
	}
	proto := append(d.spell("protonum", d.protoName()), d.allPorts("sport", "dport", "tuple-port-src", "tuple-port-dst")...)
	proto = append(proto, d.spell("mask-port-src", pick(d.Rand, "0", "65535"))...)
	proto = append(proto, d.spell("mask-port-dst", "65535")...)
	return d.blocks(append(blocks, d.spell("timeout", strconv.Itoa(100+d.IntN(200))),
		d.spell("src", d.f.Orig.Src.String()), d.spell("dst", d.f.Orig.Dst.String()),
		d.spell("tuple-src", client(v6, 1+d.IntN(4)).String()), d.spell("tuple-dst", inside(v6, 9).String()),
		d.spell("mask-src", mask), d.spell("mask-dst", mask), proto))
}

// allPorts writes ports of the flow and others.
func (d *drawer) allPorts(names ...string) (words []string) {
	for i, name := range names {
		n := []uint16{d.f.Orig.SrcPort, d.f.Orig.DstPort, 0, uint16(40000 + d.IntN(9))}[i]
		words = append(words, d.spell(name, strconv.Itoa(int(n)))...)
	}
	return words
}

// expected names an expectation of a live session, or its master.
func (d *drawer) expected(letter byte) []string {
	dst, sport, dport := "127.0.0.1", "0", "30721"
	if letter == 'G' {
		sport, dport = "30021", "21"
	}
	if d.one(3) {
		dport = "30978"
	}
	return []string{
		"-s", "127.0.0.1", "-d", dst, "-p", "tcp", "--sport", sport, "--dport", dport,
		"--reply-port-src", dport, "--reply-port-dst", sport,
	}
}
