package cut

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/fence"
)

// count reads what the fence has counted and noted, before it is lifted.
func (c *cutting) count(ctx context.Context) error {
	r := &c.receipt
	n, err := c.fence.Counts()
	if err != nil {
		return err
	}
	r.Fence.Packets, r.Fence.Bytes, r.Fence.LeakedPackets = n.Packets, n.Bytes, n.Leaked
	r.Flows.Refused = int(n.Refused)
	c.untracked = n.Untracked
	if err := c.countMarks(); err != nil {
		return err
	}
	if err := errors.Join(c.readDead(ctx), c.revive(ctx)); err != nil {
		return err
	}
	for _, m := range c.members.list {
		for _, dead := range m.dead {
			if dead {
				r.Endpoints.Dead++
			} else if m.open {
				r.Endpoints.Silent++
			}
		}
	}
	return nil
}

// countMarks counts the tuples of each mark.
func (c *cutting) countMarks() error {
	r := &c.receipt
	born, err := c.born()
	if err != nil {
		return err
	}
	for key := range c.twins {
		delete(born, entryOf(key))
	}
	r.Flows.Admitted = len(born)
	for _, x := range []struct {
		mark fence.Mark
		into *int
		ours func(*member) *[2]bool // what we sent ourselves
	}{
		{fence.Reset, &r.Endpoints.Reset, func(m *member) *[2]bool { return &m.reset }},
		{fence.Unreachable, &r.Endpoints.Unreachable, func(m *member) *[2]bool { return &m.unreached }},
	} {
		for n, err := range c.fence.Noted(x.mark) {
			if err != nil {
				return err
			}
			if e, ok := c.members.get(c.members.ends[wireOf(n.Tuple)]); ok {
				x.ours(e.m)[e.i] = true
			}
		}
		for _, id := range c.members.ends {
			if e, _ := c.members.get(id); x.ours(e.m)[e.i] {
				*x.into++
			}
		}
	}
	for n, err := range c.fence.Noted(fence.Knocked) {
		if err != nil {
			return err
		}
		if n.Ago < max(c.o.Settle, 100*time.Millisecond) {
			r.Flows.Knocking++
			c.knocking = append(c.knocking, n.Tuple)
		}
	}
	silent := c.raised
	for n, err := range c.fence.Noted(fence.Leaked) {
		if err != nil {
			return err
		}
		if at := time.Now().Add(-n.Ago); at.After(silent) {
			silent = at
		}
	}
	r.Fence.SilentAfterMS = c.since(silent)
	return nil
}

// remaining finds out which members still have an entry, unless the last pass
// over the table has just shown that none has.
func (c *cutting) remaining(ctx context.Context) error {
	c.receipt.Flows.Spared = len(c.spared)
	c.receipt.Flows.Matched = len(c.members.list) + len(c.spared)
	if !c.checked && len(c.members.list) > 0 {
		for f, err := range c.ct.Dump(ctx, conntrack.Filter{}) {
			if err != nil {
				return err
			}
			if m := c.members.of(f.Key()); m != nil {
				m.remains = true
			}
		}
	}
	n := &c.receipt.Flows
	n.Suspects = len(c.suspects)
	for _, m := range c.members.list {
		switch m.why {
		case mirrored:
			n.Mirrored++
		case related:
			n.Related++
		}
		switch m.outcome() {
		case Deleted:
			n.Deleted++
		case Vanished:
			n.Vanished++
		case Remaining:
			n.Remaining++
		}
		if c.o.Flows {
			c.receipt.Flow = append(c.receipt.Flow, m.report())
		}
	}
	if c.o.Flows {
		for _, f := range c.spared {
			c.receipt.Flow = append(c.receipt.Flow, FlowReport{Flow: f, Outcome: Spared})
		}
	}
	return nil
}

