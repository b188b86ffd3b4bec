package cut

import (
	"context"
	"net/netip"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/fence"
	"flowcut/internal/probe"
)

// probeKind is what an end is sent to make it speak.
type probeKind uint8

const (
	// probeAck is answered by live ends without a limit for the whole host, but
	// once in 500 ms by each socket. It proves nothing: a host in between may
	// answer, which cannot place it.
	probeAck probeKind = iota
	// probeSyn passes host firewalls and NAT on the way as what may be a new
	// connection's. Its answers are known by their numbers.
	probeSyn
)

// round is one round of probes, sent to all ends that have not answered.
type round struct {
	at   time.Duration // since the first round
	kind probeKind
	way  probe.Way
}

// The first round tells live ends, by way of the fence's reset; the next ones
// are answered by ends that are dead then. Later ones are for long ways, and
// for ends that only hear SYNs.
//
// Most ends are reached as the gateway routes its own packets. Those that stay
// silent are asked as packets of the other end are forwarded to them, which
// output rules do not stop and policy routing does not lead astray.
var (
	roundsFirst = []round{
		{0, probeAck, probe.Routed}, {8 * time.Millisecond, probeSyn, probe.Routed}, {25 * time.Millisecond, probeSyn, probe.Routed},
		{60 * time.Millisecond, probeSyn, probe.Routed}, {120 * time.Millisecond, probeAck, probe.Forwarded}, {160 * time.Millisecond, probeSyn, probe.Forwarded},
	}
	// For ends that had just answered somebody else, which they do once in
	// 500 ms, and for long ways.
	roundsBefore = []round{
		{0, probeSyn, probe.Routed}, {200 * time.Millisecond, probeSyn, probe.Forwarded},
		{240 * time.Millisecond, probeSyn, probe.Routed}, {300 * time.Millisecond, probeSyn, probe.Forwarded},
	}
	// After the deletion a host firewall's view of the ends has changed, and
	// so has what NAT does to sequence numbers.
	roundsAfter = []round{
		{0, probeSyn, probe.Routed}, {30 * time.Millisecond, probeSyn, probe.Forwarded}, {100 * time.Millisecond, probeAck, probe.Forwarded},
		{140 * time.Millisecond, probeSyn, probe.Routed}, {550 * time.Millisecond, probeSyn, probe.Forwarded},
		{600 * time.Millisecond, probeSyn, probe.Routed}, {700 * time.Millisecond, probeSyn, probe.Forwarded},
	}
	// Only for flows of which no end has answered.
	roundsLast = []round{
		{200 * time.Millisecond, probeAck, probe.Forwarded}, {300 * time.Millisecond, probeSyn, probe.Forwarded},
		{800 * time.Millisecond, probeSyn, probe.Routed}, {1100 * time.Millisecond, probeAck, probe.Routed},
		{1200 * time.Millisecond, probeSyn, probe.Routed}, {1500 * time.Millisecond, probeSyn, probe.Forwarded},
	}
	lastAnswer = 150 * time.Millisecond // after the last probe of a list
)

// kick runs rounds of probes until all ends have confirmed their death, or all
// rounds are done; with enough, until each open flow is certain to be gone.
func (c *cutting) kick(ctx context.Context, rounds []round, enough bool) error {
	start := time.Now()
	for i := 0; i <= len(rounds); i++ {
		due := lastAnswer
		if i < len(rounds) {
			due = rounds[i].at
		} else {
			due += rounds[i-1].at
		}
		done, err := c.answersUntil(ctx, start.Add(due), enough)
		if done || err != nil {
			return err
		}
		// Where probes take longer to send than rounds are apart, the next one
		// asks those that are left.
		late := i > 0 && i+1 < len(rounds) && time.Since(start) > rounds[i+1].at
		if i < len(rounds) && !late {
			c.half ^= 1 << 31
			if err := c.probeAll(ctx, rounds[i], enough); err != nil {
				return err
			}
		}
	}
	return nil
}

// forOthers is how long after the first probe TCP flows are waited for that the
// gateway does not take for open. Should it be wrong, as with a way that it sees
// one direction of, their ends answer as any.
const forOthers = 200 * time.Millisecond

// answersUntil reads which ends have died until a moment, or until enough have.
func (c *cutting) answersUntil(ctx context.Context, until time.Time, enough bool) (done bool, err error) {
	const poll = 3 * time.Millisecond
	for {
		began := time.Now()
		if err := c.readDead(ctx); err != nil {
			return false, err
		}
		n := c.toAsk().unconfirmed()
		waited := !c.kicked.IsZero() && time.Since(c.kicked) > forOthers
		if n.ends == 0 && (n.otherEnds == 0 || enough || waited) || enough && n.flows == 0 {
			return true, nil
		}
		left := time.Until(until)
		if left <= 0 {
			return false, nil
		}
		if time.Since(c.kicked) > forKernel {
			if err := c.resetOurselves(ctx); err != nil {
				return false, err
			}
		}
		if err := wait(ctx, min(left, max(poll, 4*time.Since(began)))); err != nil {
			return false, err
		}
	}
}

