package cut

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/detour"
	"flowcut/internal/fence"
	"flowcut/internal/netns"
	"flowcut/internal/probe"
	"flowcut/selector"
)

// Run cuts the flows that the options select and returns when the fence is
// lifted again. It has no effect that outlives it, or the process, but the
// deletion.
//
// The receipt is not nil once the fence has been raised, also when there is an
// error: then it says what had been done by then. A cut that ran to its end
// without proof is no error; see Receipt.Proven. When the context ends, the
// fence is lifted and the error is the context's cause.
//
// Needs CAP_NET_ADMIN and CAP_NET_RAW, and Linux 5.15. Errors for what is
// missing are [conntrack.NotSupportedError] or wrap os.ErrPermission; nothing
// has been changed then.
func Run(ctx context.Context, o Options) (*Receipt, error) {
	r := RunAll(ctx, o, []selector.Selector{o.Selector})[0]
	return r.Receipt, r.Err
}

// Result is what Run returns, for one of several selectors.
type Result struct {
	Receipt *Receipt
	Err     error
}

// RunAll cuts the flows of all selectors together and returns a result for each.
// It takes little more time than one cut, however many there are: one fence
// stops all, and the table is read once for all. Options.Selector counts for
// nothing; Options.All and Max hold for each selector by itself, and one that
// they forbid is left out and does not keep the others from being cut.
func RunAll(ctx context.Context, o Options, list []selector.Selector) []Result {
	results := make([]Result, len(list))
	c := newCutting(o.normal())
	limit, cancel := context.WithTimeoutCause(ctx, time.Until(c.o.Start.Add(c.o.Timeout)), errTimeout)
	defer cancel()
	places, err := c.admit(limit, list, results)
	if err == nil && len(places) > 0 {
		err = c.open()
	}
	switch {
	case err != nil && ctx.Err() != nil:
		err = errors.Join(context.Cause(ctx), c.close())
	case err != nil || len(places) == 0:
		err = errors.Join(err, c.close())
	default:
		err = c.runAll(ctx, limit)
	}
	for i := range results {
		if results[i].Err == nil {
			results[i].Err = err
		}
	}
	for i, q := range c.requests {
		results[places[i]].Receipt = &q.receipt
	}
	return results
}

// admit leaves out what may not be cut, with its error in the results, and
// returns the places of the rest.
func (c *cutting) admit(ctx context.Context, list []selector.Selector, results []Result) (places []int, err error) {
	for i := range list {
		if !c.o.All && !list[i].Narrows() {
			results[i].Err = ErrEverything
		}
	}
	if !slices.ContainsFunc(results, func(r Result) bool { return r.Err == nil }) {
		return nil, nil
	}
	if err := c.dial(); err != nil {
		return nil, err
	}
	if c.o.Max > 0 {
		if err := c.few(ctx, list, results); err != nil {
			return nil, err
		}
	}
	var admitted []selector.Selector
	for i := range list {
		if results[i].Err == nil {
			admitted, places = append(admitted, list[i]), append(places, i)
		}
	}
	c.set = selector.NewSet(admitted)
	return places, nil
}

// runAll does the cut, to its end or until something ends it.
func (c *cutting) runAll(ctx, limit context.Context) error {
	err := c.run(limit)
	if err == nil && c.settled() {
		c.begin(stepCheck)
		err = c.again(ctx)
	}
	switch {
	case timedOut(limit, err):
		c.ended = fmt.Sprintf("--timeout ran out at %q", c.step)
		err = nil
	case ctx.Err() != nil:
		c.ended = fmt.Sprintf("%v ended it at %q", context.Cause(ctx), c.step)
		err = context.Cause(ctx)
	case err != nil:
		c.ended = fmt.Sprintf("it ended at %q: %v", c.step, err)
	}
	// Counted while the fence stands, also after an interruption.
	finish := context.WithoutCancel(ctx)
	err = errors.Join(err, c.conclude(finish))
	// Linux frees a descriptor whatever close(2) says, and all that is proven is
	// proven by now.
	_ = c.close()
	if c.raised.IsZero() && err != nil {
		c.requests = nil
	}
	return err
}

// ErrEverything means that nothing narrows the selector and Options.All is not set.
var ErrEverything = errors.New("cut: the selector means every flow, and that was not asked for")

var errTimeout = errors.New("timeout")

// timedOut tells whether an error is that --timeout is over, in the words of
// whoever noticed.
func timedOut(limit context.Context, err error) bool {
	return errors.Is(err, errTimeout) || (errors.Is(err, context.DeadlineExceeded) && errors.Is(context.Cause(limit), errTimeout))
}

// The steps of a cut.
const (
	stepRaise    = "raise the fence"
	stepList     = "list the flows"
	stepTell     = "tell the ends"
	stepRelease  = "wait for flowtables to let go"
	stepDelete   = "delete the entries"
	stepTellRest = "tell the ends that stayed silent"
	stepSettle   = "wait until nothing knocks"
	stepCheck    = "look once more"
)

