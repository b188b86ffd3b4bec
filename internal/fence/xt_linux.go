package fence

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/iptables"
	"flowcut/internal/nflog"
	"flowcut/internal/nft"
)

// XTables is a fence of iptables, for kernels without nf_tables. Nothing removes
// it but Lift and Close; what they could not remove does nothing any more once
// Config.Remember is over, see [Leftovers].
//
// It stands from the first Raise to Lift. It is not safe for concurrent use.
type XTables struct {
	cfg     Config
	exact   bool
	name    string // of its chains
	comment string // of the rules that call them
	until   time.Time
	numbers Numbers
	log     *nflog.Conn
	notes   xtNotes
	ends    xtEnds
	tuples  int // taken by Guard
	tables  []*xtRaised
	queues  queueFile
}

// xtRaised are the chains of one family.
type xtRaised struct {
	xtLayout
	tools *iptables.Tools
}

// MostXT is how many flows a fence of iptables takes into its guard: the kernel
// gets the whole table anew for each change.
const MostXT = 4096

// xtSnap is how much of a packet is copied to us: an ICMPv6 error with the start
// of the packet that it quotes.
const xtSnap = 128

// NewXTables opens what the fence needs; nothing stands yet.
func NewXTables(cfg Config) (*XTables, error) {
	f := planXT(cfg)
	var err error
	if f.log, err = nflog.Open(cfg.NetNS, xtSnap); err != nil {
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
			err = fmt.Errorf("%w (%w)", &conntrack.NotSupportedError{Feature: "nfnetlink_log, which a fence of iptables needs"}, err)
		}
		return nil, fmt.Errorf("fence: %w", err)
	}
	f.queues.netNS = cfg.NetNS
	id := rand.Uint32()
	f.name = fmt.Sprintf("%s%08x", xtChains, id)
	f.comment = self().comment(id)
	return f, nil
}

func planXT(cfg Config) *XTables {
	if cfg.Remember == 0 {
		cfg.Remember = time.Minute
	}
	return &XTables{
		cfg: cfg, exact: cfg.exact() && cfg.exactXT(), name: xtChains + "00000000", comment: "flowcut",
		until: time.Now().Round(0).Add(cfg.Remember), numbers: Numbers{rand.Uint32(), rand.Uint32()},
		notes: newXTNotes(), ends: newXTEnds(),
	}
}

// exactXT tells whether rules of iptables can say all that the selectors say.
func (cfg *Config) exactXT() bool {
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		_, said := xtSay(family, cfg.Selectors)
		_, spared := xtSay(family, cfg.Except)
		if !said || !spared {
			return false
		}
	}
	return true
}

// PlanXTables returns the rules as iptables-restore(8) reads them, without making
// them, and whether they are exact.
func PlanXTables(cfg Config, families ...conntrack.Family) (rules string, exact bool) {
	f := planXT(cfg)
	for _, family := range families {
		r := f.lay(family)
		for _, c := range r.xtLayout.tables() {
			rules += fmt.Sprintf("# %s\n%s", nft.Family(family), c)
		}
	}
	return rules, f.exact
}

// Facts returns what the fence can do.
func (f *XTables) Facts() Facts {
	return Facts{Backend: IPTables, Exact: f.exact, Most: MostXT, Limits: f.limits()}
}

func (f *XTables) limits() []string {
	out := []string{
		"killed by SIGKILL, or ended by a second signal, it leaves its rules behind, which do nothing any more from " + f.until.UTC().Format(time.RFC3339) + " on; \"flowcut doctor\" removes them",
		"each table and family is changed by itself, and others can take the rules away meanwhile, which is looked for at the end",
		"new connections that match wait until the flows are listed, and on the addresses and ports of a cut flow until the guard is lifted",
		"what waited in an NFQUEUE behind INPUT or POSTROUTING of table mangle when the fence rose is not stopped",
		"nothing counts packets behind the last rule",
	}
	if f.log == nil {
		return out // only planned
	}
	if n := f.log.Lost(); n > 0 {
		out = append(out, fmt.Sprintf("notes came faster than they could be read, %d times, so that some ends may be silent here that were told", n))
	}
	return out
}

// Numbers returns the numbers that probes must have.
func (f *XTables) Numbers() Numbers { return f.numbers }

// Stands tells whether the fence is up for a family.
func (f *XTables) Stands(family conntrack.Family) bool {
	return slices.ContainsFunc(f.tables, func(r *xtRaised) bool { return r.family == nft.Family(family) })
}

