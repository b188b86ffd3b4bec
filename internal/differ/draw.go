//go:build linux

package differ

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"

	"flowcut/conntrack"
)

// drawer draws one command line.
type drawer struct {
	*rand.Rand
	w *world
	f *conntrack.Flow // what the line is about, if it is to match something
	n int             // its number in the world
	c *Case
}

// rarely is how many of the lines that meet a known deviation are drawn
// nevertheless: one in so many.
const rarely = 40

// draw returns the case of a seed.
func draw(seed uint64, w *world, v version, strict bool) *Case {
	const stream = 2
	r := random(seed, stream)
	for {
		d := drawer{Rand: r, w: w, c: &Case{Seed: seed, World: w.number}}
		d.line()
		d.c.Words = clean(d.c.Words)
		if r.IntN(rarely) == 0 || known(d.c, w, v, strict) == nil {
			return d.c
		}
	}
}

// clean takes out what no program can be given.
func clean(words []string) []string {
	for i, w := range words {
		words[i] = strings.ReplaceAll(w, "\x00", "")
	}
	return words
}

// recipe is a kind of command line.
type recipe struct {
	often int
	draw  func(*drawer) []string
}

// recipes are all kinds.
var recipes = []recipe{
	{30, (*drawer).list},
	{14, (*drawer).delete},
	{8, (*drawer).get},
	{11, (*drawer).create},
	{10, (*drawer).update},
	{2, (*drawer).event},
	{3, (*drawer).plain},
	{8, (*drawer).load},
	{9, (*drawer).expectation},
}

// line draws the whole line, and spoils some.
func (d *drawer) line() {
	d.aim()
	d.c.Words = d.valid()
	if d.IntN(100) < 36 {
		d.spoil()
	}
}

// valid draws a line that is likely to be right.
func (d *drawer) valid() []string {
	sum := 0
	for _, k := range recipes {
		sum += k.often
	}
	n := d.IntN(sum)
	for _, k := range recipes {
		if n -= k.often; n < 0 {
			return k.draw(d)
		}
	}
	return nil
}

// aim chooses the flow that the line is about.
func (d *drawer) aim() {
	d.n = d.IntN(len(d.w.flows))
	d.f = d.w.flows[d.n]
}

// one tells true once in n times.
func (d *drawer) one(n int) bool { return d.IntN(n) == 0 }

// spell writes an option with its argument in one of the ways there are.
func (d *drawer) spell(name, value string) []string {
	i := 0
	for longs[i].name != name {
		i++
		if i == len(longs) {
			return d.spellLong(name, value)
		}
	}
	short := "-" + string(longs[i].short)
	switch n := d.IntN(16); {
	case !isLetter(longs[i].short) || n > 9:
		return d.spellLong(name, value)
	case n == 0 && value != "":
		return []string{short + value}
	}
	return []string{short, value}
}

func isLetter(c byte) bool { return c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' }

// spellLong writes a long option, sometimes by another name or shortened.
func (d *drawer) spellLong(name, value string) []string {
	if alias, ok := aliases[name]; ok && d.one(5) {
		name = alias
	}
	if d.one(6) {
		for n := 2 + d.IntN(4); n < len(name); n++ {
			if l := lookup(append(longs[:len(longs):len(longs)], protoLongs...), name[:n]); l != nil {
				name = name[:n]
				break
			}
		}
	}
	if d.one(3) {
		return []string{"--" + name + "=" + value}
	}
	return []string{"--" + name, value}
}

// aliases are other names of options.
var aliases = map[string]string{
	"src": "orig-src", "dst": "orig-dst", "sport": "orig-port-src", "dport": "orig-port-dst",
	"srckey": "orig-key-src", "dstkey": "orig-key-dst",
}

// command writes a command and sometimes its table.
func (d *drawer) command(letter byte, tables ...string) []string {
	words := []string{"-" + string(letter)}
	if d.one(5) {
		for _, l := range longs {
			if l.short == letter {
				words = []string{"--" + l.name}
			}
		}
	}
	if len(tables) > 0 {
		if t := pick(d.Rand, tables...); t != "" {
			words = append(words, t)
		}
	}
	return words
}

// blocks joins groups of words in any order; the first stays in front mostly.
func (d *drawer) blocks(blocks [][]string) (words []string) {
	rest := blocks
	if !d.one(5) {
		words, rest = append(words, blocks[0]...), blocks[1:]
	}
	for _, i := range d.Perm(len(rest)) {
		words = append(words, rest[i]...)
	}
	return words
}

// number writes n in one of C's bases.
func (d *drawer) number(n uint64) string {
	switch d.IntN(6) {
	case 0:
		return fmt.Sprintf("0x%x", n)
	case 1:
		return fmt.Sprintf("0%o", n)
	}
	return strconv.FormatUint(n, 10)
}

// ip writes an address, sometimes in a way that few know, and sometimes
// another one.
func (d *drawer) ip(a netip.Addr) string {
	if d.one(14) {
		a = a.Next()
	}
	if a.Is6() {
		switch d.IntN(8) {
		case 0:
			return a.StringExpanded()
		case 1:
			return strings.ToUpper(a.String())
		}
		return a.String()
	}
	b := a.As4()
	switch d.IntN(16) {
	case 0:
		return fmt.Sprintf("%d.%d.%d", b[0], b[1], int(b[2])<<8|int(b[3]))
	case 1:
		return fmt.Sprintf("0x%x", int(b[0])<<24|int(b[1])<<16|int(b[2])<<8|int(b[3]))
	case 2:
		return fmt.Sprintf("0%o.%d.0x%x.%d", b[0], b[1], b[2], b[3])
	}
	return a.String()
}
