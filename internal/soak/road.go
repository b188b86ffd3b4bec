//go:build linux

package soak

import (
	"net/netip"

	"flowcut/internal/lab"
)

// Road is the way of a group's packets.
type Road string

// The roads. Where the gateway translates, Inward and Across are to its
// address, and forwarded; Outward and Across leave with its address.
const (
	Inward      Road = "inward"       // client to server, by a line of the DMZ
	Outward     Road = "outward"      // server to client
	Across      Road = "across"       // client to the other client, by a line of the DMZ
	Within      Road = "within"       // server to the other server
	Plain       Road = "plain"        // client to server, at its own address
	ToGateway   Road = "to gateway"   // server to the gateway
	FromGateway Road = "from gateway" // gateway to server
	Redirected  Road = "redirected"   // client to the gateway, which answers on another port
	Loopback    Road = "loopback"     // gateway to itself
)

// side is where hosts are.
type side uint8

const (
	outside side = iota
	inside
	middle
)

// course is what a road is.
type course struct {
	road     Road
	from, to side
	base     uint16 // of the ports that it is reached at
	often    int    // it is drawn
	passes   func(*gateway, *Group) bool
}

var courses = []course{
	{Inward, outside, inside, 5200, 3, func(k *gateway, g *Group) bool { return k.translates(g.V6) && g.Kind != lab.Echo }},
	{Outward, inside, outside, 7000, 1, (*gateway).letsOut},
	{Across, outside, outside, 7000, 1, func(k *gateway, g *Group) bool {
		// Halves in two zones, or a way out that only flows of one client's own
		// have, are no connection.
		c := &k.config
		return k.translates(g.V6) && g.Kind != lab.Echo && g.From != g.To && c.Uplinks == lab.MainTable && c.Zoned == lab.NoZones
	}},
	{Within, inside, inside, 5200, 1, func(k *gateway, g *Group) bool { return !k.config.Twins && g.From != g.To }},
	{Plain, outside, inside, 5200, 3, func(k *gateway, g *Group) bool {
		c := &k.config
		return !k.translates(g.V6) && (!c.Twins || g.From == g.To) && (k.tracks(g.V6) || c.Uplinks == lab.MainTable)
	}},
	{ToGateway, inside, middle, 5300, 1, func(k *gateway, g *Group) bool {
		return k.reaches() && !k.config.InputDrop && k.config.Output != lab.OutputDrop && k.tracks(g.V6)
	}},
	{FromGateway, middle, inside, 5200, 1, (*gateway).calls},
	{Redirected, outside, middle, 5400, 1, func(k *gateway, g *Group) bool {
		// What the gateway answers has no mark when its way is looked for.
		c := &k.config
		back := g.From == 0 || c.Uplinks == lab.MainTable || c.Uplinks == lab.BySource
		return k.translates(g.V6) && isTCP(g) && g.Kind != lab.Control && c.Output != lab.OutputDrop && back
	}},
	{Loopback, middle, middle, 5300, 1, (*gateway).calls},
}

// letsOut tells whether a server can call a client.
func (k *gateway) letsOut(g *Group) bool {
	c := &k.config
	byMark := c.Uplinks == lab.ByMark || c.Uplinks == lab.ByMarkRestored
	return (!c.Twins || g.From == g.To) && (g.To == 0 || !byMark) && (k.tracks(g.V6) || c.Uplinks == lab.MainTable)
}

// calls tells whether the gateway can make connections of its own.
func (k *gateway) calls(g *Group) bool {
	return k.reaches() && !k.config.InputDrop && k.config.Output == lab.OutputOpen && k.tracks(g.V6)
}

// redirect is what lies between the port that is redirected and the one that
// answers.
const redirect = 100

// courseOf finds a road's.
func courseOf(r Road) *course {
	for i := range courses {
		if courses[i].road == r {
			return &courses[i]
		}
	}
	return &courses[0]
}

// forwarded tells whether a line of the DMZ leads a group's connections.
func (g *Group) forwarded() bool { return g.Road == Inward || g.Road == Across }

// answering is the port that the responder has.
func (g *Group) answering() uint16 {
	if g.Road == Redirected {
		return g.Port - redirect
	}
	return g.Port
}

// stations returns where a group begins and ends; of the gateway's own flows,
// the station on the link that they seem to be on.
func (x *site) stations(g *Group) (from, to *lab.Station) {
	at := func(s side, n int) *lab.Station {
		if s == outside {
			return x.net.Clients[n]
		}
		return x.net.Servers[n]
	}
	switch c := courseOf(g.Road); {
	case g.Road == Redirected:
		return x.net.Clients[g.From], x.net.Clients[g.From]
	case c.from == middle:
		return x.net.Servers[g.To], x.net.Servers[g.To]
	case c.to == middle:
		return x.net.Servers[g.From], x.net.Servers[g.From]
	default:
		return at(c.from, g.From), at(c.to, g.To)
	}
}

// hosts returns a group's originating and responding host.
func (x *site) hosts(g *Group) (from, to *lab.Host) {
	a, b := x.stations(g)
	from, to = a.Host, b.Host
	c := courseOf(g.Road)
	if c.from == middle {
		from = x.net.Gateway.Host
	}
	if c.to == middle {
		to = x.net.Gateway.Host
	}
	return from, to
}

// path is where a group's connections go.
type path struct {
	local, to    netip.Addr // of the originator's socket
	remote, from netip.Addr // of the responder's socket: its own, and whom it sees
}

// path follows a road.
func (x *site) path(g *Group) path {
	a, b := x.stations(g)
	v6, nat := g.V6, x.gateway.translates(g.V6)
	public := func() netip.Addr { return x.net.To(a, b, g.Port, v6).Addr() }
	switch {
	case g.Road == Inward:
		return path{own(a, v6), public(), own(b, v6), own(a, v6)}
	case g.Road == Across:
		return path{own(a, v6), public(), own(b, v6), via(b, v6)}
	case g.Road == Outward && nat:
		return path{own(a, v6), own(b, v6), own(b, v6), via(b, v6)}
	case g.Road == Redirected:
		return path{own(a, v6), public(), via(a, v6), own(a, v6)}
	case g.Road == ToGateway:
		return direct(own(a, v6), via(a, v6))
	case g.Road == FromGateway:
		return direct(via(b, v6), own(b, v6))
	case g.Road == Loopback:
		return direct(via(b, v6), via(b, v6))
	}
	return direct(own(a, v6), own(b, v6))
}

func direct(a, b netip.Addr) path { return path{a, b, b, a} }

// everybody returns the addresses of all hosts.
func (x *site) everybody() []netip.Addr {
	var out []netip.Addr
	for _, list := range [][]*lab.Station{x.net.Clients, x.net.Servers} {
		for _, s := range list {
			out = append(out, s.Addr4, s.Addr6, s.Via4, s.Via6)
		}
	}
	return out
}
