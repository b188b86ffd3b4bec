package bypass

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/nft"
	"flowcut/selector"
)

// Options say what [Add] is to do.
type Options struct {
	NetNS    int               // descriptor of the namespace, 0: the calling thread's
	Selector selector.Selector // one that Check takes
	For      time.Duration     // it ends by itself then, in whole milliseconds; 0: it stays until it is removed
	Force    bool              // also where that breaks flows, or may lock the caller out
	DryRun   bool              // change nothing
	Own      []conntrack.Tuple // what peers send on the connections through which the caller works
	Hidden   bool              // there seems to be one that could not be seen

	// Found, if not nil, is called with each flow that a dry run would delete the
	// entry of. It must not keep it.
	Found func(*conntrack.Flow) error
}

// Report is what Add has done, or would do.
type Report struct {
	Version  int      `json:"version"` // 1
	DryRun   bool     `json:"dry_run,omitempty"`
	Number   int      `json:"number"`
	Renewed  bool     `json:"renewed"` // the same selection had one: its time begins anew
	Selector string   `json:"selector"`
	ForMS    int64    `json:"for_ms,omitempty"` // 0: it stays until it is removed
	Entries  Entries  `json:"entries"`
	Warnings []string `json:"warnings,omitempty"` // what may break
	Rules    string   `json:"rules"`              // the tables with this bypass alone, as nft(8) reads them
}

// Entries counts those of flows that a bypass means.
type Entries struct {
	Deleted    int `json:"deleted"`    // of a dry run: would be
	Translated int `json:"translated"` // of these, by NAT
	Left       int `json:"left"`       // found by the last look all the same
}

// RefusedError says why a bypass was not added without Force.
type RefusedError struct{ Reasons []string }

// Error joins the reasons.
func (e *RefusedError) Error() string {
	return strings.Join(e.Reasons, "; ") + ": nothing was changed"
}

// Add takes the packets of a selection out of connection tracking and deletes
// their entries. No end is told: a flow goes on without its entry, unless it is
// translated or rules go by its state. What speaks against it is a
// *[RefusedError], or a warning. A selection that has a bypass gets the new time.
//
// Needs CAP_NET_ADMIN. Errors: *[ForeignError] where somebody else has the table.
// After an error of the deletion the rules stand, and the report is not nil.
func Add(ctx context.Context, o Options) (*Report, error) {
	ct, err := conntrack.Dial(conntrack.Config{NetNS: o.NetNS})
	if err != nil {
		return nil, err
	}
	defer ct.Close() //nolint:errcheck // nothing is under way
	r := &Report{Version: 1, DryRun: o.DryRun, Selector: o.Selector.String(), ForMS: o.For.Milliseconds()}
	s := survey{o: o, ct: ct, meant: meant{o.Selector}}
	if err := s.look(ctx); err != nil {
		return nil, err
	}
	r.Entries = Entries{Deleted: s.matched, Translated: s.translated}
	refusals, warnings := s.judge()
	if len(refusals) > 0 && !o.Force && !o.DryRun {
		return nil, &RefusedError{refusals}
	}
	r.Warnings = append(refusals, warnings...)
	if o.DryRun {
		return r, plan(o, r)
	}
	if err := change(ctx, o.NetNS, func(st *state, b *nft.Batch) error {
		r.Number, r.Renewed = st.add(b, o)
		return nil
	}); err != nil {
		return nil, err
	}
	r.Rules = r.file(o)
	r.Entries, err = s.sweep(ctx)
	return r, err
}

// plan fills in what a dry run would do to the rules.
func plan(o Options, r *Report) error {
	st, err := current(o.NetNS)
	if err != nil {
		return err
	}
	r.Number, r.Renewed = st.add(new(nft.Batch), o)
	r.Rules = r.file(o)
	return nil
}

// file is the tables with this bypass alone.
func (r *Report) file(o Options) string {
	var b strings.Builder
	for _, f := range families(&o.Selector) {
		b.WriteString(table(f, r.Number, o.Selector, o.For).File())
	}
	return b.String()
}