// judge decides what the receipt may claim, and says why where it may not.
func (c *cutting) judge() {
	r := &c.receipt
	r.Proven = true
	doubt := func(doubtful bool, format string, args ...any) {
		if doubtful {
			r.Proven = false
			c.because(format, args...)
		}
	}
	doubt(c.ended != "", "%s", c.ended)
	doubt(r.Flows.Remaining > 0, "entries still in the table: %d; cut again", r.Flows.Remaining)
	doubt(r.Flows.Returned > 0, "entries that came back in spite of the guard: %d, so something forwards or inserts them that netfilter does not see (conntrackd, a flowtable, XDP); stop it and cut again", r.Flows.Returned)
	doubt(c.heldShort, "what has no handshake was not held for the whole --hold; give more --timeout")
	doubt(r.Fence.LeakedPackets > 0, "packets of selected flows that passed the fence: %d, on a path where its rules do not stop them; cut again, and report it", r.Fence.LeakedPackets)
	doubt(c.members.offloaded() > 0, "flows that a flowtable forwarded past all rules until their entries were deleted, and for a moment longer: %d; cut again in a few seconds", c.members.offloaded())
	doubt(c.untracked > 0, "packets of cut flows that a NOTRACK rule keeps from connection tracking: %d, which only the guard has stopped; take the rule away, or drop them there", c.untracked)
	c.judgeDetours(doubt)
	doubt(c.endless, "mirrors of what is selected kept coming, so somebody sends segments without connections from a service's port; block them, or leave mirrors alone by --no-mirror")
	doubt(c.blind, "whether packets wait in an NFQUEUE since before the fence could not be seen: run it as root, or with CAP_DAC_READ_SEARCH")
	doubt(c.settled() && !c.drained, "packets that wait in NFQUEUE %s since before the fence; their verdicts may let them pass, so cut again when the program behind it works", queueNums(c.waiting))
	if r.Flows.Knocking > 0 {
		c.because("tuples still sending when the guard was lifted: %d (%s), and the ruleset judges their next packet as a new flow's", r.Flows.Knocking, some(c.knocking))
	}
	if c.lost > 0 {
		c.because("packets that waited in an NFQUEUE when the guard was lifted, which drops them: %d", c.lost)
	}
	if n := c.members.shared(); n > 0 {
		c.because("flows with the same addresses and ports as one in another zone, so that their ends' answers cannot be told apart: %d", n)
	}
	if r.Flows.Suspects > 0 {
		c.because("flows left alone that look like mirrors of what is selected, but begin at no service's port: %d", r.Flows.Suspects)
	}
	if n := c.members.revived(); n > 0 {
		c.because("ends that have gone on sending after an answer in their place, which looked like their death: %d", n)
	}
	left := c.members.unconfirmed()
	silent := left.flows
	r.Final = silent == 0 && left.halfOpen == 0 && c.ended == ""
	if left.halfOpen > 0 {
		c.because("flows half open as far as the gateway has seen, without proof of their end: %d", left.halfOpen)
	}
	r.handshakes = !c.hasHeld()
	if r.Flows.Matched == 0 && r.Fence.Packets > 0 {
		c.because("packets stopped of flows that had no entry any more when they were listed: %d", r.Fence.Packets)
	}
	switch {
	case silent == 0:
	case c.tooMany:
		c.because("more than %d flows, which are guarded by the selector alone and whose ends were not asked for a sign of death; to have that, cut them in parts", maxGuarded)
	case c.o.Silent || c.o.NoKick:
		c.because("flows not asked for a sign of death: %d; %s", silent, c.mayReturn())
	case c.o.AcceptSilent:
		c.because("flows taken for gone on trust: %d", silent)
	default:
		doubt(true, "flows not certain to be gone: %d; %s", silent, c.whySilent())
	}
}

// some writes the first of a list.
func some[T fmt.Stringer](list []T) string {
	const most = 3
	var out []string
	for i, x := range list {
		if i == most {
			out = append(out, fmt.Sprintf("and %d more", len(list)-most))
			break
		}
		out = append(out, x.String())
	}
	return strings.Join(out, ", ")
}

// queueNums writes the numbers of queues.
func queueNums(queues []fence.Queue) string {
	var out []string
	for _, q := range queues {
		out = append(out, strconv.Itoa(q.Num))
	}
	return strings.Join(out, ", ")
}

// whySilent says why ends may not have answered, and what to do.
func (c *cutting) whySilent() string {
	switch {
	case errors.Is(c.sendError, unix.EPERM):
		return fmt.Sprintf("this host's output rules refuse the probes, and the way past these is closed, so let raw packets of root out (%v); %s", c.sendError, c.mayReturn())
	case errors.Is(c.sendError, unix.ENETUNREACH):
		return fmt.Sprintf("this host has no way to their ends, as a bridge without an address has none, or a router that only routes by device (%v), and --accept-silent takes silence for an end; %s", c.sendError, c.mayReturn())
	case c.sendError != nil && !errors.Is(c.sendError, unix.EHOSTUNREACH): // else: nobody answers there
		return fmt.Sprintf("not all probes could be sent (%v), and --accept-silent takes silence for an end; %s", c.sendError, c.mayReturn())
	}
	return "their ends did not answer, or somebody else did who had not spoken before; they may be gone, which --accept-silent takes for an end, or out of reach; " + c.mayReturn()
}

// mayReturn says what a flow without a dead end means.
func (c *cutting) mayReturn() string {
	deleted := ""
	if c.receipt.Flows.Remaining == 0 {
		deleted = "their entries are deleted, so that another cut can neither find nor ask them, and "
	}
	return deleted + "where conntrack adopts flows in mid-stream an end that is still there can bring one back: block it, or set net.netfilter.nf_conntrack_tcp_loose=0"
}