// wait waits for a while, which is meant: answers come by the network.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// readDead takes down the ends that the fence has heard to be dead, and where
// it matters whether they had been told.
func (c *cutting) readDead(ctx context.Context) error {
	err := c.eachEnd(ctx, fence.Dead, func(m *member, i int) {
		if m.dead[i] {
			return
		}
		if i == 1 || m.adopted {
			c.takeBack(m, i)
		}
		m.dead[i], m.died[i] = true, c.since(time.Now())
	})
	if c.prober != nil { // without kicks it is read as well
		c.prober.Flush()
	}
	if err != nil {
		return err
	}
	n := c.toAsk().unconfirmed()
	if n.lonelyDead > 0 {
		if err := c.eachEnd(ctx, fence.Reset, func(m *member, i int) { m.told[i] = true }); err != nil {
			return err
		}
	}
	if n.ends+n.otherEnds == 0 {
		return nil
	}
	return c.readReborn(ctx)
}

// revive takes back the death of ends that have sent a segment since: what has
// no connection sends nothing but resets. Somebody else had answered for them,
// such as a firewall in front of them, and resets do not get to them.
func (c *cutting) revive(ctx context.Context) error {
	const late = 50 * time.Millisecond // segments that overtook each other on the way
	const tries = 3
	for try := 1; ; try++ {
		var alive []end
		began := time.Now()
		err := c.noted(ctx, fence.Spoke, func(n fence.Noted) {
			at := c.since(time.Now().Add(-n.Ago))
			c.endsOn(n.Tuple, func(m *member, i int) {
				if m.dead[i] && time.Duration(at-m.died[i]) > late {
					alive = append(alive, end{m, i})
				}
			})
		})
		// What the kernel says is older by up to the time that it took to hear it:
		// who was kept from that for a while asks again before he believes it.
		if slow := time.Since(began) > late/2; err == nil && slow && len(alive) > 0 && try < tries {
			continue
		}
		for _, e := range alive {
			e.m.dead[e.i], e.m.alive[e.i] = false, true
		}
		return err
	}
}

// takeBack ends what a listening host has begun on our SYN, where the
// kernel's reset for its SYN-ACK may not get there: it would wait for a minute
// for the end of the handshake, and many such crowd out its clients.
func (c *cutting) takeBack(m *member, i int) {
	t := target(m, i)
	if c.prober == nil || !m.asked && len(c.prober.Ways(t)) == 1 {
		return
	}
	for _, way := range []probe.Way{probe.Routed, probe.Forwarded} {
		c.prober.Reset(t, way, c.fence.Numbers().ISN+1, nil) // one without such a connection ignores it
	}
}

// readReborn takes down the originators that have begun a new connection on
// the old one's tuple. Probes would meet that.
func (c *cutting) readReborn(ctx context.Context) error {
	return c.noted(ctx, fence.Born, func(n fence.Noted) {
		n.Proto = conntrack.ProtoTCP
		c.endsOn(n.Tuple, func(m *member, i int) {
			known := m.dead[0] && m.told[0]
			if i == 0 && m.tcp && !m.shared && !known && c.reborn(ctx, m, n.ID) {
				m.dead[0], m.told[0], m.died[0] = true, true, c.since(time.Now())
			}
		})
	})
}

// reborn tells whether an entry is a connection with the same responder whose
// handshake is done: its beginning alone anybody can send. Of a flow that was no
// more than begun itself it is the next attempt.
func (c *cutting) reborn(ctx context.Context, m *member, id uint32) bool {
	if !m.open {
		return true
	}
	f, err := c.ct.Get(ctx, m.key.Orig, m.key.Zone)
	if err != nil || f.ID != id || f.Reply != m.reply {
		return false // where it cannot be told, the probes tell
	}
	switch f.TCP.State {
	case conntrack.TCPEstablished, conntrack.TCPFinWait, conntrack.TCPCloseWait, conntrack.TCPLastAck, conntrack.TCPTimeWait:
		return true
	}
	return false
}

// eachEnd calls f for each end of a member that has a mark.
func (c *cutting) eachEnd(ctx context.Context, mark fence.Mark, f func(m *member, i int)) error {
	return c.noted(ctx, mark, func(n fence.Noted) { c.endsOn(n.Tuple, f) })
}

// noted calls f for each tuple that has a mark, of which there may be many.
func (c *cutting) noted(ctx context.Context, mark fence.Mark, f func(n fence.Noted)) error {
	for n, err := range c.fence.Noted(mark) {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		f(n)
	}
	return nil
}

// endsOn calls f for each end of a member that sends a tuple.
func (c *cutting) endsOn(t conntrack.Tuple, f func(m *member, i int)) {
	for e := range c.members.on(t) {
		f(e.m, e.i)
	}
}

