//go:build linux

package differ

import (
	"slices"
	"strconv"
	"strings"

	"flowcut/conntrack"
)

// deviation is a kind of command line with which the subject does not do what
// the reference does, on purpose.
type deviation struct {
	reason string
	since  int // versions 1.4.x from this one on
	until  int // versions 1.4.x before this one; 0: all

	applies func(l *line, s *situation) bool

	// unsteady: the reference does not do the same twice.
	unsteady bool

	// check, unless nil, holds the subject to what it should do instead.
	check func(*trial, *Result) ([]string, error)
}

// situation is what else the lines stand in.
type situation struct {
	c     *Case
	w     *world
	v     version
	lines []line
}

// known returns the deviation that a case is of, nil if the programs are to agree.
// Only that the reference does not do the same twice counts if strict is true.
func known(c *Case, w *world, v version, strict bool) *deviation {
	s := &situation{c: c, w: w, v: v, lines: c.lines()}
	for i := range deviations {
		d := &deviations[i]
		if d.until != 0 && !v.before(4, d.until) || v.before(4, d.since) || strict && !d.unsteady {
			continue
		}
		if slices.ContainsFunc(s.lines, func(l line) bool { return d.applies(&l, s) }) {
			return d
		}
	}
	return nil
}

// deviations are those of CONNTRACK8, section 3, and those of old versions.
var deviations = []deviation{
	{reason: "-D -u does not look at what a flow has not", applies: func(l *line, _ *situation) bool {
		return l.is("D") && slices.ContainsFunc(l.values("status"), func(v string) bool {
			return strings.Contains(v, "!") || strings.Contains(v, "UNREPLIED") || hasPrefixWord(v, "UNSET") ||
				hasPrefixWord(v, "SRC_NAT") || hasPrefixWord(v, "DST_NAT")
		})
	}, check: deletesWhatItLists},
	{reason: "-n, -g, -j forget an IPv6 address", applies: func(l *line, _ *situation) bool {
		return l.is("LDUE") && slices.ContainsFunc(l.values("src-nat", "dst-nat", "any-nat"), func(v string) bool { return strings.Count(v, ":") > 1 })
	}, check: deletesWhatItLists},
	{reason: "-n, -g, -j drop an attached address", applies: func(l *line, _ *situation) bool {
		return slices.ContainsFunc(l.options, func(o option) bool {
			return o.attached && slices.Contains([]string{"src-nat", "dst-nat", "any-nat", "label-del"}, o.name)
		})
	}, check: deletesWhatItLists},
	{reason: "-n, -g, -j IP:PORT do not find a port that was kept", applies: func(l *line, _ *situation) bool {
		return l.is("LDUE") && slices.ContainsFunc(l.values("src-nat", "dst-nat", "any-nat"), func(v string) bool { return strings.Contains(v, ":") })
	}, check: deletesWhatItLists},
	{reason: "-e and -o take beginnings of SRC_NAT and DST_NAT", applies: func(l *line, _ *situation) bool {
		return slices.ContainsFunc(l.values("event-mask", "output"), func(v string) bool { return hasPrefixWord(v, "SRC_NAT") || hasPrefixWord(v, "DST_NAT") })
	}},
	{reason: "-F -f flushes the other family, too", applies: func(l *line, _ *situation) bool {
		return l.is("F") && l.has("family")
	}},
	{reason: "-R gives the last mark to all", applies: func(l *line, s *situation) bool {
		return s.c.loads() && len(s.lines) > 1 && l.has("mark", "label-add", "label-del", "label", "mask-src", "mask-dst") || s.c.loads() && len(s.lines) > 1 && l.cidr()
	}},
	{reason: "-R with labels frees them twice", unsteady: true, applies: func(l *line, s *situation) bool {
		return s.c.loads() && len(s.lines) > 1 && l.has("label-add", "label-del", "label")
	}},
	{reason: "keys, tags, secmark are not compared", applies: func(l *line, _ *situation) bool {
		return l.is("LDUE") && l.has("srckey", "dstkey", "reply-key-src", "reply-key-dst", "secmark") ||
			l.is("LDUEG") && l.has("orig-vtag", "reply-vtag")
	}},
	{reason: "-D -t deletes all", applies: func(l *line, _ *situation) bool { return l.is("D") && l.has("timeout") }},
	{reason: "-U and -G know no zone, -D no -j", applies: func(l *line, _ *situation) bool {
		return l.is("UG") && l.has("zone", "orig-zone", "reply-zone") || l.is("D") && l.has("any-nat")
	}},
	{reason: "XML is not well-formed", applies: func(l *line, s *situation) bool {
		return slices.ContainsFunc(l.values("output"), func(v string) bool { return hasPrefixWord(v, "XML") })
	}},
	{reason: "numbers of ports and the like are not checked", applies: func(l *line, _ *situation) bool {
		return slices.ContainsFunc(l.options, func(o option) bool {
			return slices.ContainsFunc(protoLongs, func(p long) bool { return p.name == o.name }) && o.name != "state" && o.name != "role" && !decimal(o.value)
		})
	}},
	{reason: "types and codes of ICMP are not checked", applies: func(l *line, _ *situation) bool {
		return slices.ContainsFunc(l.values("icmp-type", "icmp-code", "icmpv6-type", "icmpv6-code"), func(v string) bool { return len(v) > 2 && !(len(v) == 3 && v <= "255") })
	}},
	{reason: "-U does not reach flows in zones", applies: func(l *line, s *situation) bool { return l.is("U") && s.w.zoned }},
	{reason: "-G by the reply tuple never finds anything", applies: func(l *line, _ *situation) bool {
		return l.is("G") && !(l.has("src") && l.has("dst"))
	}},
	{reason: "-G with ports of the reply but no address of it fails, whatever the rest", applies: func(l *line, _ *situation) bool {
		return l.is("G") && l.has("reply-port-src", "reply-port-dst", "reply-key-src", "reply-key-dst") && !(l.has("reply-src") && l.has("reply-dst"))
	}},
	{reason: "-I -A of ICMP fail if an address comes after the protocol", applies: func(l *line, _ *situation) bool {
		first := slices.IndexFunc(l.options, func(o option) bool { return strings.HasPrefix(o.name, "icmp") })
		return l.is("IA") && first >= 0 && slices.ContainsFunc(l.options[first:], func(o option) bool {
			return slices.Contains([]string{"src", "dst", "reply-src", "reply-dst"}, o.name)
		})
	}},
	{reason: "-I -A of ICMP by the reply tuple fail, or make a flow of protocol 0", applies: func(l *line, _ *situation) bool {
		return l.is("IA") && l.has("icmp-type", "icmpv6-type") && !l.has("src")
	}},
	{reason: "-n, -g, -j alone take ICMP for translated", applies: func(l *line, _ *situation) bool {
		return l.is("LDUE") && slices.Contains(l.values("src-nat", "dst-nat", "any-nat"), "") &&
			(!l.has("protonum") || strings.HasPrefix(l.proto(), "icmp") || slices.Contains([]string{"1", "0x1", "58", "0x3a"}, l.proto()))
	}, check: deletesWhatItLists},
	{reason: "of a list of labels the first alone counts", since: 9, applies: func(l *line, _ *situation) bool {
		return slices.ContainsFunc(l.values("label", "label-add", "label-del"), func(v string) bool { return strings.Contains(v, ",") })
	}},
	{reason: "--label-del deletes the other labels, too", applies: func(l *line, _ *situation) bool {
		return l.is("U") && slices.ContainsFunc(l.values("label-del"), func(v string) bool { return v != "" })
	}},
	{reason: "-s A/ is a mask of no bits", applies: func(l *line, _ *situation) bool {
		return slices.ContainsFunc(l.values("src", "dst", "tuple-src", "tuple-dst"), func(v string) bool { return strings.HasSuffix(v, "/") })
	}},
	{reason: "-U -p tcp makes flows liberal whose handshake was seen", applies: func(l *line, _ *situation) bool {
		return l.is("U") && slices.Contains([]string{"tcp", "6", "0x6", "06"}, l.proto()) &&
			(!l.oneFlow() || slices.ContainsFunc(l.values("src", "reply-dst"), func(v string) bool { return v == "127.0.0.1" || v == "::1" }))
	}},
	{reason: "-U -n, -g IP asks for translation and is refused", applies: func(l *line, _ *situation) bool {
		return l.is("U") && slices.ContainsFunc(l.values("src-nat", "dst-nat"), func(v string) bool { return v != "" })
	}},
	{reason: "-j IP means the source, too, when there are other conditions", applies: func(l *line, _ *situation) bool {
		return l.is("LE") && slices.ContainsFunc(l.values("any-nat"), func(v string) bool { return v != "" }) && len(l.options) > 1
	}},
	{reason: "-I expect takes a port for the protocol", until: 9, applies: func(l *line, _ *situation) bool {
		return l.commands == "I" && l.expect() && l.has("tuple-port-src", "tuple-port-dst")
	}},
	{reason: "-I expect takes a port for SCTP", applies: func(l *line, _ *situation) bool {
		return l.commands == "I" && l.expect() && slices.Contains([]string{"sctp", "132", "0x84"}, l.proto())
	}},
	{reason: "-R takes a quote that is not closed", applies: func(l *line, s *situation) bool {
		return s.c.loads() && slices.ContainsFunc(strings.Split(s.c.File+"\n"+s.c.Input, "\n"), func(text string) bool {
			return strings.Count(text, `"`)%2 != 0
		})
	}},
	{reason: "of -u twice the second is not looked at", applies: func(l *line, _ *situation) bool { return len(l.values("status")) > 1 }},
	{reason: "options without a command are looked up past the end of a table", applies: func(l *line, s *situation) bool {
		return l.commands == "" && !s.c.loads() && (len(l.options) > 0 || !s.v.before(4, 9))
	}},
	{reason: "-z: the kernel forgets what it could not fit into a message", unsteady: true, applies: func(l *line, s *situation) bool {
		return l.has("zero") && s.w.counters
	}},
	{reason: "-p twice makes its options ambiguous", applies: func(l *line, _ *situation) bool { return len(l.values("protonum")) > 1 }},
	{reason: "-I -A -n, -g drop the port of SCTP and UDP-Lite", applies: func(l *line, _ *situation) bool {
		return l.is("IA") && slices.Contains([]string{"sctp", "132", "0x84", "udplite", "136", "0x88"}, l.proto()) &&
			slices.ContainsFunc(l.values("src-nat", "dst-nat"), func(v string) bool { return strings.Contains(v, ":80") })
	}},
	{reason: "-I -A -n, -g with ports of the reply but no address of it drop the ports", applies: func(l *line, _ *situation) bool {
		return l.is("IA") && l.has("src-nat", "dst-nat") && l.has("reply-port-src", "reply-port-dst") && !l.has("reply-src", "reply-dst")
	}},
	{reason: "-I -A -n, -g by the reply tuple meet themselves, and the kernel draws a port", unsteady: true, applies: func(l *line, _ *situation) bool {
		return l.is("IA") && l.has("src-nat", "dst-nat") && !l.has("src")
	}},
	{reason: "-n, -g, -j take port 0", applies: func(l *line, _ *situation) bool {
		return slices.ContainsFunc(l.values("src-nat", "dst-nat", "any-nat"), func(v string) bool { return strings.HasSuffix(v, ":0") })
	}},
	{reason: "-L -u with some that are to be set and some that are not", applies: func(l *line, _ *situation) bool {
		u := strings.Join(l.values("status"), ",")
		return l.is("L") && (strings.Contains(u, "!") || strings.Contains(u, "UNREPLIED")) &&
			slices.ContainsFunc(strings.Split(u, ","), func(w string) bool { return !strings.HasPrefix(w, "!") && !strings.HasPrefix(w, "UNREPLIED") })
	}},
	{reason: "-t is not checked", applies: func(l *line, _ *situation) bool {
		return slices.ContainsFunc(l.values("timeout"), func(v string) bool { return !number(v) || len(v) > 9 })
	}},
	{reason: "-b is not checked", applies: func(l *line, _ *situation) bool {
		return slices.ContainsFunc(l.values("buffer-size"), func(v string) bool { return !number(v) || len(v) > 9 })
	}},

	{reason: "-A of what is there", until: 8, applies: func(l *line, s *situation) bool { return l.is("A") && s.makesTwice() }},
	{reason: "numbers are not checked", until: 8, applies: func(l *line, _ *situation) bool {
		return slices.ContainsFunc(l.values("mark", "id", "secmark"), func(v string) bool { return !strictNumber(v) }) ||
			slices.ContainsFunc(l.values("zone", "orig-zone", "reply-zone"), func(v string) bool {
				_, err := strconv.ParseUint(v, 0, 16)
				return err != nil || !strictNumber(v)
			})
	}},
	{reason: "-U of both families fails", until: 8, applies: func(l *line, _ *situation) bool { return l.is("U") && !l.familySet() }},
	{reason: "-U prints not all of what it changes", until: 8, unsteady: true, applies: func(l *line, _ *situation) bool { return l.is("U") && !l.oneFlow() }},
	{reason: "-u after -m is the mark", until: 8, applies: func(l *line, _ *situation) bool { return l.has("mark") && l.has("status") }},
	{reason: "there is no --labelmap", until: 9, applies: func(l *line, _ *situation) bool { return l.has("labelmap") }},
	{reason: "--id crashes unless its argument is attached", until: 9, unsteady: true, applies: func(l *line, _ *situation) bool {
		return slices.ContainsFunc(l.options, func(o option) bool { return o.name == "id" && o.long && !o.attached })
	}},
	{reason: "an SCTP state that is none crashes", unsteady: true, applies: func(l *line, _ *situation) bool {
		return slices.Contains([]string{"sctp", "132", "0x84"}, l.proto()) &&
			slices.ContainsFunc(l.values("state"), func(v string) bool {
				_, err := conntrack.ParseSCTPState(v)
				return err != nil || v != strings.ToUpper(v)
			})
	}},
	{reason: "commands swallow what is attached", until: 8, applies: func(l *line, _ *situation) bool { return l.attached }},
	{reason: "labels of flows without any", until: 8, applies: func(l *line, _ *situation) bool { return l.is("U") && l.has("label-add", "label-del") }},
}

