package cut

import (
	"context"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/netns"
	"flowcut/selector"
)

// A mirror is what conntrack makes of a flow whose entry was deleted while its
// server went on sending: the same connection, taken for one from the server
// to the client. It looks picked up, but so does every flow that a program has
// put into the table, as conntrackd does after a takeover, and every connection
// that is older than the table; among those may be the server's own, with the
// same addresses. What tells them apart are the ports: a mirror begins at one
// that is served, and goes to one that is not. Where a port could be served,
// its host is asked.

// services are the ports that are known to be served.
type services struct {
	below  uint16 // every port below it is: the least that this host takes for a connection of its own
	ranges []selector.PortRange
	ports  map[uint16]bool // of flows that are cut
	asked  map[netip.AddrPort]serving
	waited time.Duration   // for answers
	late   time.Time       // the last moment to wait for neighbours
	own    []conntrack.Key // entries of our asking
}

// prepare finds out what else there may be to look for. What it cannot find out
// the listing will say.
func (c *cutting) prepare(ctx context.Context) {
	c.reflect()
	c.sampleZones(ctx)
	c.expects = true
	stats, err := c.ct.ExpectCPUStats(ctx)
	if err == nil {
		c.expects = slices.ContainsFunc(stats, func(s conntrack.ExpectCPUStats) bool { return s.Create|s.New != 0 })
	}
}

// sampleZones looks at some entries, which come in no order, for zones: where
// there are any, what is narrowed does not show all flows on a tuple. There may
// be where it cannot look.
func (c *cutting) sampleZones(ctx context.Context) {
	const enough = 4096 // where one in a hundred has a zone, this finds none once in 10^17
	n := 0
	for f, err := range c.ct.Dump(ctx, conntrack.Filter{}) {
		if n++; err != nil || n == enough || c.zoned {
			c.zoned = c.zoned || err != nil
			break
		}
		c.zoned = f.Zone|f.OrigZone|f.ReplyZone != 0
	}
}

// reflect prepares the search for mirrors. A selector that leaves out what is
// picked up has none.
func (c *cutting) reflect() {
	if c.o.NoMirror {
		return
	}
	mirrors := slices.Clone(c.set.List())
	for i := range mirrors {
		s := &mirrors[i]
		c.servedBy(s)
		if s.PickedUp == selector.No {
			*s = selector.Selector{ID: selector.IDs{Set: true}} // means nothing
			continue
		}
		*s = s.Mirror()
		s.PickedUp = selector.Yes
	}
	for _, x := range c.o.Except {
		c.exceptMirrors = append(c.exceptMirrors, x.Mirror())
	}
	m := selector.NewSet(mirrors)
	if m.Empty() {
		return // as with --proto udp
	}
	c.mirror = m
	c.services.below = firstLocalPort(c.o.NetNS)
}

// servedBy takes down the ports that a selector names as a service's.
func (c *cutting) servedBy(s *selector.Selector) {
	for _, p := range []selector.Ports{s.OrigDstPort, s.ReplySrcPort} {
		if !p.Negated {
			c.services.ranges = append(c.services.ranges, p.Ranges...)
		}
	}
	for _, n := range []selector.NAT{s.DstNAT, s.AnyNAT} {
		for _, t := range n.Targets {
			if t.Port != 0 && !n.Negated {
				c.services.ranges = append(c.services.ranges, selector.PortRange{From: t.Port, To: t.Port})
			}
		}
	}
}

// serves takes down the port that a flow's responder serves.
func (c *cutting) serves(m *member) {
	if !m.tcp || m.why == mirrored {
		return
	}
	if c.services.ports == nil {
		c.services.ports = map[uint16]bool{}
	}
	c.services.ports[m.key.Orig.DstPort] = true
	c.services.ports[m.reply.SrcPort] = true
}

// isService tells whether a port is a service's, or may be.
func (c *cutting) isService(port uint16) bool {
	return port < c.services.below || c.isKnown(port)
}

// isKnown tells whether a port is a service's, as the selector or a flow that
// is cut says.
func (c *cutting) isKnown(port uint16) bool {
	s := &c.services
	if s.ports[port] {
		return true
	}
	for _, r := range s.ranges {
		if r.From <= port && port <= r.To {
			return true
		}
	}
	return false
}

// ftpData is the port from which FTP servers call their clients.
const ftpData = 20

