//go:build linux

package soak

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/lab"
)

// Group is connections of one kind between two hosts.
type Group struct {
	Road     Road
	V6       bool
	From, To int // which client or server, counted from 0, where there are two
	Port     uint16
	Kind     lab.Kind
	Count    int
	First    uint16        // source port of the first; 0: the kernel chooses
	Interval time.Duration // of kinds that trickle
	Up, Down int           // datagrams a second
}

// String describes the group in a few words.
func (g *Group) String() string {
	family := "v4"
	if g.V6 {
		family = "v6"
	}
	s := fmt.Sprintf("%d %s %s %s %d>%d:%d", g.Count, trafficOf(g.Kind).name, family, g.Road, g.From, g.To, g.Port)
	if g.Kind == lab.Datagram {
		s += fmt.Sprintf(" (%d/%d a second)", g.Up, g.Down)
	}
	if g.First != 0 {
		s += fmt.Sprintf(" from %d", g.First)
	}
	return s
}

// traffic is a kind of traffic.
type traffic struct {
	kind  lab.Kind
	name  string
	often int // it is drawn
	draw  func(d *drawer, g *Group)
}

var traffics = []traffic{
	{lab.Idle, "idle", 4, func(d *drawer, g *Group) { g.Count = pick(d.Rand, 1, 10, 50, 300) }},
	{lab.Talk, "talk", 2, (*drawer).trickle},
	{lab.Speak, "speak", 4, (*drawer).trickle},
	{lab.Download, "download", 2, (*drawer).load},
	{lab.Upload, "upload", 2, (*drawer).load},
	{lab.Datagram, "udp", 4, (*drawer).datagrams},
	{lab.Echo, "echo", 2, func(_ *drawer, g *Group) { g.Count, g.Interval = 1, 10*time.Millisecond }},
	{lab.Control, "ftp", 1, func(d *drawer, g *Group) { g.Count = 1 + d.IntN(2) }},
}

func trafficOf(k lab.Kind) *traffic {
	for i := range traffics {
		if traffics[i].kind == k {
			return &traffics[i]
		}
	}
	return &traffics[0]
}

func isTCP(g *Group) bool { return g.Kind != lab.Datagram && g.Kind != lab.Echo }

func protoOf(g *Group) conntrack.Proto {
	switch {
	case isTCP(g):
		return conntrack.ProtoTCP
	case g.Kind == lab.Datagram:
		return conntrack.ProtoUDP
	case g.V6:
		return conntrack.ProtoICMPv6
	}
	return conntrack.ProtoICMP
}

// ftpPorts are those that FTP servers listen on.
var ftpPorts = []uint16{5205, 5215, 7005, 7015}

// helping makes the gateway follow what FTP expects.
func helping(_ []*lab.Station, family string) string {
	const text = `table %[1]s helper {
	ct helper ftp { type "ftp" protocol tcp; l3proto %[1]s; }
	chain pre { type filter hook prerouting priority -150; tcp dport { %[2]d, %[3]d, %[4]d, %[5]d } ct helper set "ftp"; }
}
`
	return fmt.Sprintf(text, family, ftpPorts[0], ftpPorts[1], ftpPorts[2], ftpPorts[3])
}

// start makes the connections of a group.
func (x *site) start(ctx context.Context, g *Group) error {
	from, _ := x.hosts(g)
	p := x.path(g)
	to := netip.AddrPortFrom(p.to, g.Port)
	var ends lab.Ends
	var err error
	switch g.Kind {
	case lab.Echo:
		var e *lab.End
		e, err = from.Ping(ctx, p.to, g.Interval)
		ends = lab.Ends{e}
	case lab.Datagram:
		ends, err = from.Exchange(ctx, lab.Datagrams{To: to, Count: g.Count, Up: g.Up, Down: g.Down})
	case lab.Control:
		return x.startFTP(ctx, g, from, to)
	default:
		ends, err = dial(ctx, from, g, p.local, to)
	}
	if err != nil {
		return err
	}
	for _, e := range ends {
		x.flows = append(x.flows, x.newFlow(g, e, e.Peer()))
	}
	return nil
}

func dial(ctx context.Context, from *lab.Host, g *Group, local netip.Addr, to netip.AddrPort) (lab.Ends, error) {
	s := lab.Streams{Kind: g.Kind, To: to, Count: g.Count, Interval: g.Interval}
	if g.First == 0 {
		return from.Dial(ctx, s)
	}
	var ends lab.Ends
	s.Count = 1
	for i := range g.Count {
		s.Local = netip.AddrPortFrom(local, g.First+uint16(i))
		one, err := from.Dial(ctx, s)
		if err != nil {
			return nil, err
		}
		ends = append(ends, one...)
	}
	return ends, nil
}

// startFTP begins sessions, each with a transfer: the server of an outward one
// calls back, as behind masquerade only the helper can make it.
func (x *site) startFTP(ctx context.Context, g *Group, from *lab.Host, to netip.AddrPort) error {
	for range g.Count {
		session, err := from.FTP(ctx, to)
		if err != nil {
			return err
		}
		control := x.newFlow(g, session.Control, session.Control.Peer())
		var e *lab.End
		var data *flow
		if g.Road == Outward {
			if e, err = session.Active(ctx); err != nil {
				return err
			}
			data = x.newFlow(g, e.Peer(), e)
			data.hosts[0], data.hosts[1] = data.hosts[1], data.hosts[0]
		} else {
			if e, err = session.Passive(ctx); err != nil {
				return err
			}
			data = x.newFlow(g, e, e.Peer())
		}
		// What is expected has its master's mark, and is not new to any rule.
		data.kind, data.sink, data.master = lab.Download, e, control
		data.mark, data.label = control.mark, 0
		x.flows = append(x.flows, control, data)
	}
	return nil
}

// template is a flow of a group as far as it is known before it is made.
func (x *site) template(g *Group) *flow {
	p := x.path(g)
	f := &flow{group: g, kind: g.Kind,
		orig:  conntrack.Tuple{Proto: protoOf(g), Src: p.local, Dst: p.to},
		reply: conntrack.Tuple{Proto: protoOf(g), Src: p.remote, Dst: p.from},
	}
	f.hosts[0], f.hosts[1] = x.hosts(g)
	if f.orig.HasPorts() {
		f.orig.DstPort, f.reply.SrcPort = g.Port, g.answering()
	}
	x.know(f)
	return f
}

// newFlow says what the ends of a connection know of it; of echo requests
// there is no second end.
func (x *site) newFlow(g *Group, from, to *lab.End) *flow {
	f := x.template(g)
	f.from, f.to, f.sink = from, to, from
	if to != nil {
		f.orig, f.reply = between(f.orig.Proto, from), between(f.orig.Proto, to)
		return f
	}
	// Echo requests have the socket's number, which translation keeps.
	const request4, reply4, request6, reply6 = 8, 0, 128, 129 // ICMP_ECHO and so on
	f.orig.ICMPID, f.reply.ICMPID = from.Local.Port(), from.Local.Port()
	f.orig.ICMPType, f.reply.ICMPType = request4, reply4
	if g.V6 {
		f.orig.ICMPType, f.reply.ICMPType = request6, reply6
	}
	return f
}

// between is the tuple of what an end sends.
func between(proto conntrack.Proto, e *lab.End) conntrack.Tuple {
	return conntrack.Tuple{
		Proto: proto, Src: e.Local.Addr(), SrcPort: e.Local.Port(), Dst: e.Remote.Addr(), DstPort: e.Remote.Port(),
	}
}
