package bypass

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/netns"
	"flowcut/internal/oneline"
	"flowcut/internal/ruleset"
	"flowcut/internal/show"
	"flowcut/selector"
)

// survey is what is known of the flows that a bypass means, and of rules that it
// has to do with.
type survey struct {
	o     Options
	ct    *conntrack.Client
	meant meant

	matched, translated, helped, offloaded int
	example                                string // one that is translated
	helper                                 string
	uses                                   []ruleset.Use
	hidden                                 bool // rules of iptables-legacy
}

const translated = conntrack.StatusSrcNAT | conntrack.StatusDstNAT

// look counts flows and reads rules. It changes nothing.
func (s *survey) look(ctx context.Context) error {
	err := s.each(ctx, func(f *conntrack.Flow) error {
		s.note(f)
		if s.o.Found == nil {
			return nil
		}
		return s.o.Found(f)
	})
	if err != nil {
		return err
	}
	return netns.DoFd(s.o.NetNS, func() (err error) {
		var r ruleset.Rules
		s.uses, err = r.Uses()
		s.hidden = r.Hidden
		return err
	})
}

// each calls f with all flows of which packets are meant. The table is only
// narrowed by family and protocol: packets of answers are meant as well.
func (s *survey) each(ctx context.Context, f func(*conntrack.Flow) error) error {
	wide := selector.Selector{Family: s.o.Selector.Family, Proto: s.o.Selector.Proto}
	if fams := s.o.Selector.Families(); len(fams) == 1 {
		wide.Family = fams[0]
	}
	for flow, err := range s.ct.Dump(ctx, wide.Narrow()) {
		if err != nil {
			return err
		}
		if s.meant.flow(flow) {
			if err := f(flow); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *survey) note(f *conntrack.Flow) {
	s.matched++
	if f.Status&translated != 0 {
		if s.translated == 0 {
			s.example = string(show.AppendPath(nil, f))
		}
		s.translated++
	}
	if f.Helper != "" {
		s.helped++
		s.helper = f.Helper
	}
	if f.Status&(conntrack.StatusOffload|conntrack.StatusHWOffload) != 0 {
		s.offloaded++
	}
}

// judge says what would break for certain, which is not done without force, and
// what may.
func (s *survey) judge() (refusals, warnings []string) {
	states := s.where(ruleset.State)
	if s.translated > 0 {
		refusals = append(refusals, fmt.Sprintf("%s would break: packets that are not tracked are not translated, and these are, such as %s",
			show.Count(s.translated, "flow"), s.example))
	}
	others := s.where(ruleset.Flow)
	switch by := slices.Concat(states, others); {
	case by == nil:
	case s.o.Hidden:
		warnings = append(warnings, fmt.Sprintf("cannot see which connection this is run through, without CAP_SYS_PTRACE: if it is one of those meant, it might be locked out, as rules go by what its flow is (%s)", some(by)))
	case slices.ContainsFunc(s.o.Own, s.meant.packet):
		refusals = append(refusals, fmt.Sprintf("the connection that this is run through is one of those meant, and rules go by what its flow is (%s): it might be locked out", some(by)))
	}
	warn := func(list []string, format string) {
		if list != nil {
			warnings = append(warnings, fmt.Sprintf(format, some(list)))
		}
	}
	warn(s.where(ruleset.NAT), "rules translate addresses (%s): not those of packets that are not tracked")
	warn(states, "rules go by the state of flows (%s): packets of a bypass are neither new nor established to them but untracked, and ICMP errors about them are invalid; "+s.admit())
	warn(others, "rules go by what else only a flow has, such as its mark (%s): they pass over packets of a bypass, and routes by such marks do, too")
	warn(s.where(ruleset.Synproxy), "rules with SYNPROXY (%s) take packets that are not tracked for their own, or see none: handshakes fail, or are not shielded any more")
	warn(s.where(ruleset.Zone), "rules put packets into zones (%s): those are tracked all the same")
	if s.helped > 0 {
		warnings = append(warnings, fmt.Sprintf("%s with the helper %s: connections that are announced there are not expected any more", show.Count(s.helped, "flow"), oneline.Value(s.helper)))
	}
	if s.offloaded > 0 {
		warnings = append(warnings, fmt.Sprintf("%s in a flowtable: packets go the slower way through all rules from now on", show.Count(s.offloaded, "flow")))
	}
	if s.hidden {
		warnings = append(warnings, "rules of iptables-legacy are not to be seen without CAP_DAC_READ_SEARCH: whether they go by the state of flows is not known")
	}
	return refusals, warnings
}

// where returns where rules do something that concerns a family that is meant.
// Those that go by states and let pass all that is not tracked in the same chain do
// no harm; of the others those are marked that drop the rest.
func (s *survey) where(kind ruleset.Kind) []string {
	places := func(k ruleset.Kind) (out []string) {
		for _, u := range s.uses {
			if u.Kind == k && s.concerns(u.Family) && !slices.Contains(out, u.Where) {
				out = append(out, u.Where)
			}
		}
		return out
	}
	out := places(kind)
	if kind != ruleset.State {
		return out
	}
	admitted, drops := places(ruleset.Untracked), places(ruleset.Drop)
	out = slices.DeleteFunc(out, func(w string) bool { return slices.Contains(admitted, w) })
	for i, w := range out {
		if slices.Contains(drops, w) {
			out[i] += ", policy drop"
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func (s *survey) concerns(family byte) bool {
	for _, f := range families(&s.o.Selector) {
		if byte(f) == family || family == unix.NFPROTO_INET {
			return true
		}
	}
	return false
}

// admit is what to do about rules that go by states.
func (s *survey) admit() string {
	states := s.where(ruleset.State)
	if len(states) == 0 {
		return ""
	}
	place, _, _ := strings.Cut(states[0], ",")
	command := fmt.Sprintf("nft insert rule %s ct state untracked accept", place)
	if place, legacy := strings.CutSuffix(place, " of iptables-legacy"); legacy {
		in := append(strings.Fields(place), "", "", "") // family, table and chain
		command = fmt.Sprintf("%stables-legacy -t %s -I %s -m conntrack --ctstate UNTRACKED -j ACCEPT", in[0], in[1], in[2])
	}
	return "where they must pass, let them before: " + command
}

// some names a few of a list.
func some(list []string) string {
	const most = 4
	if n := len(list) - most; n > 0 {
		list = append(slices.Clone(list[:most]), fmt.Sprintf("and %d more", n))
	}
	return oneline.Text(strings.Join(list, "; "))
}

// sweep deletes the entries of what is not tracked any more, until a look finds
// none: a packet that had passed our rules before may confirm one late. Those of
// flows that are translated are left if that was not expected.
func (s *survey) sweep(ctx context.Context) (e Entries, err error) {
	const looks, piece = 10, 4096
	for range looks {
		e.Left = 0
		found := 0
		var keys []conntrack.Key
		flush := func() error {
			n, err := s.ct.Delete(ctx, keys, nil)
			e.Deleted += n
			keys = keys[:0]
			return err
		}
		err := s.each(ctx, func(f *conntrack.Flow) error {
			e.Left++
			if f.Status&translated != 0 {
				if !s.o.Force {
					return nil
				}
				e.Translated++
			}
			found++
			if keys = append(keys, f.Key()); len(keys) < piece {
				return nil
			}
			return flush()
		})
		if err = errors.Join(err, flush()); err != nil || found == 0 {
			return e, err
		}
	}
	return e, nil
}