// add puts a bypass into the tables, or gives the one of the same selection a new
// time.
func (st *state) add(b *nft.Batch, o Options) (n int, renewed bool) {
	for _, old := range st.list {
		if old.Selector.String() == o.Selector.String() && !old.Over() {
			for _, f := range old.Families {
				t := &nft.Table{Family: nft.Family(f), Name: Name}
				b.FlushSet(t, numbered(setUntil, old.Number))
				b.AddElements(t, numbered(setUntil, old.Number), until(t.Family, o.For))
			}
			return old.Number, true
		}
	}
	n = st.highest + 1
	for _, f := range families(&o.Selector) {
		t := table(f, n, o.Selector, o.For)
		if st.families[f] {
			addTo(b, t)
		} else {
			b.AddTable(t)
		}
		st.parts = append(st.parts, part{family: f, number: n})
	}
	return n, false
}

// addTo adds what is in a table to the one that stands. Its base chains are there.
func addTo(b *nft.Batch, t *nft.Table) {
	for _, s := range t.Sets {
		b.AddSet(t, s)
		b.AddElements(t, s.Name, s.Elements)
	}
	for _, c := range t.Chains {
		if c.Hook == nil {
			b.AddChain(t, c)
		} else {
			b.AddRules(t, c.Name, c.Rules)
		}
	}
}

// List returns what is in force, by number. What is over is removed.
func List(ctx context.Context, netNS int) (out []*Bypass, err error) {
	err = change(ctx, netNS, func(st *state, _ *nft.Batch) error {
		out = st.list
		return nil
	})
	return out, err
}

// Over returns what is left of those whose time is over, and the tables that have
// nothing in them. It changes nothing; List removes them.
func Over(netNS int) (over []*Bypass, empty []string, err error) {
	st, err := current(netNS)
	if err != nil {
		return nil, nil, err
	}
	for _, f := range st.empty() {
		empty = append(empty, f.String()+" "+Name)
	}
	return slices.DeleteFunc(st.list, func(b *Bypass) bool { return !b.Over() }), empty, nil
}

// NoneError says that there is nothing to remove.
type NoneError struct{ What string }

// Error names it.
func (e *NoneError) Error() string { return "there is no bypass " + e.What }

// Remove removes what a function chooses of what is in force, all at once, and
// returns it. An error of the function is returned, and nothing is removed.
func Remove(ctx context.Context, netNS int, choose func([]*Bypass) ([]*Bypass, error)) (out []*Bypass, err error) {
	err = change(ctx, netNS, func(st *state, b *nft.Batch) error {
		if out, err = choose(st.list); err != nil {
			return err
		}
		for _, old := range out {
			st.remove(b, old)
		}
		return nil
	})
	return out, err
}

// ByNumber chooses some by their numbers. One that is not there is a *[NoneError].
func ByNumber(numbers ...int) func([]*Bypass) ([]*Bypass, error) {
	return func(list []*Bypass) (out []*Bypass, err error) {
		for _, n := range numbers {
			if err = pick(list, &out, fmt.Sprint(n), func(b *Bypass) bool { return b.Number == n }); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
}

// BySelector chooses the one with the very selection.
func BySelector(s *selector.Selector) func([]*Bypass) ([]*Bypass, error) {
	return func(list []*Bypass) (out []*Bypass, err error) {
		text := s.String()
		return out, pick(list, &out, "of "+s.Brief(), func(b *Bypass) bool { return b.Selector.String() == text })
	}
}

// All chooses all, of which there may be none.
func All(list []*Bypass) ([]*Bypass, error) { return append([]*Bypass(nil), list...), nil }

func pick(list []*Bypass, out *[]*Bypass, what string, is func(*Bypass) bool) error {
	for _, b := range list {
		if is(b) {
			*out = append(*out, b)
			return nil
		}
	}
	return &NoneError{what}
}
