// Package fence stops the packets of selected flows while they are cut, and
// keeps what conntrack would adopt from them out afterwards.
//
// The fence is a table of nf_tables for each family, owned by the socket that
// made it: the kernel removes it when the process dies, however it dies. Where
// there is no nf_tables it is chains in the tables of iptables, see [XTables].
package fence

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/netns"
	"flowcut/internal/nft"
	"flowcut/selector"
)

// Config says what a fence is for.
type Config struct {
	NetNS   int  // descriptor of a network namespace, 0: the calling thread's
	Silent  bool // drop, and tell nobody
	Without Part // parts left out, to show in tests what they are for

	// Selectors say which flows are meant: those that any of them matches.
	// Without one, none is but those that Guard is told.
	Selectors []selector.Selector

	// Spare are flows that pass in both directions: original tuples, or reply
	// tuples turned round.
	Spare []conntrack.Tuple

	// Except are selectors of flows that pass in both directions.
	Except []selector.Selector

	// Remember is how long the fence may stand and still know when a packet
	// last came. Zero: a minute.
	Remember time.Duration
}

// Numbers are the sequence numbers of probes, by which their answers are known.
type Numbers struct {
	ISN uint32 // of a SYN
	Ack uint32 // of a SYN-ACK, its uppermost bit either way
}

// Part is a part of the fence.
type Part uint8

// The parts that tests leave out.
const (
	PartFence Part = 1 << iota // stopping packets while entries are deleted
	PartGuard                  // stopping the return of deleted flows
)

// Fence stands from the first Raise to Lift. It is not safe for concurrent use.
type Fence struct {
	cfg            Config
	exact          bool
	mirrors        []selector.Selector // of what is selected; none if rules cannot say them
	mirroredExcept []selector.Selector
	conn           *nft.Conn
	name           string
	numbers        Numbers
	tables         []*raised
	lowered        bool
	queues         queueFile
}

// raised is the table of one family.
type raised struct {
	layout
	table   *nft.Table
	guarded bool
	leaks   map[string]uint64 // packets that were under way when the fence rose, by counter
}

// New opens what the fence needs; nothing stands yet.
func New(cfg Config) (*Fence, error) {
	conn, err := nft.Dial(cfg.NetNS)
	if err != nil {
		return nil, err
	}
	f := plan(cfg)
	f.conn = conn
	f.queues.netNS = cfg.NetNS
	f.name = fmt.Sprintf("flowcut-%08x", rand.Uint32())
	return f, nil
}

// HasNFTables has an error if the kernel has no nf_tables, or none for us.
func HasNFTables(netNS int) error {
	conn, err := nft.Dial(netNS)
	if err != nil {
		return err
	}
	_, err = conn.HasTable(nft.IPv4, "flowcut")
	return errors.Join(err, conn.Close())
}

func plan(cfg Config) *Fence {
	if cfg.Remember == 0 {
		cfg.Remember = time.Minute
	}
	f := &Fence{cfg: cfg, name: "flowcut", exact: cfg.exact(), numbers: Numbers{rand.Uint32(), rand.Uint32()}}
	mirrors, except := mirrored(cfg.Selectors), mirrored(cfg.Except)
	if f.exact && exact(mirrors) && (len(except) == 0 || exact(except)) {
		f.mirrors, f.mirroredExcept = mirrors, except
	}
	return f
}

// Exact tells whether rules can say all that the selector says. Where they
// cannot (--state, --id, --picked-up), or where what they would ask for changes
// while a flow lives (--status, --mark, --label), flows are fenced by their
// tuples, from the first Guard on.
func (f *Fence) Exact() bool { return f.exact }

// Numbers returns the numbers that probes must have.
func (f *Fence) Numbers() Numbers { return f.numbers }

// Stands tells whether the fence is up for a family.
func (f *Fence) Stands(family conntrack.Family) bool {
	for _, r := range f.tables {
		if r.family == nft.Family(family) {
			return true
		}
	}
	return false
}

// Plan returns the tables as nft(8) writes them, without making them, and
// whether they are exact.
func Plan(cfg Config, families ...conntrack.Family) (tables string, exact bool) {
	f := plan(cfg)
	for _, family := range families {
		tables += f.lay(family).table.String()
	}
	return tables, f.exact
}

func (f *Fence) lay(family conntrack.Family) *raised {
	r := &raised{layout: layout{
		compiler: compiler{family: nft.Family(family)},
		silent:   f.cfg.Silent, bridges: f.cfg.bridgesCall(family), without: f.cfg.Without, numbers: f.numbers, remember: f.cfg.Remember,
	}}
	for _, t := range f.cfg.Spare {
		if t.Family() == family {
			// Adopted in mid-stream, it may have begun at either end.
			r.spare = append(r.spare, nft.Element{Key: key(t)}, nft.Element{Key: key(t.Invert())})
		}
	}
	r.table = r.layout.table(f.name, f.cfg.Selectors, f.cfg.Except, f.exact)
	return r
}

