package personality

import (
	"net/netip"
	"strings"

	"flowcut/conntrack"
)

// agree notes the family of an option, which must be that of all others.
func (l *line) agree(f conntrack.Family) error {
	if l.family != conntrack.FamilyBoth && l.family != f {
		return usage("mismatched address family")
	}
	l.family = f
	return nil
}

// setAddress takes an address that may have no mask.
func (l *line) setAddress(v, name string, t *conntrack.Tuple, has *conntrack.TupleFields, field conntrack.TupleFields) error {
	text, _, masked := strings.Cut(v, "/")
	a, ok := address(text)
	if !ok {
		return usage("Invalid IP address `%s'", v)
	}
	if err := l.agree(familyOf(a)); err != nil {
		return err
	}
	if masked {
		return usage("CIDR notation unavailable for `--%s'", name)
	}
	setField(t, has, field, a)
	return nil
}

// setNetwork takes an address or a CIDR, whose mask is noted as --mask-NAME
// would.
func (l *line) setNetwork(v, name string, t *conntrack.Tuple, has *conntrack.TupleFields, field conntrack.TupleFields) error {
	text, bits, masked := strings.Cut(v, "/")
	a, ok := address(text)
	if !ok {
		return usage("Invalid IP address `%s'", v)
	}
	if err := l.agree(familyOf(a)); err != nil {
		return err
	}
	setField(t, has, field, a)
	if !masked {
		return nil
	}
	n, ok := digits(bits, 10, uint64(a.BitLen()))
	if !ok {
		return usage("Invalid netmask `%s'", bits)
	}
	if int(n) == a.BitLen() {
		return nil
	}
	ones := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	if a.Is6() {
		ones = allOnes6
	}
	mask, err := ones.Prefix(int(n))
	if err != nil {
		return usage("Invalid netmask `%s'", bits)
	}
	setField(&l.mask, &l.maskHas, field, mask.Addr())
	l.give("mask-" + name)
	return nil
}

var allOnes6 = netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")

func familyOf(a netip.Addr) conntrack.Family {
	if a.Is4() {
		return conntrack.FamilyIPv4
	}
	return conntrack.FamilyIPv6
}

func setField(t *conntrack.Tuple, has *conntrack.TupleFields, field conntrack.TupleFields, a netip.Addr) {
	*has |= field
	if field == conntrack.FieldSrc {
		t.Src = a
	} else {
		t.Dst = a
	}
}

// setTarget takes what -g, -n and -j may have: ADDR, ADDR:PORT or [ADDR6]:PORT.
func (l *line) setTarget(v, name string, to **target) error {
	if v == "" {
		return nil
	}
	text, port, hasPort := v, "", false
	switch {
	case strings.Contains(v, "["):
		_, rest, _ := strings.Cut(v, "[")
		inner, behind, closed := strings.Cut(rest, "]")
		if inner == "" && closed {
			return usage("No IPv6 address specified")
		}
		if !closed {
			return usage("No closing ']' around IPv6 address")
		}
		if _, port, hasPort = strings.Cut(behind, ":"); hasPort {
			text = inner
		}
	case strings.Count(v, ":") == 1:
		text, port, hasPort = strings.Cut(v, ":")
	}
	t := target{}
	if hasPort {
		if port == "" {
			return usage("No port specified after `:'")
		}
		n, ok := digits(port, 10, 1<<16-1)
		if !ok || n == 0 {
			return usage("Invalid port `%s'", port)
		}
		t.port = uint16(n)
	}
	var held conntrack.TupleFields
	var tuple conntrack.Tuple
	if err := l.setAddress(text, name, &tuple, &held, conntrack.FieldSrc); err != nil {
		return err
	}
	t.addr = tuple.Src
	*to = &t
	return nil
}

// meaning is a word of a list, and what it stands for.
type meaning[T any] struct {
	word string
	is   T
}

// prefixed finds the word that a word is the beginning of, in either case.
// Words about NAT come first: conntrack(8) warns that they mean nothing.
func prefixed[T any](l *line, list []meaning[T], word string) (is T, ok bool) {
	if word == "" {
		return is, false
	}
	for _, nat := range []string{"SRC", "DST"} {
		if begins(nat+"_NAT", word) {
			l.warnings = append(l.warnings, "WARNING: ignoring "+nat+"_NAT, use --"+strings.ToLower(nat)+"-nat instead")
			return is, true
		}
	}
	for _, m := range list {
		if begins(m.word, word) {
			return m.is, true
		}
	}
	return is, false
}

func begins(word, with string) bool {
	return len(with) <= len(word) && strings.EqualFold(word[:len(with)], with)
}

var eventWords = [...]meaning[conntrack.EventKind]{
	{"ALL", conntrack.EventAll},
	{"NEW", conntrack.EventNew},
	{"UPDATES", conntrack.EventUpdate},
	{"DESTROY", conntrack.EventDestroy},
}

var outputWords = [...]meaning[func(*line)]{
	{"xml", func(l *line) { l.out.XML = true }},
	{"extended", func(l *line) { l.out.Extended = true }},
	{"timestamp", func(l *line) { l.out.Timestamp = true }},
	{"id", func(l *line) { l.out.ID = true }},
	{"ktimestamp", func(l *line) { l.out.KTimestamp = true }},
	{"labels", func(l *line) { l.named = true }},
	{"userspace", func(*line) {}}, // events always say it
	{"save", func(l *line) { l.out.Save = true }},
}

var statusWords = [...]meaning[conntrack.Status]{
	{"ASSURED", conntrack.StatusAssured},
	{"SEEN_REPLY", conntrack.StatusSeenReply},
	{"UNSET", 0},
	{"FIXED_TIMEOUT", conntrack.StatusFixedTimeout},
	{"EXPECTED", conntrack.StatusExpected},
	{"OFFLOAD", conntrack.StatusOffload},
	{"HW_OFFLOAD", conntrack.StatusHWOffload},
}

// statusBits is what -u takes: bits that are set, and bits that are not.
type statusBits struct {
	set, clear conntrack.Status
	unset      bool // UNSET was among the words: no bit, if no other word says more
}

// add reads a list of words, each with a ! in front for bits that are not set.
func (s *statusBits) add(l *line, v string) error {
	for _, item := range strings.Split(v, ",") {
		word, negated := strings.CutPrefix(item, "!")
		if !negated && strings.HasPrefix(word, "UNREPLIED") {
			s.clear |= conntrack.StatusSeenReply
			continue
		}
		bits, ok := prefixed(l, statusWords[:], word)
		isUnset := bits == 0 && begins("UNSET", word)
		if !ok || isUnset && negated {
			return usage("Bad parameter `%s'", item)
		}
		s.unset = s.unset || isUnset
		if negated {
			s.clear |= bits
		} else {
			s.set |= bits
		}
	}
	return nil
}

// unspecified returns the address of all zeros of the family of another.
func unspecified(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
