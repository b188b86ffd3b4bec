package cut

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"flowcut/internal/fence"
)

// judge decides what a receipt may claim, and says why where it may not.
func (c *cutting) judge(q *request) {
	r := &q.receipt
	r.Proven = true
	doubt := func(doubtful bool, format string, args ...any) {
		if doubtful {
			r.Proven = false
			q.because(format, args...)
		}
	}
	doubt(c.ended != "", "%s", c.ended)
	doubt(r.Flows.Remaining > 0, "entries still in the table: %d; cut again", r.Flows.Remaining)
	doubt(r.Flows.Returned > 0, "entries that came back in spite of the guard: %d, so something forwards or inserts them that netfilter does not see (conntrackd, a flowtable, XDP); stop it and cut again", r.Flows.Returned)
	doubt(c.heldShort && q.members.held(), "what has no handshake was not held for the whole --hold; give more --timeout")
	doubt(r.Fence.LeakedPackets > 0, "packets of selected flows that passed the fence: %d, on a path where its rules do not stop them; cut again, and report it", r.Fence.LeakedPackets)
	doubt(q.members.unreleased() > 0, "flows of a flowtable of which it is not known that hardware has let go: %d; the collector takes them away within seconds, so cut again", q.members.unreleased())
	doubt(c.untracked > 0, "packets of cut flows that a NOTRACK rule keeps from connection tracking: %d, which only the guard has stopped; take the rule away, or drop them there", c.untracked)
	doubt(c.disturbed != "", "somebody else has changed %s while the fence stood, so that packets may have passed it; cut again", c.disturbed)
	c.judgeDetours(q, doubt)
	doubt(c.endless, "mirrors of what is selected kept coming, so somebody sends segments without connections from a service's port; block them, or leave mirrors alone by --no-mirror")
	doubt(q.guessed > 0, "flows left alone that may be mirrors of what is selected, from ports that may be a service's, whose hosts did not say or were not asked: %d; see them by \"flowcut list --picked-up\" and select them as they are, or leave mirrors alone by --no-mirror", q.guessed)
	doubt(c.blind, "programs listen to NFQUEUEs, and whether packets wait there since before the fence could not be seen: run it as root, or with CAP_DAC_READ_SEARCH")
	late := c.overdue
	if c.settled() && !c.drained {
		late = c.waiting
	}
	doubt(len(late) > 0, "packets that wait in NFQUEUE %s since before the fence; their verdicts may let them pass, so cut again when the program behind it works", queueNums(late))
	c.judgeRest(q)
	c.judgeSilent(q, doubt)
}

// judgeRest says what else there is to know.
func (c *cutting) judgeRest(q *request) {
	r := &q.receipt
	if n := len(q.knocking); n > 0 {
		q.because("tuples still sending when the guard was lifted: %d (%s), and the ruleset judges their next packet as a new flow's", n, some(q.knocking))
	}
	if c.lost > 0 {
		q.because("packets that waited in an NFQUEUE when the guard was lifted, which drops them: %d", c.lost)
	}
	if n := q.members.shared(); n > 0 {
		q.because("flows with the same addresses and ports as one in another zone, so that their ends' answers cannot be told apart: %d", n)
	}
	if r.Flows.Suspects > 0 {
		q.because("flows left alone that look like mirrors of what is selected, but are not between a service and its client, by their ports and by what their hosts say: %d", r.Flows.Suspects)
	}
	if l := c.listeners; l != nil && l.blind != nil {
		q.because("who listens to connection tracking's events could not be seen (%v), so that a standby may keep flows", l.blind)
	}
	if n := q.members.unheard(); n > 0 {
		q.because("flows whose end listeners to connection tracking's events may not have heard of: %d; if conntrackd listens, its standby brings them back at a takeover: run conntrackd -f internal and conntrackd -R here, then conntrackd -f external and conntrackd -n there", n)
	}
	if n := q.members.revived(); n > 0 {
		q.because("ends that have gone on sending after an answer in their place, which looked like their death: %d", n)
	}
}

// judgeSilent says what is not certain to be gone.
func (c *cutting) judgeSilent(q *request, doubt func(bool, string, ...any)) {
	r := &q.receipt
	left := q.members.unconfirmed()
	silent := left.flows
	r.Final = silent == 0 && left.halfOpen == 0 && c.ended == ""
	if left.halfOpen > 0 {
		q.because("flows half open as far as the gateway has seen, without proof of their end: %d", left.halfOpen)
	}
	r.handshakes = !q.members.held()
	if r.Flows.Matched == 0 && r.Fence.Packets > 0 && r.Together == 1 {
		q.because("packets stopped of flows that had no entry any more when they were listed: %d", r.Fence.Packets)
	}
	if q.crowd {
		doubt(!c.o.AcceptSilent && !c.o.Silent && !c.o.NoKick, "too many flows to guard one by one (more than %d in all), so that they are guarded by the selector alone, and their ends were not told nor asked for a sign of death, which --accept-silent does without; to have that, cut them in parts", maxGuarded)
		return
	}
	switch {
	case silent == 0:
	case c.o.Silent || c.o.NoKick:
		q.because("flows not asked for a sign of death: %d; %s", silent, mayReturn(q))
	case c.o.AcceptSilent:
		q.because("flows taken for gone on trust: %d", silent)
	default:
		doubt(true, "flows not certain to be gone: %d; %s", silent, c.whySilent(q))
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
func (c *cutting) whySilent(q *request) string {
	switch {
	case errors.Is(c.sendError, unix.EPERM):
		return fmt.Sprintf("this host's output rules refuse the probes, and the way past these is closed, so let raw packets of root out (%v); %s", c.sendError, mayReturn(q))
	case errors.Is(c.sendError, unix.ENETUNREACH):
		return fmt.Sprintf("this host has no way to their ends, as a bridge without an address has none, or a router that only routes by device (%v), and --accept-silent takes silence for an end; %s", c.sendError, mayReturn(q))
	case c.sendError != nil && !errors.Is(c.sendError, unix.EHOSTUNREACH): // else: nobody answers there
		return fmt.Sprintf("not all probes could be sent (%v), and --accept-silent takes silence for an end; %s", c.sendError, mayReturn(q))
	}
	return "their ends did not answer, or somebody else did who had not spoken before; they may be gone, which --accept-silent takes for an end, or out of reach; " + mayReturn(q)
}

// mayReturn says what a flow without a dead end means.
func mayReturn(q *request) string {
	deleted := ""
	if q.receipt.Flows.Remaining == 0 {
		deleted = "their entries are deleted, so that another cut can neither find nor ask them, and "
	}
	return deleted + "where conntrack adopts flows in mid-stream an end that is still there can bring one back: block it, or set net.netfilter.nf_conntrack_tcp_loose=0"
}
