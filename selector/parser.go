package selector

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"flowcut/conntrack"
)

// parser turns lists of words into conditions.
type parser struct {
	stdin     io.Reader
	stdinUsed bool
	labelFile string
	nft       func(family, table, set string) ([]AddrRange, error)
	noFiles   bool  // refuse @FILE
	failed    error // of nft, where it is not the user's mistake
	nothing   bool  // a list of translation targets came out empty: no flow can match
}

// maxFile is the size of the largest file of addresses, some two million of them.
const maxFile = 64 << 20

// each parses every item of a list; the items of an error keep their flag's words.
func each[T any](l list, parse func(string) (T, *Error)) ([]T, *Error) {
	out := make([]T, 0, len(l.items))
	for _, item := range l.items {
		v, err := parse(item)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// set sorts values and drops repeated ones.
func set[T any](vs []T, compare func(a, b T) int) []T {
	slices.SortFunc(vs, compare)
	return slices.CompactFunc(vs, func(a, b T) bool { return compare(a, b) == 0 })
}

// notNegated refuses ! where it makes no sense.
func notNegated(l list, hint string) *Error {
	if l.negated {
		return wrong("!"+strings.Join(l.items, ","), "cannot be negated", hint)
	}
	return nil
}

func (p *parser) family(s *Selector, l list) *Error {
	if err := notNegated(l, "write the other family"); err != nil {
		return err
	}
	fams, err := each(l, parseFamily)
	if err != nil {
		return err
	}
	s.Family = fams[0]
	if slices.ContainsFunc(fams, func(f conntrack.Family) bool { return f != fams[0] }) {
		s.Family = conntrack.FamilyBoth
	}
	return nil
}

func parseFamily(s string) (conntrack.Family, *Error) {
	switch strings.ToLower(s) {
	case "ipv4":
		return conntrack.FamilyIPv4, nil
	case "ipv6":
		return conntrack.FamilyIPv6, nil
	}
	return 0, wrong(s, "unknown family", "write ipv4 or ipv6, or leave it out for both")
}

func familyString(f conntrack.Family) string {
	if f == conntrack.FamilyIPv6 {
		return "ipv6"
	}
	return "ipv4"
}

func (p *parser) protos(s *Selector, l list) *Error {
	vs, err := each(l, parseProto)
	s.Proto = Protos{true, l.negated, set(vs, cmp.Compare)}
	return err
}

func (p *parser) addrs(to *Addrs, l list) *Error {
	rs, err := addrItems(p, l, parseRange, func(r AddrRange) AddrRange { return r })
	*to = Addrs{true, l.negated, mergeRanges(rs)}
	return err
}

func (p *parser) ports(to *Ports, l list) *Error {
	rs, err := each(l, parsePorts)
	*to = Ports{true, l.negated, mergePorts(rs)}
	return err
}

func (p *parser) targets(s *Selector, to *NAT, l list) *Error {
	if slices.Contains(l.items, anyTarget) {
		for _, item := range l.items {
			if item != anyTarget {
				return wrong(item, "given both with and without an address", "give every address, or none to mean any")
			}
		}
		*to = NAT{Set: true, Negated: l.negated}
		return nil
	}
	ts, err := addrItems(p, l, parseTarget, func(r AddrRange) NATTarget { return NATTarget{Addrs: r} })
	if err == nil && len(ts) == 0 {
		// No target is not any target: such a condition holds for no flow,
		// and its negation for every flow.
		p.nothing = p.nothing || !l.negated
		return nil
	}
	*to = NAT{Set: true, Negated: l.negated, Targets: mergeTargets(ts)}
	return err
}

func (p *parser) statuses(s *Selector, l list) *Error {
	s.Status = Statuses{Set: true, Negated: l.negated}
	for _, item := range l.items {
		if err := s.Status.add(item); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) states(s *Selector, l list) *Error {
	vs, err := each(l, parseState)
	s.State = States{true, l.negated, set(vs, cmp.Compare)}
	return err
}

func (p *parser) marks(s *Selector, l list) *Error {
	vs, err := each(l, parseMark)
	s.Mark = Marks{true, l.negated, set(vs, compareMarks)}
	return err
}

func (p *parser) labels(s *Selector, l list) *Error {
	s.Labels = LabelBits{Set: true, Negated: l.negated}
	for _, item := range l.items {
		if err := s.Labels.add(item, p.labelFile); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) zones(to *Zones, l list) *Error {
	vs, err := each(l, func(s string) (conntrack.Zone, *Error) {
		n, err := parseNumber(s, 0xffff)
		return conntrack.Zone(n), err
	})
	*to = Zones{true, l.negated, set(vs, cmp.Compare)}
	return err
}

func (p *parser) ids(s *Selector, l list) *Error {
	vs, err := each(l, func(s string) (uint32, *Error) {
		n, err := parseNumber(s, 0xffffffff)
		return uint32(n), err
	})
	s.ID = IDs{true, l.negated, set(vs, cmp.Compare)}
	return err
}

func (p *parser) pickedUp(s *Selector, l list) *Error {
	for _, item := range l.items {
		var t Tristate
		switch item {
		case yes:
			t = Yes
		case no:
			t = No
		default:
			return wrong(item, "neither yes nor no", "write --picked-up, or ! --picked-up")
		}
		if l.negated {
			t = Yes + No - t
		}
		if s.PickedUp != Any && s.PickedUp != t {
			return wrong("", "given both as yes and as no", "give one of them")
		}
		s.PickedUp = t
	}
	return nil
}

// addrItems parses a list whose items may be files, the empty one among them, or sets of nf_tables whose
// ranges from makes items of.
func addrItems[T any](p *parser, l list, parse func(string) (T, *Error), from func(AddrRange) T) ([]T, *Error) {
	var out []T
	for _, item := range l.items {
		name, isFile := strings.CutPrefix(item, "@")
		ref, isSet := strings.CutPrefix(item, setPrefix)
		switch {
		case item == emptyFile:
		case isSet:
			rs, err := p.set(ref)
			if err != nil {
				return nil, err
			}
			for _, r := range rs {
				out = append(out, from(r))
			}
		case isFile:
			vs, err := readItems(p, name, parse)
			if err != nil {
				return nil, err
			}
			out = append(out, vs...)
		default:
			v, err := parse(item)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
	}
	return out, nil
}

// readItems parses a file with an item a line; "-" is standard input.
func readItems[T any](p *parser, name string, parse func(string) (T, *Error)) ([]T, *Error) {
	r, err := p.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, rerr := io.ReadAll(io.LimitReader(r, maxFile+1))
	if rerr == nil && len(data) > maxFile {
		rerr = fmt.Errorf("larger than %d MiB", maxFile>>20)
	}
	if rerr != nil {
		return nil, &Error{Value: "@" + name, Problem: "cannot be read", Hint: "name a file with one address a line", Err: cause(rerr)}
	}
	return parseLines(name, string(data), parse)
}

// parseLines parses the lines of a file.
func parseLines[T any](name, text string, parse func(string) (T, *Error)) ([]T, *Error) {
	out := make([]T, 0, strings.Count(text, "\n")+1)
	text = strings.TrimPrefix(text, "\ufeff") // byte order mark
	n := 0
	for line := range strings.Lines(text) {
		n++
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		v, err := parse(line)
		if err != nil {
			return nil, inFile(err, name, n, line)
		}
		out = append(out, v)
	}
	return out, nil
}

// open opens a file of a list.
func (p *parser) open(name string) (io.ReadCloser, *Error) {
	switch {
	case name == "":
		return nil, wrong("@", "no file named", "write @FILE, or @- for standard input")
	case p.noFiles:
		return nil, wrong("@"+name, "no file is read here", "give the addresses")
	case name == "-" && p.stdin == nil:
		return nil, wrong("@-", "there is no standard input here", "write @FILE")
	case name == "-" && p.stdinUsed:
		return nil, wrong("@-", "standard input can be read only once", "keep one of the lists in a file")
	case name == "-":
		p.stdinUsed = true
		return io.NopCloser(p.stdin), nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, &Error{Value: "@" + name, Problem: "cannot be opened", Hint: "name a file with one address a line", Err: cause(err)}
	}
	return f, nil
}

// cause returns an error without the file's name, which the value has already.
func cause(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err
	}
	return err
}

// inFile makes an error tell its place in a file.
func inFile(err *Error, name string, line int, value string) *Error {
	if len(value) > 40 {
		value = value[:40] + "..."
	}
	err.Value = fmt.Sprintf("@%s:%d: %q", name, line, value)
	return err
}
