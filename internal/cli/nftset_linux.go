package cli

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"flowcut/internal/nft"
	"flowcut/internal/oneline"
	"flowcut/selector"
)

// readSet returns the addresses in a set of nf_tables in the namespace.
func (n *namespace) readSet(family, table, set string) (out []selector.AddrRange, err error) {
	err = n.inside(func() error {
		c, err := nft.Dial(0)
		if err != nil {
			return err
		}
		defer c.Close()
		f, _ := nft.ParseFamily(family)
		header, err := c.Set(f, table, set)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return noSet(c, f, family, table, set)
		case err != nil:
			return err
		case !header.Addrs():
			return &selector.Error{Problem: "its keys are no addresses but " + header.Type(), Hint: "name a set of the type ipv4_addr or ipv6_addr"}
		}
		ranges, err := c.Ranges(header)
		for _, r := range ranges {
			out = append(out, selector.AddrRange(r))
		}
		return err
	})
	return out, err
}

// noSet says what is missing, and what there is instead.
func noSet(c *nft.Conn, f nft.Family, family, table, set string) error {
	problem := fmt.Sprintf("there is no table %q of the family %s", table, family)
	has, err := c.HasTable(f, table)
	if err != nil {
		return err
	}
	if has {
		problem = fmt.Sprintf("there is no set %q in the table", set)
	}
	sets, err := c.Sets()
	if err != nil {
		return err
	}
	var names []string
	for _, s := range sets {
		if s.Addrs() {
			names = append(names, oneline.Value(s.String()))
		}
	}
	slices.Sort(names)
	const few = 10
	hint := "there are no sets of addresses here"
	switch {
	case len(names) > few:
		hint = fmt.Sprintf("sets of addresses here: %s and %d others", strings.Join(names[:few], ", "), len(names)-few)
	case len(names) > 0:
		hint = "sets of addresses here: " + strings.Join(names, ", ")
	}
	return &selector.Error{Problem: problem, Hint: hint}
}