// isMirror tells whether what looks like a mirror is one, by what the hosts have
// said. Where they have said nothing, and where a service may have ended before
// its connections, what decides is whether the ports are like those of a service
// and of a client.
func (c *cutting) isMirror(m *member) bool {
	from, to := m.key.Orig.SrcPort, m.reply.SrcPort
	if !c.isService(from) || c.services.asked[peerOf(m)] == serves {
		return false
	}
	client := to >= c.services.below
	switch c.services.asked[serverOf(m)] {
	case serves:
		return true
	case refuses:
		return client && c.isKnown(from)
	}
	return client && (from != ftpData || c.isKnown(from))
}

// serverOf is where the service is that a mirror seems to be of, peerOf where the
// client's end is.
func serverOf(m *member) netip.AddrPort {
	return netip.AddrPortFrom(m.key.Orig.Src, m.key.Orig.SrcPort)
}
func peerOf(m *member) netip.AddrPort { return netip.AddrPortFrom(m.reply.Src, m.reply.SrcPort) }

// askAbout asks the hosts of what looks like mirrors who serves there: first those
// that seem to be servers, then the clients of those that are. In a zone the
// same addresses may be others'. Nobody is asked where nobody is to be told.
func (c *cutting) askAbout(ctx context.Context, list []*member) error {
	if c.dry || c.o.Silent {
		return nil
	}
	var servers, peers []netip.AddrPort
	for _, m := range list {
		if m.zone == 0 && c.isService(m.key.Orig.SrcPort) {
			servers = append(servers, serverOf(m))
		}
	}
	if err := c.ask(ctx, servers); err != nil {
		return err
	}
	for _, m := range list {
		if m.zone == 0 && c.isMirror(m) {
			peers = append(peers, peerOf(m))
		}
	}
	return c.ask(ctx, peers)
}

// ask asks at addresses who serves there, where that has not been asked.
func (c *cutting) ask(ctx context.Context, at []netip.AddrPort) error {
	s := &c.services
	if s.asked == nil {
		s.asked = map[netip.AddrPort]serving{}
	}
	var fresh []netip.AddrPort
	for _, a := range at {
		if _, known := s.asked[a]; !known {
			s.asked[a] = unknown
			fresh = append(fresh, a)
		}
	}
	if len(fresh) == 0 || s.waited >= askLong {
		return nil
	}
	began := time.Now()
	if s.late.IsZero() {
		s.late = began.Add(askSlow)
	}
	answers, err := askServing(ctx, c.o.NetNS, fresh, began.Add(askLong-s.waited), s.late, func(t conntrack.Tuple) {
		if f, err := c.ct.Get(ctx, t, 0); err == nil { // without, it is not tracked here
			s.own = append(s.own, f.Key())
		}
	})
	s.waited += min(time.Since(began), askFor)
	maps.Copy(s.asked, answers)
	return err
}

// forget deletes what connection tracking keeps of our asking. Late answers to it
// have been turned away by then.
func (c *cutting) forget(ctx context.Context) error {
	if len(c.services.own) == 0 {
		return nil
	}
	_, err := c.ct.Delete(ctx, c.services.own, nil)
	return err
}

// suspect is a flow that looks like a mirror and is left alone.
type suspect struct {
	wants   wants
	guessed bool // it begins at what may be a service's port, and its host did not say
}

// suspect takes down one.
func (c *cutting) suspect(m *member) {
	if c.suspects == nil {
		c.suspects = map[conntrack.Key]suspect{}
	}
	said := c.services.asked[serverOf(m)] != unknown || c.services.asked[peerOf(m)] == serves
	c.suspects[m.key] = suspect{m.wants, c.isService(m.key.Orig.SrcPort) && !said}
}

// adopts tells whether conntrack makes flows of segments in mid-stream, which is
// what it does unless it was told otherwise.
func adopts(netNS int) bool {
	var text []byte
	err := netns.DoFd(netNS, func() (err error) {
		text, err = os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_tcp_loose")
		return err
	})
	return err == nil && strings.TrimSpace(string(text)) == "1"
}

// firstLocalPort returns the least port that connections of the host get when
// they ask for none; the kernel's default where it cannot be read.
func firstLocalPort(netNS int) uint16 {
	var text []byte
	err := netns.DoFd(netNS, func() (err error) {
		text, err = os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
		return err
	})
	words := strings.Fields(string(text))
	if err != nil || len(words) == 0 {
		return 32768
	}
	n, err := strconv.ParseUint(words[0], 10, 16)
	if err != nil {
		return 32768
	}
	return uint16(n)
}
