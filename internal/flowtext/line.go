package flowtext

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/oneline"
)

// lineReader reads one line. Its words are, in this order: of an event time and
// kind; the family; the protocol, by name and number; the timeout; the state; the
// original direction; the reply direction; and what else there is.
type lineReader struct {
	Reader
	entry Entry
	rest  string // of the line, without blanks in front
}

// next takes a word.
func (l *lineReader) next() string {
	word, rest, _ := strings.Cut(l.rest, " ")
	l.rest = strings.TrimLeft(rest, " \t")
	return word
}

// peek returns the next word without taking it.
func (l *lineReader) peek() string {
	word, _, _ := strings.Cut(l.rest, " ")
	return word
}

// take takes the next word if it begins with a name, and returns what is behind.
func (l *lineReader) take(name string) (value string, ok bool) {
	if value, ok = strings.CutPrefix(l.peek(), name); ok {
		l.next()
	}
	return value, ok
}

func (l *lineReader) read(line string) error {
	l.rest = line
	f := &l.entry.Flow
	if err := l.prefix(); err != nil {
		return err
	}
	family, err := l.family()
	if err != nil {
		return err
	}
	proto, err := l.proto()
	if err != nil {
		return err
	}
	if n, err := strconv.ParseUint(l.peek(), 10, 32); err == nil {
		l.next()
		f.Timeout, f.Has = time.Duration(n)*time.Second, f.Has|conntrack.AttrTimeout
	}
	if err := l.state(proto); err != nil {
		return err
	}
	f.Has |= conntrack.AttrOrig | conntrack.AttrReply | conntrack.AttrStatus
	f.Orig.Proto, f.Reply.Proto = proto, proto
	if err := l.direction(direction{"original", &f.Orig, &f.OrigZone, &f.OrigCounters, "zone-orig=", conntrack.AttrOrigZone, conntrack.AttrOrigCounters}); err != nil {
		return err
	}
	if _, unreplied := l.take("[UNREPLIED]"); !unreplied {
		f.Status |= conntrack.StatusSeenReply
	}
	if err := l.direction(direction{"reply", &f.Reply, &f.ReplyZone, &f.ReplyCounters, "zone-reply=", conntrack.AttrReplyZone, conntrack.AttrReplyCounters}); err != nil {
		return err
	}
	if f.Orig.Family() != f.Reply.Family() || family != conntrack.FamilyBoth && family != f.Orig.Family() {
		return errors.New("addresses of two families")
	}
	for l.rest != "" {
		if err := l.more(); err != nil {
			return err
		}
	}
	return nil
}

// prefix reads what conntrack(8) -E puts in front.
func (l *lineReader) prefix() error {
	if word := l.peek(); strings.HasPrefix(word, "[") && strings.Contains(word, ".") {
		word, rest, _ := strings.Cut(l.rest, "]")
		if _, err := strconv.ParseFloat(word[1:], 64); err != nil {
			return fmt.Errorf("no time of an event: %s", oneline.Value(word+"]"))
		}
		l.rest = strings.TrimLeft(rest, " \t")
	}
	for kind, name := range eventNames {
		if name == "" {
			continue // a kind is a bit
		}
		if _, ok := l.take("[" + strings.ToUpper(name) + "]"); ok {
			l.entry.Event = conntrack.EventKind(kind)
			return nil
		}
	}
	return nil
}

// family reads "ipv4 2", if it is there.
func (l *lineReader) family() (conntrack.Family, error) {
	f, err := conntrack.ParseFamily(l.peek())
	if err != nil || f == conntrack.FamilyBoth {
		return conntrack.FamilyBoth, nil
	}
	l.next()
	if word := l.next(); word != strconv.Itoa(int(f)) {
		return 0, fmt.Errorf("the family %v has the number %d, not %s", f, f, oneline.Value(word))
	}
	return f, nil
}

// proto reads "tcp 6".
func (l *lineReader) proto() (conntrack.Proto, error) {
	name := l.next()
	n, err := strconv.ParseUint(l.peek(), 10, 8)
	if err != nil {
		return 0, fmt.Errorf("this is no line of conntrack(8): after %s there is no number of a protocol", oneline.Value(name))
	}
	l.next()
	if p, err := conntrack.ParseProto(name); name != "unknown" && (err != nil || p != conntrack.Proto(n)) {
		return 0, fmt.Errorf("protocol %d is not called %s", n, oneline.Value(name))
	}
	return conntrack.Proto(n), nil
}

