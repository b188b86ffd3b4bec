package cut

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"

	"flowcut/conntrack"
	"flowcut/internal/netns"
	"flowcut/selector"
)

// A mirror is what conntrack makes of a flow whose entry was deleted while its
// server went on sending: the same connection, taken for one from the server
// to the client. It looks picked up, but so does every flow that a program has
// put into the table, and every connection that is older than the table; among
// those may be the server's own, with the same addresses. What tells them apart
// is the port at which the flow seems to begin: a mirror's is its server's.

// services are the ports that are known to be served.
type services struct {
	below  uint16 // every port below it is: the least that this host takes for a connection of its own
	ranges []selector.PortRange
	ports  map[uint16]bool // of flows that are cut
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
// there are any, what is narrowed does not show all flows on a tuple.
func (c *cutting) sampleZones(ctx context.Context) {
	const enough = 4096 // where one in a hundred has a zone, this finds none once in 10^17
	n := 0
	for f, err := range c.ct.Dump(ctx, conntrack.Filter{}) {
		if n++; err != nil || n == enough || c.zoned {
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

// isService tells whether a port is a service's.
func (c *cutting) isService(port uint16) bool {
	s := &c.services
	if port < s.below || s.ports[port] {
		return true
	}
	for _, r := range s.ranges {
		if r.From <= port && port <= r.To {
			return true
		}
	}
	return false
}

// suspect takes down a flow that looks like a mirror and is left alone.
func (c *cutting) suspect(m *member) {
	if c.suspects == nil {
		c.suspects = map[conntrack.Key]wants{}
	}
	c.suspects[m.key] = m.wants
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