// bridgesCall tells whether bridges of the namespace show rules the packets
// that they forward.
func (cfg *Config) bridgesCall(family conntrack.Family) bool {
	name := "iptables"
	if family == conntrack.FamilyIPv6 {
		name = "ip6tables"
	}
	var b []byte
	err := netns.DoFd(cfg.NetNS, func() (err error) {
		b, err = os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-" + name)
		return err
	})
	return err == nil && string(bytes.TrimSpace(b)) == "1" // an error: no br_netfilter
}

// Raise puts up the fence for one family, from the selector alone. When it
// returns, no packet of a selected flow gets through. It turns connection
// tracking on for the family, so it is for families that have entries.
func (f *Fence) Raise(_ context.Context, family conntrack.Family) error {
	r := f.lay(family)
	first, second := new(nft.Batch), new(nft.Batch)
	first.AddEmptyTable(r.table)
	if r.ranges() {
		// New ranges are found a moment after the rules of the same transaction
		// are in force: packets that a negated list leaves out would be stopped.
		second.AddAllRules(r.table)
	} else {
		first.AddAllRules(r.table)
	}
	for _, b := range []*nft.Batch{first, second} {
		if err := f.conn.Commit(b); err != nil {
			return fmt.Errorf("fence: raise for %s: %w", r.family, explain(err))
		}
	}
	f.lowered = false
	f.tables = append(f.tables, r)
	return nil
}

// Withdraw takes the fence of one family down again.
func (f *Fence) Withdraw(_ context.Context, family conntrack.Family) error {
	b := new(nft.Batch)
	for _, r := range f.tables {
		if r.family == nft.Family(family) {
			b.DeleteTable(r.table)
		}
	}
	if err := f.conn.Commit(b); err != nil {
		return fmt.Errorf("fence: withdraw for %s: %w", nft.Family(family), err)
	}
	f.tables = slices.DeleteFunc(f.tables, func(r *raised) bool { return r.family == nft.Family(family) })
	return nil
}

// ranges tells whether there are sets of ranges.
func (r *raised) ranges() bool {
	return slices.ContainsFunc(r.table.Sets, func(s *nft.Set) bool { return s.Interval })
}

// explain names what the kernel lacks, where the errno tells.
func explain(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%w (%w)", &conntrack.NotSupportedError{Feature: "nf_tables with table owners and the expressions ct, reject and dynset", Kernel: "5.12"}, err)
	}
	return err
}

// Settle waits until no packet is under way that a hook saw before the fence
// rose. What got past meanwhile is not counted as a leak from here on.
func (f *Fence) Settle() error { return f.settle(countLeaked, countLeakCut) }

// SettleTuples is Settle for tuples that the guard has just taken in, and
// whose flows the selector does not mean.
func (f *Fence) SettleTuples() error { return f.settle(countLeakCut) }

func (f *Fence) settle(counters ...string) error {
	Grace()
	for _, r := range f.tables {
		n, err := f.conn.Counts(r.table)
		if err != nil {
			return err
		}
		if r.leaks == nil {
			r.leaks = map[string]uint64{}
		}
		for _, name := range counters {
			r.leaks[name] = n[name].Packets
		}
	}
	return nil
}

// Grace waits until no packet is under way that was when it was called.
func Grace() {
	const global = 1 // MEMBARRIER_CMD_GLOBAL: a grace period, and packets are handled within one
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); errno != 0 {
		// Kernels with nohz_full or without the call: far longer than a grace
		// period takes, for want of another way to wait for one.
		time.Sleep(50 * time.Millisecond) // time itself is meant: nothing tells when a grace period is over
	}
}

// Entry names an entry of the table for good.
type Entry struct {
	Orig, Reply conntrack.Tuple
	ID          uint32
}

// Guard takes the tuples of flows into the guard, of each the original one, then
// that of the replies, before the flows may be deleted. The first call makes room for ends: for twice the
// tuples that it brings, at least 131,072 in each family.
//
// Entries that pass are of flows that are not meant, but have one of the tuples
// in another zone. What conntrack cannot place on theirs is dropped without an
// answer, which might end them.
func (f *Fence) Guard(_ context.Context, tuples []conntrack.Tuple, pass ...Entry) error {
	for _, r := range f.tables {
		var elems []nft.Element
		for _, t := range tuples {
			if t.Src.Is6() == (r.family == nft.IPv6) {
				elems = append(elems, nft.Element{Key: key(t)})
			}
		}
		b := new(nft.Batch)
		r.open(b, len(elems))
		r.pass(b, pass)
		if err := f.guard(r, b, elems); err != nil {
			return fmt.Errorf("fence: guard %d tuples: %w", len(elems), err)
		}
	}
	return nil
}