// state reads the state of a protocol that has one, if it is there.
func (l *lineReader) state(p conntrack.Proto) (err error) {
	for _, own := range []string{"timeout=", "stream_timeout="} { // which /proc shows of GRE
		if p == conntrack.ProtoGRE {
			l.take(own)
		}
	}
	word := l.peek()
	if word == "" || strings.Contains(word, "=") {
		return nil
	}
	f := &l.entry.Flow
	switch p {
	case conntrack.ProtoTCP:
		f.Has |= conntrack.AttrTCP
		f.TCP.State, err = conntrack.ParseTCPState(word)
	case conntrack.ProtoSCTP:
		f.Has |= conntrack.AttrSCTP
		f.SCTP.State, err = conntrack.ParseSCTPState(word)
	case conntrack.ProtoDCCP:
		f.Has |= conntrack.AttrDCCP
		f.DCCP.State, err = conntrack.ParseDCCPState(word)
	default:
		return fmt.Errorf("protocol %v has no state: %s", p, oneline.Value(word))
	}
	if err != nil {
		return fmt.Errorf("protocol %v has no such state: %s", p, oneline.Value(word))
	}
	l.next()
	return nil
}

// direction is where what a line has of a direction goes.
type direction struct {
	name                 string
	tuple                *conntrack.Tuple
	zone                 *conntrack.Zone
	counters             *conntrack.Counters
	zoneName             string // before the zone of this direction alone
	hasZone, hasCounters conntrack.Attr
}

// direction reads a tuple, with the zone and the counters of its direction.
func (l *lineReader) direction(d direction) error {
	f := &l.entry.Flow
	if err := l.tuple(d.tuple); err != nil {
		return fmt.Errorf("%s direction: %w", d.name, err)
	}
	if v, ok := l.take(d.zoneName); ok {
		f.Has |= d.hasZone
		if err := number(d.zone, d.zoneName, v, 10, 16); err != nil {
			return err
		}
	}
	v, ok := l.take("packets=")
	if !ok {
		return nil
	}
	f.Has |= d.hasCounters
	if err := number(&d.counters.Packets, "packets=", v, 10, 64); err != nil {
		return err
	}
	return l.needed("bytes=", func(v string) error { return number(&d.counters.Bytes, "bytes=", v, 10, 64) })
}

// tuple reads addresses, and what the protocol has beside them.
func (l *lineReader) tuple(t *conntrack.Tuple) error {
	if err := errors.Join(l.needed("src=", address(&t.Src)), l.needed("dst=", address(&t.Dst))); err != nil {
		return errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if t.Src.Is4() != t.Dst.Is4() {
		return errors.New("addresses of two families")
	}
	type field struct {
		name string
		read func(string) error
	}
	var fields []field
	switch {
	case t.HasPorts():
		fields = []field{
			{"sport=", func(v string) error { return number(&t.SrcPort, "sport=", v, 10, 16) }},
			{"dport=", func(v string) error { return number(&t.DstPort, "dport=", v, 10, 16) }},
		}
	case t.Proto == conntrack.ProtoGRE:
		fields = []field{
			{"srckey=0x", func(v string) error { return number(&t.SrcPort, "srckey=0x", v, 16, 16) }},
			{"dstkey=0x", func(v string) error { return number(&t.DstPort, "dstkey=0x", v, 16, 16) }},
		}
	case t.IsICMP():
		fields = []field{
			{"type=", func(v string) error { return number(&t.ICMPType, "type=", v, 10, 8) }},
			{"code=", func(v string) error { return number(&t.ICMPCode, "code=", v, 10, 8) }},
			{"id=", func(v string) error { return number(&t.ICMPID, "id=", v, 10, 16) }},
		}
	}
	for _, x := range fields {
		if err := l.needed(x.name, x.read); err != nil {
			return err
		}
	}
	return nil
}

// needed reads a word that must be there.
func (l *lineReader) needed(name string, read func(value string) error) error {
	v, ok := l.take(name)
	switch {
	case ok:
		return read(v)
	case l.rest == "":
		return fmt.Errorf("the line ends where %s should be", name)
	}
	return fmt.Errorf("%s is where %s should be", oneline.Value(l.peek()), name)
}

// address returns what reads an address.
func address(to *netip.Addr) func(string) error {
	return func(v string) error {
		a, err := netip.ParseAddr(v)
		if err != nil || a.Zone() != "" {
			return fmt.Errorf("no address: %s", oneline.Value(v))
		}
		*to = a
		return nil
	}
}

// number reads a number of so many bits.
func number[T ~uint8 | ~uint16 | ~uint32 | ~uint64](to *T, name, v string, base, size int) error {
	n, err := strconv.ParseUint(v, base, size)
	if err != nil {
		return fmt.Errorf("no number of %d bits: %s", size, oneline.Value(name+v))
	}
	*to = T(n)
	return nil
}
