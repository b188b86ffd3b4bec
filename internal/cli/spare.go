package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"flowcut/cut"
	"flowcut/internal/oneline"
	"flowcut/selector"
)

// spares are the values of --spare: selections of flows that are left alone,
// each in one word.
type spares []string

func (s *spares) String() string { return "" }

func (s *spares) Type() string { return "'SELECTION'" }

func (s *spares) Set(v string) error {
	*s = append(*s, v)
	return nil
}

// selectors parses the values. One that leaves nothing out would spare all
// flows of a family or protocol, so that the cut would do nothing.
func (s spares) selectors(sets func(family, table, set string) ([]selector.AddrRange, error)) ([]selector.Selector, error) {
	var out []selector.Selector
	for _, v := range s {
		flags := selector.Flags{NFT: sets}
		sel, err := flags.Parse(strings.Fields(v), nil)
		if bad, ok := errors.AsType[*selector.Error](err); ok {
			return nil, usage(bad.Hint, "--spare %q: %s", oneline.Value(v), bad.What())
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("--spare %q: %w", oneline.Value(v), err)
		case strings.TrimSpace(v) == "":
			return nil, usage("write a selection in one word, such as --spare '-s 10.0.0.0/8 -p tcp'", "--spare: nothing in it")
		case !sel.Narrows():
			return nil, usage("narrow it by an address, a port or the like", "--spare %q: nothing narrows it", oneline.Value(v))
		}
		out = append(out, sel)
	}
	return out, nil
}

// backend is the value of --fence.
type backend struct{ value cut.Backend }

// autoFence stands for what the kernel has.
const autoFence = "auto"

func (b *backend) String() string {
	if b.value == cut.AnyBackend {
		return autoFence
	}
	return string(b.value)
}

func (b *backend) Type() string { return "BACKEND" }

func (b *backend) Set(s string) error {
	switch v := cut.Backend(s); {
	case s == autoFence:
		b.value = cut.AnyBackend
	case v == cut.NFTables, v == cut.IPTables:
		b.value = v
	default:
		return errors.New("not a fence, write auto, nf_tables or iptables")
	}
	return nil
}

// most is the value of --max, 0 without one.
type most int

func (m *most) String() string { return strconv.Itoa(int(*m)) }

func (m *most) Type() string { return "N" }

func (m *most) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return errors.New("not a number of flows, write 1 or more")
	}
	*m = most(n)
	return nil
}