// pass adds entries to those that are let go.
func (r *raised) pass(b *nft.Batch, entries []Entry) {
	var born, shared []nft.Element
	for _, e := range entries {
		if e.Orig.Src.Is6() == (r.family == nft.IPv6) {
			born = append(born, nft.Element{Key: append(binary.BigEndian.AppendUint32(nil, e.ID), key(e.Orig)[protoLen:]...)})
			shared = append(shared, nft.Element{Key: key(e.Orig)}, nft.Element{Key: key(e.Reply)})
		}
	}
	if len(born) > 0 {
		b.AddElements(r.table, setBorn, born)
		b.AddElements(r.table, setShared, shared)
	}
}

// guard commits in pieces: a piece is one message to the kernel, which limits
// them, and nothing asks for all at once.
func (f *Fence) guard(r *raised, b *nft.Batch, elems []nft.Element) error {
	const piece = 1 << 16
	for first := true; first || len(elems) > 0; first = false {
		n := min(piece, len(elems))
		b.AddElements(r.table, setCut, elems[:n])
		elems = elems[n:]
		if err := f.conn.Commit(b); err != nil {
			return err
		}
		b = new(nft.Batch)
	}
	return nil
}

// open adds the sets and rules of the guard, once.
func (r *raised) open(b *nft.Batch, tuples int) {
	if r.guarded {
		return
	}
	r.guarded = true
	sets, chains := r.layout.guard(uint32(max(setSize, 2*tuples)))
	for _, s := range sets {
		b.AddSet(r.table, s)
	}
	for _, c := range chains {
		b.AddRules(r.table, c.Name, c.Rules)
	}
}

// Lower takes away the fence and leaves the guard: new flows on other tuples
// are the ruleset's business again.
func (f *Fence) Lower(context.Context) error {
	b := new(nft.Batch)
	for _, r := range f.tables {
		for _, chain := range []string{chainSelected, chainLateSelected, chainLeakSelected} {
			b.FlushChain(r.table, chain)
		}
	}
	if err := f.conn.Commit(b); err != nil {
		return fmt.Errorf("fence: lower: %w", err)
	}
	f.lowered = true
	return nil
}

// lowerCoarse takes away the coarse guard.
func (f *Fence) lowerCoarse() error {
	b := new(nft.Batch)
	for _, r := range f.tables {
		b.FlushChain(r.table, chainCoarse)
	}
	if err := f.conn.Commit(b); err != nil {
		return fmt.Errorf("fence: lift: %w", err)
	}
	return nil
}

// Lift removes all that stands. The selector's rules go before its sets: a
// packet that meets them while both go finds the sets empty.
func (f *Fence) Lift(ctx context.Context) error {
	if !f.lowered {
		if err := f.Lower(ctx); err != nil {
			return err
		}
	}
	if len(f.mirrors) > 0 {
		if err := f.lowerCoarse(); err != nil {
			return err
		}
	}
	b := new(nft.Batch)
	for _, r := range f.tables {
		b.DeleteTable(r.table)
	}
	f.tables = nil
	if err := f.conn.Commit(b); err != nil {
		return fmt.Errorf("fence: lift: %w", err)
	}
	return nil
}

// Close closes the socket; what still stands goes with it.
func (f *Fence) Close() error {
	return errors.Join(f.conn.Close(), f.queues.Close())
}

// Counts is what the fence has counted, in all families.
type Counts struct {
	Packets   uint64 // stopped, by fence and guard
	Bytes     uint64
	Refused   uint64 // first packets of new flows dropped because a set was full
	Leaked    uint64 // packets of selected flows that passed after the fence had settled
	Untracked uint64 // packets on cut tuples that connection tracking was told not to track

	// Disturbed names what somebody else has changed, so that rules may not have
	// been met: a chain that does not lead to ours any more, or not first, or the
	// clock; "" if there is nothing.
	Disturbed string
}

// Counts reads the counters.
func (f *Fence) Counts(context.Context) (Counts, error) {
	var out Counts
	for _, r := range f.tables {
		n, err := f.conn.Counts(r.table)
		if err != nil {
			return out, err
		}
		for _, name := range []string{countStopped, countGuarded, countLate} {
			out.Packets += n[name].Packets
			out.Bytes += n[name].Bytes
		}
		out.Refused += n[countRefused].Packets
		out.Untracked += n[countUntrack].Packets
		for _, name := range []string{countLeaked, countLeakCut} {
			out.Leaked += n[name].Packets - r.leaks[name]
		}
	}
	return out, nil
}