// unsteady are outcomes of the reference that are not the same twice; nothing
// can be held to them.
var unsteady = []struct {
	reason string
	seen   func(s *situation, ref, sub *outcome) bool
}{
	{"the reference crashes or hangs", func(_ *situation, ref, _ *outcome) bool { return ref.code < 0 }},
	{"-A of what is there", func(s *situation, ref, sub *outcome) bool {
		return s.v.before(4, 8) && slices.ContainsFunc(s.lines, func(l line) bool { return l.is("A") }) &&
			(strings.Contains(ref.stderr, "0 flow entries have been added") || ref.code == 0 && strings.Contains(sub.stderr, "File exists"))
	}},
	{"-U stops at the first refusal, wherever in the table it meets it", func(s *situation, ref, _ *outcome) bool {
		return strings.Contains(ref.stderr, "Operation failed") &&
			slices.ContainsFunc(s.lines, func(l line) bool { return l.is("U") && (!l.oneFlow() || s.v.before(4, 8)) })
	}},
}

// makesTwice tells whether the case may make a flow that is there, or two of
// the same tuple.
func (s *situation) makesTwice() bool {
	made := map[conntrack.Tuple]bool{}
	for _, f := range s.w.flows {
		made[f.Orig] = true
	}
	for _, t := range s.c.makes {
		if made[t] {
			return true
		}
		made[t] = true
	}
	return false
}