// forKernel is how long the kernel's own resets are waited for. They are the
// fast way, but a gateway's output rules may stop them, policy routing may lead
// them astray, and NAT may change their numbers.
const forKernel = 40 * time.Millisecond

// resetOurselves sends a reset to each end that the fence has stopped and that
// has not confirmed its death, with the number that the end itself named.
func (c *cutting) resetOurselves(ctx context.Context) error {
	next := map[conntrack.Tuple]uint32{}
	err := c.noted(ctx, fence.Spoke, func(n fence.Noted) {
		if last, ok := next[n.Tuple]; !ok || int32(n.Next-last) > 0 {
			next[n.Tuple] = n.Next
		}
	})
	if err != nil {
		return err
	}
	for t, seq := range next {
		if last, ok := c.resets[t]; ok && last == seq {
			continue
		}
		if c.resets == nil {
			c.resets = map[conntrack.Tuple]uint32{}
		}
		c.endsOn(t, func(m *member, i int) {
			if m.tcp && !m.dead[i] && !m.shared {
				c.resets[t] = seq
				c.reset(m, i, seq)
			}
		})
	}
	c.prober.Flush()
	return nil
}

// reset sends an end a reset, both ways.
func (c *cutting) reset(m *member, i int, seq uint32) {
	for _, way := range []probe.Way{probe.Routed, probe.Forwarded} {
		c.prober.Reset(target(m, i), way, seq, func(_ bool, err error) {
			if err != nil {
				c.sendError = err
				return
			}
			c.told, m.told[i], m.reset[i] = true, true, true
		})
	}
}

// probeAll sends one probe to each end of a TCP flow that has not confirmed
// its death; with enough, only where that is missing.
func (c *cutting) probeAll(ctx context.Context, r round, enough bool) error {
	if c.kicked.IsZero() {
		c.kicked = time.Now()
	}
	clear(c.resets) // what they answer now is worth another reset
	if r.kind == probeSyn {
		c.rounds++
	}
	for _, m := range c.toAsk() {
		if ctx.Err() != nil { // a neighbour that does not answer is waited for
			return context.Cause(ctx)
		}
		if !m.tcp || (enough && (!m.open || m.certain())) {
			continue
		}
		for i := range 2 {
			if !m.dead[i] {
				c.probe(r, m, i)
			}
		}
	}
	c.prober.Flush()
	return nil
}

// target is an end of a member, for probes.
func target(m *member, i int) probe.Target {
	t := probe.Target{End: m.end(i), Other: m.reply.Src, Mark: uint32(m.mark)}
	if i == 1 {
		t.Other = m.key.Orig.Src
	}
	return t
}

func (c *cutting) probe(r round, m *member, i int) {
	t, numbers := target(m, i), c.fence.Numbers()
	switch {
	case r.kind == probeAck:
		c.prober.Ack(t, r.way, c.failed)
	case i == c.began(m): // a SYN-ACK is what the originator's host expects
		// Conntrack on the end's side drops resets with numbers below what it
		// has seen: of two halves of all numbers one gets through.
		c.prober.SynAck(t, r.way, numbers.Ack^c.half, c.failed)
	default:
		c.prober.Syn(t, r.way, numbers.ISN, func(past bool, err error) {
			m.asked = m.asked || past
			c.failed(past, err)
		})
	}
}

// failed takes down why a probe could not be sent. Its end stays silent.
func (c *cutting) failed(_ bool, err error) {
	if err != nil {
		c.sendError = err
	}
}

// began returns the end that is asked as the originator. A firewall of a host
// knows which it is; the gateway does not of a flow that it has adopted, and
// tries one and the other.
func (c *cutting) began(m *member) int {
	turned := m.why == mirrored
	if m.adopted && c.rounds%2 == 0 {
		turned = !turned
	}
	if turned {
		return 1
	}
	return 0
}

// tellRest sends the ends of flows that are not TCP a port unreachable.
func (c *cutting) tellRest(ctx context.Context, list []*member) error {
	for _, m := range list {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if m.tcp || m.crowd {
			continue
		}
		for i := range 2 {
			if end := m.end(i); answerable(end) && !(i == 1 && end.IsICMP()) {
				c.unreachable(m, i)
			}
		}
	}
	c.prober.Flush()
	return nil
}

// unreachable tells an end by every way that may be the one to it. What passes
// the rules is counted there.
func (c *cutting) unreachable(m *member, i int) {
	t := target(m, i)
	for _, way := range c.prober.Ways(t) {
		c.prober.Unreachable(t, way, func(past bool, _ error) {
			m.unreached[i] = m.unreached[i] || past
			c.told = c.told || past
		})
	}
}

// answerable tells whether what an end sends may be answered by an ICMP error
// (RFC 1122, 3.2.2): nothing from or to many.
func answerable(end conntrack.Tuple) bool {
	single := func(a netip.Addr) bool {
		return !a.IsMulticast() && !a.IsUnspecified() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
	}
	return single(end.Src) && single(end.Dst)
}
