//go:build linux

package soak

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/internal/lab"
)

// Disturbance is what happens beside the cut, or has happened before.
type Disturbance string

// The disturbances.
const (
	Nothing       Disturbance = ""
	VanishOne     Disturbance = "originators vanish"
	VanishOther   Disturbance = "responders vanish"
	VanishBoth    Disturbance = "both ends vanish"
	Forget        Disturbance = "neighbours forgotten"
	TwoCuts       Disturbance = "two cuts"
	Reload        Disturbance = "ruleset reloaded"
	OthersDelete  Disturbance = "others delete"
	DeletedBefore Disturbance = "deleted before"
	Restored      Disturbance = "table restored"
	Queued        Disturbance = "all through a queue"
	Held          Disturbance = "held in a queue"
	Flooded       Disturbance = "flood of SYNs"
	Cancelled     Disturbance = "cancelled"
	Killed        Disturbance = "killed"
)

// Beyond tells whether a scenario is beyond what a fence of a backend promises.
func (s *Scenario) Beyond(b cut.Backend) bool {
	return b == cut.IPTables && (s.Disturb == Killed || s.Disturb == Flooded)
}

// disturbanceKind is what one is.
type disturbanceKind struct {
	name      Disturbance
	often     int                            // it is drawn
	fits      func(*gateway, *Scenario) bool // nil: always
	queue     bool                           // all that is forwarded goes through one
	before    func(*trial, context.Context) error
	beside    func(*trial, context.Context) error // until the context ends
	breaksOff bool                                // the first cut does not come to its end
	timed     bool                                // it has a moment
	more      bool                                // there are flows that nobody has counted
}

var disturbances = []disturbanceKind{
	{name: Nothing, often: 10},
	{name: VanishOne, often: 2, before: func(c *trial, _ context.Context) error { return c.vanish(0) }},
	{name: VanishOther, often: 2, before: func(c *trial, _ context.Context) error { return c.vanish(1) }},
	{name: VanishBoth, often: 2, before: func(c *trial, _ context.Context) error { return errors.Join(c.vanish(0), c.vanish(1)) }},
	{name: Forget, often: 1, before: func(c *trial, _ context.Context) error { return c.net.Gateway.ForgetNeighbours() }},
	{name: TwoCuts, often: 2},
	{name: Reload, often: 2, beside: (*trial).reload},
	{name: OthersDelete, often: 1, fits: func(k *gateway, s *Scenario) bool {
		// A ruleset that drops what is new and no SYN, ahead of the fence, drops
		// the answers of ends whose entry somebody else has deleted.
		return s.Again == 0 && k.config.Crowd != lab.CrowdDropping
	}},
	{name: DeletedBefore, often: 3, fits: leavesMirrors, before: (*trial).deleteBefore},
	{name: Restored, often: 2, fits: restorable, before: (*trial).restore},
	{name: Queued, often: 1, fits: queueable, queue: true, beside: (*trial).queueOpen},
	{name: Held, often: 2, fits: queueable, queue: true, beside: (*trial).queueHeld, timed: true},
	{name: Flooded, often: 2, fits: floodable, beside: (*trial).flood, more: true},
	{name: Cancelled, often: 2, breaksOff: true, timed: true},
	{name: Killed, often: 2, breaksOff: true, timed: true},
}

func (d Disturbance) kind() *disturbanceKind {
	i := slices.IndexFunc(disturbances, func(k disturbanceKind) bool { return k.name == d })
	return &disturbances[max(i, 0)]
}

// vanish takes the first group's hosts of one side away, but not the gateway.
func (c *trial) vanish(side int) error {
	from, to := c.hosts(&c.s.Groups[0])
	h := []*lab.Host{from, to}[side]
	if h == c.net.Gateway.Host || c.vanished[h] {
		return nil
	}
	c.vanished[h] = true
	return h.Vanish()
}

// reload loads the ruleset again and again, as its owner may.
func (c *trial) reload(ctx context.Context) error {
	for ctx.Err() == nil {
		// Not ended by ctx, which would leave half of it undone.
		if _, err := nft(context.WithoutCancel(ctx), c.net.Gateway.Host, "flush ruleset\n"+c.rules, "-f", "-"); err != nil {
			return err
		}
	}
	return nil
}

// leavesMirrors tells whether a deletion makes conntrack adopt the first
// group's connections in the other direction: the server goes on, and what
// the client sends is nobody's any more.
func leavesMirrors(k *gateway, s *Scenario) bool {
	g := &s.Groups[0]
	c := &k.config
	return g.Road == Inward && g.From == 0 && (g.Kind == lab.Speak || g.Kind == lab.Download) && s.Again == 0 &&
		c.Sysctls["net.netfilter.nf_conntrack_tcp_loose"] == "" && c.Zoned == lab.NoZones && c.Uplinks == lab.MainTable &&
		c.Crowd != lab.CrowdDropping
}