func (f *XTables) lay(family conntrack.Family) *xtRaised {
	r := &xtRaised{xtLayout: xtLayout{
		family: nft.Family(family), name: f.name, comment: f.comment, until: f.until,
		silent: f.cfg.Silent, bridges: f.cfg.bridgesCall(family), without: f.cfg.Without, numbers: f.numbers,
	}}
	if f.log != nil {
		r.group = f.log.Group()
	}
	for _, t := range f.cfg.Spare {
		if t.Family() == family {
			r.spare = append(r.spare, t)
		}
	}
	if f.exact {
		r.selected, _ = xtSay(r.family, f.cfg.Selectors)
		r.except, _ = xtSay(r.family, f.cfg.Except)
	}
	return r
}

// Raise puts up the fence for one family, from the selector alone. When it
// returns, no packet of a selected flow gets through. It turns connection
// tracking on for the family, so it is for families that have entries.
func (f *XTables) Raise(ctx context.Context, family conntrack.Family) error {
	r := f.lay(family)
	var err error
	if r.tools, err = iptables.Find(ctx, family, f.cfg.NetNS); err != nil {
		return fmt.Errorf("fence: %w", err)
	}
	f.tables = append(f.tables, r) // whatever has been made by an error, Close removes
	if err := r.tools.Restore(ctx, r.xtLayout.tables()...); err != nil {
		return fmt.Errorf("fence: raise for %s: %w", r.family, explainXT(err))
	}
	return nil
}

// explainXT says what the kernel lacks, where the words of the program tell.
func explainXT(err error) error {
	if errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("%w (%w)", &conntrack.NotSupportedError{
			Feature: "iptables with the tables raw, mangle and filter, the matches conntrack, comment, limit, owner, time and u32, and the targets CT, NFLOG and REJECT",
		}, err)
	}
	return err
}

// Withdraw takes the fence of one family down again.
func (f *XTables) Withdraw(ctx context.Context, family conntrack.Family) error {
	for i, r := range f.tables {
		if r.family == nft.Family(family) {
			if err := removeChains(ctx, r.tools, r.name, xtTables...); err != nil {
				return fmt.Errorf("fence: withdraw for %s: %w", r.family, err)
			}
			f.tables = slices.Delete(f.tables, i, i+1)
			break
		}
	}
	return nil
}

// Settle waits until no packet is under way that a hook saw before the fence
// rose.
func (f *XTables) Settle() error { Grace(); return nil }

// SettleTuples is Settle for tuples that the guard has just taken in.
func (f *XTables) SettleTuples() error { return f.Settle() }

// Guard takes the tuples of flows into the guard: of each the original one, then
// that of the replies. The first call takes the selector away: see Facts.Births.
//
// Flows on a tuple of an entry that passes, which is one in another zone, are not
// guarded: iptables cannot tell zones.
func (f *XTables) Guard(ctx context.Context, tuples []conntrack.Tuple, pass ...Entry) error {
	const tuplesOfFlow = 2
	shared := map[conntrack.Tuple]bool{}
	for _, e := range pass {
		shared[e.Orig], shared[e.Reply] = true, true
	}
	by := map[nft.Family][]conntrack.Tuple{}
	for pair := range slices.Chunk(tuples, tuplesOfFlow) {
		orig, reply := pair[0], pair[1]
		if shared[orig] || shared[reply] {
			continue
		}
		f.ends.add(orig, reply)
		family := nft.Family(orig.Family())
		if by[family] = append(by[family], orig); reply != orig {
			by[family] = append(by[family], reply)
		}
		f.tuples++
	}
	if f.tuples > 2*MostXT { // twice: of those that come back, and that begin meanwhile
		return fmt.Errorf("fence: guard %d flows: a fence of iptables takes no more than %d; cut them in parts", f.tuples, MostXT)
	}
	for _, r := range f.tables {
		if err := r.tools.Restore(ctx, r.guard(by[r.family])...); err != nil {
			return fmt.Errorf("fence: guard %d tuples: %w", len(by[r.family]), err)
		}
	}
	return nil
}

// GuardCoarse has no rules here: see Facts.Coarse.
func (f *XTables) GuardCoarse(context.Context) error {
	return fmt.Errorf("fence: guard by the selector with iptables: %w", errors.ErrUnsupported)
}

// Lower takes away the fence and leaves the guard.
func (f *XTables) Lower(ctx context.Context) error {
	for _, r := range f.tables {
		if err := r.tools.Restore(ctx, both(r.lower())...); err != nil {
			return fmt.Errorf("fence: lower: %w", err)
		}
	}
	return nil
}

// Lift removes all that stands.
func (f *XTables) Lift(ctx context.Context) error {
	var errs []error
	left := f.tables[:0]
	for _, r := range f.tables {
		if err := removeChains(ctx, r.tools, r.name, xtTables...); err != nil {
			errs = append(errs, fmt.Errorf("fence: lift: %w", err))
			left = append(left, r)
		}
	}
	f.tables = left
	return errors.Join(errs...)
}

// Close removes what still stands.
func (f *XTables) Close() error {
	const patience = 10 * time.Second // with programs that hold the lock
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return errors.Join(f.Lift(ctx), f.log.Close(), f.queues.Close())
}