// cutting is one cut under way.
type cutting struct {
	o      Options
	set    *selector.Set // what is cut
	ct     *conntrack.Client
	fence  barrier
	facts  fence.Facts
	prober *probe.Prober
	step   string
	dry    bool // nothing is to be done: nobody is asked

	listeners *listeners // to events; nil if there are none

	// What there is to report.
	requests []*request // one for each selector, at the end
	receipt  Receipt    // what is the same for all
	reasons  []string

	// What is cut, and what is not.
	members       members
	mirror        *selector.Set       // of what is cut; nil if none is looked for
	exceptMirrors []selector.Selector // of what is left alone
	services      services
	spared        map[conntrack.Key]sparedFlow  // selected and left alone
	suspects      map[conntrack.Key]suspect     // look like mirrors and are left alone
	twins         map[conntrack.Key]fence.Entry // not meant, on a member's tuple in another zone
	zoned         bool                          // there are zones
	listings      uint32                        // of the table, so far
	expects       bool                          // there may be flows that others expected
	mirrors       bool                          // some were found
	helped        bool                          // a member has a helper

	looking sync.Mutex               // held while a flow is looked at, and members change
	early   *early                   // unless nil, flows are deleted as they are found
	coarse  bool                     // TCP flows are guarded by the selector, not by tuples
	crowds  map[int]bool             // places of selectors that mean too many flows for another guard
	asked   memberList               // where there are crowds, the others
	came    map[conntrack.Key]uint32 // entries that came back, with the last listing that has turned them up

	// When.
	raised   time.Time
	guarded  bool      // the rules know the tuples of what they cannot select
	kicked   time.Time // first probe
	deleted  time.Time // last deletion
	hardware bool      // flowtables may give flows to hardware
	released time.Time // since when no flowtable forwards what is deleted
	lowered  time.Time

	// Probes.
	rounds    int                        // of SYNs
	half      uint32                     // of the numbers of SYN-ACKs, see probe
	resets    map[conntrack.Tuple]uint32 // by end, numbers of the resets that we sent since the last round
	sendError error                      // of a probe that could not be sent

	// What there is to judge.
	checked   bool              // a look at all that can be meant found nothing old
	unseen    bool              // may not look into the queues
	blind     bool              // and there are some
	waiting   []fence.Queue     // have not been seen empty since the fence rose
	requeued  map[int]bool      // queues, by number, that are waited for a second time, see drained
	drained   bool              // there are none of those any more
	overdue   []fence.Queue     // were not empty when the flows had to be listed
	lost      int               // packets that waited in queues when the guard was lifted
	endless   bool              // new mirrors did not cease to come
	untracked uint64            // packets on cut tuples that conntrack was told not to track
	disturbed string            // a chain whose rules somebody else has changed, so that it may not lead to ours
	told      bool              // an end of a cut flow was
	knocking  []conntrack.Tuple // still sending when the guard was lifted
	detours   []detour.Finding  // what may carry packets past all hooks
	unlooked  error             // why not all detours could be looked for
	heldShort bool              // --timeout ended the hold
	ended     string            // why the cut ended before its end
}

// newCutting returns a cut of the flows that any of the selectors means.
func newCutting(o Options, list ...selector.Selector) *cutting {
	return &cutting{o: o, set: selector.NewSet(list), receipt: Receipt{Version: 1}}
}

// dial opens what the table is read through.
func (c *cutting) dial() (err error) {
	c.ct, err = conntrack.Dial(conntrack.Config{NetNS: c.o.NetNS})
	return err
}

// open opens the other sockets. It changes nothing.
func (c *cutting) open() (err error) {
	if err := c.openFence(c.o.Fence); err != nil {
		return err
	}
	if !c.kicks() {
		return nil
	}
	return netns.DoFd(c.o.NetNS, func() error {
		c.prober, err = probe.Open(fence.Tag)
		return err
	})
}

func (c *cutting) close() error {
	var err error
	if c.fence != nil {
		err = c.fence.Close()
	}
	if c.prober != nil {
		err = errors.Join(err, c.prober.Close())
	}
	if c.ct != nil {
		err = errors.Join(err, c.ct.Close())
	}
	return errors.Join(err, c.listeners.close())
}

// run goes through the steps until the guard may be lifted.
func (c *cutting) run(ctx context.Context) error {
	c.begin(stepRaise)
	if err := c.raise(ctx); err != nil || c.raised.IsZero() {
		return err
	}
	c.begin(stepList)
	c.prepare(ctx)
	c.listeners = newListeners(c.o.NetNS, c.o.Timeout)
	found, err := c.find(ctx)
	if err != nil {
		return err
	}
	if len(c.members.list) == 0 {
		c.checked = true
		return nil
	}
	if err := c.limit(ctx); err != nil {
		return err
	}
	if err := c.take(ctx, found); err != nil {
		return err
	}
	if err := c.deleteFirst(ctx, found); err != nil {
		return err
	}
	if c.kicks() {
		c.begin(stepTell)
		if err := c.tell(ctx, others(found)); err != nil {
			return err
		}
	}
	c.begin(stepDelete)
	if err := c.deleteAll(ctx, pending(found)); err != nil {
		return err
	}
	if err := c.announce(ctx); err != nil {
		return err
	}
	if c.kicks() {
		c.begin(stepTellRest)
		if err := c.kick(ctx, roundsAfter, false); err != nil {
			return err
		}
		if err := c.kick(ctx, roundsLast, true); err != nil {
			return err
		}
	}
	if err := c.lower(ctx); err != nil {
		return err
	}
	c.begin(stepSettle)
	return c.settle(ctx)
}

