package bypass

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"flowcut/conntrack"
	"flowcut/internal/fence"
	"flowcut/internal/nft"
)

// state is what stands in a namespace.
type state struct {
	list     []*Bypass // by number, those that are over too
	parts    []part
	families map[nft.Family]bool // that have a table
	highest  int                 // number there was
}

// part is one bypass in the table of one family.
type part struct {
	family nft.Family
	number int
	calls  []nft.RuleHeader
	sets   []string
	rules  bool // there are rules in its chain
	text   string
	sent   nft.Count
	back   nft.Count
	until  *nft.Member // nil: its time is over
}

// ForeignError says that somebody else has a table of our name.
type ForeignError struct {
	Family nft.Family
	Found  string // what no flowcut has made
}

// Error says what was found, and what to do.
func (e *ForeignError) Error() string {
	return fmt.Sprintf("the table %s %s is not flowcut's, or was changed by hand: %s; nothing was changed. Look at it with \"nft list table %s %s\", and delete or rename it",
		e.Family, Name, e.Found, e.Family, Name)
}

// read returns what stands, and the generation of the ruleset that it is of.
func read(c *nft.Conn) (*state, uint32, error) {
	before, err := c.Generation()
	if err != nil {
		return nil, 0, err
	}
	st := &state{families: map[nft.Family]bool{}}
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		if err = st.readTable(c, f); err != nil {
			break
		}
	}
	if err == nil {
		err = st.join()
	}
	// What was read while others changed it may be anything.
	if after, err := c.Generation(); err != nil || after != before {
		return nil, 0, cmp.Or(err, nft.ErrChanged)
	}
	return st, before, err
}

func (st *state) readTable(c *nft.Conn, f nft.Family) error {
	t := &nft.Table{Family: f, Name: Name}
	has, err := c.HasTable(f, Name)
	if err != nil || !has {
		return err
	}
	st.families[f] = true
	parts := map[int]*part{}
	of := func(n int) *part {
		if parts[n] == nil {
			parts[n] = &part{family: f, number: n}
		}
		return parts[n]
	}
	if err := readRules(c, t, of); err != nil {
		return err
	}
	if err := readSets(c, t, of); err != nil {
		return err
	}
	for _, n := range slices.Sorted(maps.Keys(parts)) {
		p := parts[n]
		if !p.called() || p.text == "" || !slices.Contains(p.sets, numbered(setUntil, n)) {
			return &ForeignError{f, fmt.Sprintf("number %d is not whole", n)}
		}
		st.parts = append(st.parts, *p)
	}
	return nil
}

// readRules reads the chains of a table with their rules.
func readRules(c *nft.Conn, t *nft.Table, of func(int) *part) error {
	chains, err := c.Chains(t)
	if err != nil {
		return err
	}
	for _, name := range chains {
		what, _ := number(name)
		switch {
		case what != chainRules && what != chainWords && name != chainPre && name != chainOut:
			return &ForeignError{t.Family, fmt.Sprintf("a chain %q", name)}
		}
	}
	if !slices.Contains(chains, chainPre) || !slices.Contains(chains, chainOut) {
		return &ForeignError{t.Family, "not both of its chains " + chainPre + " and " + chainOut + " are there"}
	}
	all, err := c.Rules(t)
	if err != nil {
		return err
	}
	for _, r := range all {
		what, n := number(r.Chain)
		switch what {
		case chainWords:
			of(n).text += r.Comment
		case chainRules:
			of(n).count(r)
		default:
			what, n := number(chainRules + r.Comment)
			if what == "" {
				return &ForeignError{t.Family, fmt.Sprintf("a rule in its chain %q", r.Chain)}
			}
			of(n).calls = append(of(n).calls, r)
		}
	}
	return nil
}

// called tells whether both hooks call its rules.
func (p *part) called() bool {
	calls := func(chain string) bool {
		return slices.ContainsFunc(p.calls, func(r nft.RuleHeader) bool { return r.Chain == chain })
	}
	return p.rules && calls(chainPre) && calls(chainOut)
}

func (p *part) count(r nft.RuleHeader) {
	p.rules = true
	sum := &p.sent
	if r.Comment == countReturned {
		sum = &p.back
	}
	sum.Packets += r.Count.Packets
	sum.Bytes += r.Count.Bytes
}

func readSets(c *nft.Conn, t *nft.Table, of func(int) *part) error {
	sets, err := c.Sets()
	if err != nil {
		return err
	}
	for _, s := range sets {
		if s.Table != Name || s.Family != t.Family {
			continue
		}
		what, n := number(s.Name)
		if what != setUntil && what != setSelector {
			return &ForeignError{t.Family, fmt.Sprintf("a set %q", s.Name)}
		}
		of(n).sets = append(of(n).sets, s.Name)
		if what != setUntil {
			continue
		}
		for m, err := range c.Members(t, s.Name) {
			if err != nil {
				return err
			}
			of(n).until = &m
		}
	}
	return nil
}