// deleteBefore does to the first group's entries what people do.
func (c *trial) deleteBefore(ctx context.Context) error {
	if err := c.net.Gateway.Unforward(c.s.Groups[0].Port); err != nil {
		return err
	}
	left := map[conntrack.Tuple]conntrack.Tuple{} // of each flow, what its originator and its responder send
	for _, f := range c.flows {
		if f.group == &c.s.Groups[0] {
			left[f.orig] = f.reply
		}
	}
	return lab.Until(ctx, "servers' packets have made flows of their own", func() (bool, error) {
		table, err := c.table(ctx)
		if err != nil {
			return false, err
		}
		var keys []conntrack.Key
		n := 0
		for at, e := range table {
			if _, ok := left[at.tuple]; ok {
				keys = append(keys, e.Key())
			}
		}
		for _, reply := range left {
			if table[place{reply, 0}] != nil {
				n++
			}
		}
		_, err = c.ct.Delete(ctx, keys, nil)
		return n == len(left), err
	})
}

// restorable tells whether conntrack -I makes entries what they were.
func restorable(_ *gateway, s *Scenario) bool {
	return s.Again == 0 && !slices.ContainsFunc(s.Groups, func(g Group) bool { return g.Kind == lab.Control })
}

// restore deletes all entries of TCP and makes them anew, as after a failover:
// they look picked up. No packet may come in between, which would do the same.
func (c *trial) restore(ctx context.Context) error {
	const stop = `table inet stop { chain pre { type filter hook prerouting priority -400; meta l4proto tcp drop; }; chain out { type filter hook output priority -400; meta l4proto tcp drop; }; }`
	if _, err := nft(ctx, c.net.Gateway.Host, stop, "-f", "-"); err != nil {
		return err
	}
	table, err := c.table(ctx)
	if err != nil {
		return err
	}
	var keys []conntrack.Key
	var flows []*conntrack.Flow
	for _, e := range table {
		if e.Orig.Proto != conntrack.ProtoTCP {
			continue
		}
		keys = append(keys, e.Key())
		e.Timeout = time.Hour
		e.Has &^= conntrack.AttrID | conntrack.AttrUse
		e.TCP.OrigFlags, e.TCP.ReplyFlags = conntrack.TCPBeLiberal, conntrack.TCPBeLiberal
		flows = append(flows, e)
	}
	if _, err := c.ct.Delete(ctx, keys, nil); err != nil {
		return err
	}
	if _, err := c.ct.CreateAll(ctx, slices.Values(flows)); err != nil {
		return err
	}
	_, err = nft(ctx, c.net.Gateway.Host, "", "delete", "table", "inet", "stop")
	return err
}

const queueNum = 7

// queueable tells whether a queue can take what goes through the gateway: the
// lab's program is no fast one.
func queueable(k *gateway, s *Scenario) bool {
	const most = 1000 // datagrams a second
	loaded := slices.ContainsFunc(s.Groups, func(g Group) bool {
		return g.Kind == lab.Download || g.Kind == lab.Upload || g.Kind == lab.Control || g.Count*(g.Up+g.Down) > most
	})
	return k.config.Bridged == lab.Routed && !k.config.Twins && !loaded
}

// enqueue sends all that is forwarded through a queue, whose program lets it go on.
func (x *site) enqueue(ctx context.Context) (err error) {
	if x.queue, err = x.net.Gateway.Queue(queueNum); err != nil {
		return err
	}
	if err := x.queue.Open(); err != nil {
		return err
	}
	for _, family := range x.gateway.families() {
		// nft(8) needs a module for this that not every kernel has.
		iptables := map[string]string{"ip": "iptables", "ip6": "ip6tables"}[family]
		_, err := run(ctx, x.net.Gateway.Host, "", iptables, "-w", "-t", "mangle", "-A", "FORWARD", "-j", "NFQUEUE", "--queue-num", fmt.Sprint(queueNum))
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *trial) queueOpen(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// queueHeld lets what waits go, and all that comes later, at the moment.
func (c *trial) queueHeld(ctx context.Context) error {
	c.queue.Shut()
	timer := time.NewTimer(c.s.Moment) // what is drawn
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return c.queue.Open()
}

// spoofed are the sources of a flood. Answers to them end at the first client,
// which says nothing to them.
var spoofed = netip.MustParsePrefix("198.18.0.0/15")

func floodable(k *gateway, s *Scenario) bool {
	g := &s.Groups[0]
	c := &k.config
	return g.Road == Inward && !g.V6 && isTCP(g) && !c.Routers && c.Uplinks == lab.MainTable && s.Max == MaxNone
}

// flood sends SYNs from nowhere to what the first group reaches.
func (c *trial) flood(ctx context.Context) error {
	g := &c.s.Groups[0]
	if err := c.net.Gateway.Route(spoofed, c.net.Clients[0].Addr4); err != nil {
		return err
	}
	to := netip.AddrPortFrom(c.path(g).to, g.Port)
	flood, err := c.net.Clients[0].Flood(lab.Floods{To: to, Sources: spoofed, Rate: 2000})
	if err != nil {
		return err
	}
	<-ctx.Done()
	return flood.Stop()
}