func (c *cutting) kicks() bool { return !c.o.NoKick && !c.o.Silent }

func (c *cutting) begin(step string) {
	c.step = step
	if c.o.Progress != nil {
		c.o.Progress(Step{Name: step, Flows: len(c.members.list), Raised: !c.raised.IsZero()})
	}
}

// take puts members under the guard. Without a hold, what has no handshake
// goes free as soon as its entry is gone, if its ends are noted all the same.
func (c *cutting) take(ctx context.Context, list []*member) error {
	var guarded []*member
	late := false // some have not been fenced before
	for _, m := range list {
		if m.free = c.frees(m); !m.free {
			guarded = append(guarded, m)
		}
		late = late || m.why != selected
	}
	if len(guarded)+len(c.twins) == 0 {
		return nil
	}
	if err := c.fence.Guard(ctx, tuples(guarded), slices.Collect(maps.Values(c.twins))...); err != nil {
		return err
	}
	switch {
	case !c.receipt.Fence.Exact && !c.guarded:
		// Only now do the rules know whom they mean.
		c.guarded = true
		c.raisedNow()
		return c.fence.Settle()
	case late:
		return c.fence.SettleTuples()
	}
	return nil
}

// frees tells whether a member is not taken into the guard.
func (c *cutting) frees(m *member) bool {
	return m.tcp && (c.coarse || m.crowd) || !m.tcp && c.o.Hold == 0 && c.facts.NotesAll
}

// tell makes the ends hear that it is over. Where some stay silent, the flows
// that are over do not wait for them: as long as its entry lives, a client that
// connects again from the same port is refused.
func (c *cutting) tell(ctx context.Context, list []*member) error {
	if err := c.tellRest(ctx, list); err != nil {
		return err
	}
	if err := c.kick(ctx, roundsFirst, false); err != nil {
		return err
	}
	if n := c.toAsk().unconfirmed(); n.ends == 0 {
		return nil
	}
	const slow = 2 * time.Second // a round of so many flows
	if time.Since(c.kicked) > slow {
		return nil // their entries are not kept waiting any longer
	}
	var over []*member
	for _, m := range pending(list) {
		if !m.tcp || m.dead[0] && m.dead[1] {
			over = append(over, m)
		}
	}
	if err := c.delete(ctx, over); err != nil {
		return err
	}
	return c.kick(ctx, roundsBefore, false)
}

// pending returns the members that have not been deleted yet.
func pending(list []*member) []*member {
	var out []*member
	for _, m := range list {
		if !m.deleted {
			out = append(out, m)
		}
	}
	return out
}

// deleteAll deletes entries and looks again until a look at all that can be meant
// finds nothing old.
func (c *cutting) deleteAll(ctx context.Context, found []*member) error {
	for passes := 1; ; passes++ {
		if err := c.delete(ctx, found); err != nil {
			return err
		}
		if err := c.release(ctx); err != nil {
			return err
		}
		if c.step != stepDelete {
			c.begin(stepDelete)
		}
		var err error
		if found, err = c.sweep(ctx, c.facts.Births); err != nil {
			return err
		}
		if len(found) == 0 {
			c.checked = true
			return nil
		}
		if passes >= mostPasses && onlyMirrors(found) {
			c.endless = true
			return nil
		}
		if err := c.take(ctx, found); err != nil {
			return err
		}
		if c.kicks() {
			if err := c.tellRest(ctx, found); err != nil { // TCP ends are kicked after the deletion
				return err
			}
		}
	}
}

// mostPasses is how often new mirrors are looked for. Old ones have come to
// light by then: a host that sends to ever new ports makes others without end.
const mostPasses = 16

func onlyMirrors(list []*member) bool {
	return !slices.ContainsFunc(list, func(m *member) bool { return m.why != mirrored })
}

// lower leaves the guard alone standing, once nothing waits in a queue that was
// there before the fence: a first packet among it has no entry to cut.
func (c *cutting) lower(ctx context.Context) error {
	if err := c.drain(ctx); err != nil {
		return err
	}
	c.lowered = time.Now()
	return c.fence.Lower(ctx)
}

// again looks for entries on cut tuples right before the guard is lifted.
func (c *cutting) again(ctx context.Context) error {
	c.checked = false
	found, err := c.sweep(ctx, false)
	if err != nil {
		return err
	}
	c.checked = true
	if len(found) == 0 {
		return nil
	}
	if err := c.delete(ctx, found); err != nil {
		return err
	}
	return c.announce(ctx)
}

// because notes what there is to know of all that is cut.
func (c *cutting) because(format string, args ...any) {
	c.reasons = append(c.reasons, fmt.Sprintf(format, args...))
}