// knownAfter returns the reason for which the outcome of the reference counts
// for nothing, nil if it counts.
func knownAfter(c *Case, w *world, v version, ref, sub *outcome) *deviation {
	s := &situation{c: c, w: w, v: v, lines: c.lines()}
	for _, u := range unsteady {
		if u.seen(s, ref, sub) {
			return &deviation{reason: u.reason}
		}
	}
	return nil
}

// oneFlow tells whether the line names all of a tuple that has ports.
func (l *line) oneFlow() bool {
	return l.has("src") && l.has("dst") && l.has("sport") && l.has("dport") && !l.cidr() && !l.has("mask-src", "mask-dst") ||
		l.has("reply-src") && l.has("reply-dst") && l.has("reply-port-src") && l.has("reply-port-dst")
}

// hasPrefixWord tells whether one of a list with commas is a beginning of
// name, in any case.
func hasPrefixWord(list, name string) bool {
	for w := range strings.SplitSeq(list, ",") {
		if w = strings.ToUpper(w); w != "" && strings.HasPrefix(name, w) {
			return true
		}
	}
	return false
}

// cidr tells whether an address has a mask.
func (l *line) cidr() bool {
	return slices.ContainsFunc(l.values("src", "dst"), func(v string) bool { return strings.Contains(v, "/") })
}