// Queues returns the queues that a program listens to.
func (f *XTables) Queues() ([]Queue, error) { return f.queues.read() }

// Queued tells whether a program listens to any queue, without what Queues needs.
func (f *XTables) Queued() (bool, error) { return f.queues.any() }

// Noted returns the tuples that have the mark. One may come twice. Born and
// Leaked have none.
func (f *XTables) Noted(m Mark) iter.Seq2[Noted, error] {
	return func(yield func(Noted, error) bool) {
		if err := f.log.Read(f.notes.take); err != nil {
			yield(Noted{}, fmt.Errorf("fence: %w", err))
			return
		}
		for seen, n := range f.notes.of(m) {
			if end, ok := f.ends.of(seen); ok {
				n.Tuple = end
				if !yield(n, nil) {
					return
				}
			}
		}
	}
}

// of returns what has a mark, by the tuple that was seen.
func (n *xtNotes) of(m Mark) iter.Seq2[conntrack.Tuple, Noted] {
	return func(yield func(conntrack.Tuple, Noted) bool) {
		plain := map[Mark]map[conntrack.Tuple]bool{Dead: n.dead, Reset: n.reset, Unreachable: n.unreachable}
		for t := range plain[m] {
			if !yield(t, Noted{}) {
				return
			}
		}
		if m == Knocked {
			for t, at := range n.knock {
				if !yield(t, Noted{Ago: time.Since(at)}) {
					return
				}
			}
		}
		if m == Spoke {
			for t, s := range n.spoke {
				if !yield(t, Noted{Ago: time.Since(s.at), Next: s.next}) {
					return
				}
			}
		}
	}
}

// Counts reads the counters, and looks whether all rules are where they were, and
// in force.
func (f *XTables) Counts(ctx context.Context) (out Counts, err error) {
	if !time.Now().Round(0).Before(f.until) {
		out.Disturbed = "the clock"
	}
	for _, r := range f.tables {
		for _, table := range xtTables {
			text, err := r.tools.Save(ctx, table)
			if err != nil {
				return out, fmt.Errorf("fence: read the counters: %w", err)
			}
			for _, h := range xtHooks[table] {
				if out.Disturbed == "" && !r.called(text, h[0], r.name+h[1]) {
					out.Disturbed = fmt.Sprintf("chain %s of table %s (%s)", h[0], table, r.family)
				}
			}
			r.count(table, text, &out)
		}
	}
	return out, nil
}

// called tells whether a chain calls one of ours before all others but those of
// another flowcut.
func (r *xtRaised) called(text, from, chain string) bool {
	for line := range strings.Lines(text) {
		rule, _, ok := parseCounted(line)
		switch {
		case !ok || !strings.HasPrefix(rule, "-A "+from+" "):
		case strings.HasSuffix(rule, " -j "+chain):
			return true
		case !strings.Contains(rule, " -j "+xtChains):
			return false
		}
	}
	return false
}

// count adds the counters of a table.
func (r *xtRaised) count(table, text string, out *Counts) {
	if table == "raw" {
		return
	}
	for line := range strings.Lines(text) {
		rule, n, ok := parseCounted(line)
		if !ok {
			continue
		}
		in := func(chain string) bool { return strings.HasPrefix(rule, "-A "+r.chain(chain)+" ") }
		ends := strings.HasSuffix(rule, "-j DROP") || strings.Contains(rule, "-j REJECT")
		switch {
		case table == "filter" && in("guard") && strings.HasSuffix(rule, "--ctstate UNTRACKED"):
			out.Untracked += n.packets
		case table == "filter" && ends && (in("hold") || in("cut")):
			out.Refused += n.packets
		case table == "mangle" && r.without != 0 && !ends && !strings.Contains(rule, "-p tcp") && (in("stop") || in("cut") || in("guard")):
			out.Leaked += n.packets
		case ends && (in("stop") || table == "mangle" && (in("cut") || in("guard"))):
			out.Packets += n.packets
			out.Bytes += n.bytes
		}
	}
}

// counted are the counters of a rule.
type counted struct{ packets, bytes uint64 }

// parseCounted reads a line of iptables-save -c, such as "[1:60] -A X -j DROP".
func parseCounted(line string) (rule string, n counted, ok bool) {
	head, rule, ok := strings.Cut(strings.TrimSpace(line), "] ")
	packets, bytes, two := strings.Cut(strings.TrimPrefix(head, "["), ":")
	if !ok || !two || !strings.HasPrefix(head, "[") {
		return "", n, false
	}
	var err, err2 error
	n.packets, err = strconv.ParseUint(packets, 10, 64)
	n.bytes, err2 = strconv.ParseUint(bytes, 10, 64)
	return rule, n, err == nil && err2 == nil
}