// join makes a bypass of the parts with its number.
func (st *state) join() error {
	slices.SortStableFunc(st.parts, func(a, b part) int { return cmp.Compare(a.number, b.number) })
	text := ""
	for _, p := range st.parts {
		last := len(st.list) - 1
		if last < 0 || st.list[last].Number != p.number {
			s, err := selection(p.text)
			if err != nil {
				return &ForeignError{p.family, fmt.Sprintf("number %d has no selection: %v", p.number, err)}
			}
			st.list, text = append(st.list, &Bypass{Number: p.number, Selector: s}), p.text
			last++
		}
		if p.text != text {
			return &ForeignError{p.family, fmt.Sprintf("number %d means something else in the other family", p.number)}
		}
		st.list[last].add(p)
		st.highest = p.number
	}
	return nil
}

func (b *Bypass) add(p part) {
	b.Families = append(b.Families, conntrack.Family(p.family))
	b.Sent = nft.Count{Packets: b.Sent.Packets + p.sent.Packets, Bytes: b.Sent.Bytes + p.sent.Bytes}
	b.Returned = nft.Count{Packets: b.Returned.Packets + p.back.Packets, Bytes: b.Returned.Bytes + p.back.Bytes}
	if p.until != nil {
		b.Stays = b.Stays || !p.until.Timed
		b.Left = max(b.Left, p.until.Expires)
	}
}

// tries is how often what others change meanwhile is begun anew.
const tries = 100

// current returns what stands now.
func current(netNS int) (st *state, err error) {
	c, err := nft.Dial(netNS)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for range tries {
		if st, _, err = read(c); !errors.Is(err, nft.ErrChanged) {
			break
		}
	}
	return st, err
}

// change makes changes from what stands now, all of them or none; where others
// change the ruleset meanwhile it begins anew. What is over goes in any case.
func change(ctx context.Context, netNS int, f func(st *state, b *nft.Batch) error) error {
	for range tries {
		err := changeOnce(netNS, f)
		if !errors.Is(err, nft.ErrChanged) || ctx.Err() != nil {
			return err
		}
	}
	return fmt.Errorf("bypass: others change the ruleset all the time, %d tries failed: %w", tries, nft.ErrChanged)
}

func changeOnce(netNS int, f func(st *state, b *nft.Batch) error) (err error) {
	c, err := nft.Dial(netNS)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	st, generation, err := read(c)
	if err != nil {
		return err
	}
	b := &nft.Batch{Generation: generation}
	for _, old := range slices.Clone(st.list) {
		if old.Over() {
			st.remove(b, old)
		}
	}
	if err := f(st, b); err != nil {
		return err
	}
	if err := st.sweep(b, netNS); err != nil {
		return err
	}
	return c.Commit(b)
}

// remove takes a bypass out of all tables.
func (st *state) remove(b *nft.Batch, old *Bypass) {
	st.list = slices.DeleteFunc(st.list, func(o *Bypass) bool { return o == old })
	st.parts = slices.DeleteFunc(st.parts, func(p part) bool {
		if p.number != old.Number {
			return false
		}
		t := &nft.Table{Family: p.family, Name: Name}
		for _, r := range p.calls {
			b.DeleteRule(t, r.Chain, r.Handle)
		}
		b.DeleteChain(t, numbered(chainRules, p.number))
		b.DeleteChain(t, numbered(chainWords, p.number))
		for _, s := range p.sets {
			b.DeleteSet(t, s)
		}
		return true
	})
}

// empty are the families with a table that has no bypass.
func (st *state) empty() (out []nft.Family) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		if st.families[f] && !slices.ContainsFunc(st.parts, func(p part) bool { return p.family == f }) {
			out = append(out, f)
		}
	}
	return out
}

// sweep removes tables with nothing in them. With a table its base chains go, and
// the kernel drops what waits in any NFQUEUE then: where something does, or may,
// they stay until the next time. Without rules they do nothing.
func (st *state) sweep(b *nft.Batch, netNS int) error {
	empty := st.empty()
	if len(empty) == 0 {
		return nil
	}
	waits, err := waiting(netNS)
	if err != nil || waits {
		return err
	}
	for _, f := range empty {
		b.DeleteTable(&nft.Table{Family: f, Name: Name})
	}
	return nil
}

// waiting tells whether packets may wait in a queue.
func waiting(netNS int) (_ bool, err error) {
	f, err := fence.New(fence.Config{NetNS: netNS})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	queues, err := f.Queues()
	if err != nil {
		return f.Queued()
	}
	return slices.ContainsFunc(queues, func(q fence.Queue) bool { return q.Waiting > 0 }), nil
}