// familySet tells whether something says which family is meant.
func (l *line) familySet() bool {
	return l.has("family", "src", "dst", "reply-src", "reply-dst", "mask-src", "mask-dst") ||
		slices.ContainsFunc(l.values("src-nat", "dst-nat", "any-nat"), func(v string) bool { return v != "" })
}

// decimal tells whether a value is a plain number of a size that all of these
// options take; tags are larger, but none is drawn.
func decimal(v string) bool {
	n, err := strconv.ParseUint(v, 10, 16)
	return err == nil && strconv.FormatUint(n, 10) == v
}

// strictNumber tells whether a value is a C number, or two for a mark.
func strictNumber(v string) bool {
	if strings.HasPrefix(v, "{id:") {
		return true
	}
	value, mask, both := strings.Cut(v, "/")
	return cNumber(value) && (!both || cNumber(mask))
}

// cNumber tells whether strtoul(3) reads all of a small enough value.
func cNumber(v string) bool {
	const most = 10
	if len(v) == 0 || len(v) > most {
		return false
	}
	if hex, ok := strings.CutPrefix(strings.ToLower(v), "0x"); ok {
		return hex != "" && strings.Trim(hex, "0123456789abcdef") == ""
	}
	if v[0] == '0' {
		return strings.Trim(v, "01234567") == ""
	}
	return number(v) && (len(v) < most || v <= "4294967295")
}
