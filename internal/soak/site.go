//go:build linux

package soak

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"flowcut/conntrack"
	"flowcut/internal/lab"
)

// site is a scenario on the lab, under traffic.
type site struct {
	s    *Scenario
	kind *gatewayKind
	net  *lab.Topology
	ct   *conntrack.Client

	flows   []*flow
	victims []*flow // that the selector means
	others  []*flow
	again   *lab.Reconnecting

	broken broken
}

// build makes the network and starts the traffic of a scenario.
func build(ctx context.Context, s *Scenario) (_ *site, err error) {
	x := &site{s: s}
	for i := range gatewayKinds {
		if gatewayKinds[i].name == s.Gateway {
			x.kind = &gatewayKinds[i]
		}
	}
	if x.kind == nil {
		return nil, fmt.Errorf("soak: no such gateway: %q", s.Gateway)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, x.close())
		}
	}()
	if x.net, err = lab.Standard(ctx, x.kind.config); err != nil {
		return nil, err
	}
	if x.ct, err = conntrack.Dial(conntrack.Config{NetNS: x.net.Gateway.NS.Fd()}); err != nil {
		return nil, err
	}
	if x.kind.rules != "" {
		if _, err := nft(ctx, x.net.Gateway.Host, x.kind.rules, "-f", "-"); err != nil {
			return nil, err
		}
	}
	if err := x.serve(); err != nil {
		return nil, err
	}
	for i := range s.Groups {
		if err := x.start(ctx, &s.Groups[i]); err != nil {
			return nil, fmt.Errorf("soak: start %s: %w", s.Groups[i], err)
		}
	}
	return x, x.flowing(ctx)
}

func (x *site) close() error {
	var errs []error
	if x.ct != nil {
		errs = append(errs, x.ct.Close())
	}
	if x.net != nil {
		errs = append(errs, x.net.Close())
	}
	return errors.Join(errs...)
}

// serve starts the services of all groups, and forwards to them.
func (x *site) serve() error {
	type service struct {
		host *lab.Host
		port uint16
	}
	up, forwarded := map[service]bool{}, map[uint16]bool{}
	for i := range x.s.Groups {
		g := &x.s.Groups[i]
		if g.Kind == lab.Echo {
			continue
		}
		_, to := x.hosts(g)
		if at := (service{to, g.Port}); !up[at] {
			up[at] = true
			if _, err := to.Listen(g.Port); err != nil {
				return err
			}
		}
		if station := x.forwards(g); station != nil && !forwarded[g.Port] {
			forwarded[g.Port] = true
			if err := x.net.Gateway.Forward(g.Port, station); err != nil {
				return err
			}
		}
	}
	return nil
}

// forwards returns the station that the gateway forwards a group to, nil if
// it does not.
func (x *site) forwards(g *Group) *lab.Station {
	switch g.Road {
	case Inward:
		return x.net.Servers[g.To]
	case Across:
		return x.net.Clients[g.To]
	}
	return nil
}

// hosts returns a group's originating and responding host.
func (x *site) hosts(g *Group) (from, to *lab.Host) {
	n := x.net
	switch g.Road {
	case Inward, Plain:
		return n.Clients[g.From].Host, n.Servers[g.To].Host
	case Outward:
		return n.Servers[g.From].Host, n.Clients[g.To].Host
	case Across:
		return n.Clients[g.From].Host, n.Clients[g.To].Host
	case Within:
		return n.Servers[g.From].Host, n.Servers[g.To].Host
	case ToGateway:
		return n.Servers[g.From].Host, n.Gateway.Host
	default:
		return n.Gateway.Host, n.Servers[g.To].Host
	}
}

// start makes the connections of a group.
func (x *site) start(ctx context.Context, g *Group) error {
	from, _ := x.hosts(g)
	p := pathOf(g)
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
	default:
		ends, err = dial(ctx, from, g, p.local, to)
	}
	if err != nil {
		return err
	}
	for _, e := range ends {
		x.flows = append(x.flows, x.flowOf(g, e))
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

// flowOf says what the ends of a connection know of it.
func (x *site) flowOf(g *Group, e *lab.End) *flow {
	f := x.kind.template(g)
	f.end = e
	if peer := e.Peer(); peer != nil {
		f.orig = between(f.orig.Proto, e)
		f.reply = between(f.orig.Proto, peer)
		return f
	}
	// Echo requests have the socket's number, which translation keeps.
	f.orig.ICMPID, f.reply.ICMPID = e.Local.Port(), e.Local.Port()
	f.orig.ICMPType = map[bool]uint8{false: 8, true: 128}[g.V6]
	f.reply.ICMPType = map[bool]uint8{false: 0, true: 129}[g.V6]
	return f
}

// between is the tuple of what an end sends.
func between(proto conntrack.Proto, e *lab.End) conntrack.Tuple {
	return conntrack.Tuple{
		Proto: proto, Src: e.Local.Addr(), SrcPort: e.Local.Port(), Dst: e.Remote.Addr(), DstPort: e.Remote.Port(),
	}
}

// flowing waits until each connection that carries anything has carried some.
func (x *site) flowing(ctx context.Context) error {
	for _, f := range x.flows {
		for _, e := range f.receivers() {
			some := uint64(1)
			switch f.group.Kind {
			case lab.Download, lab.Upload:
				some = 1 << 20
			case lab.Datagram:
				some = 3 * 256
			}
			if err := (lab.Ends{e}).WaitReceived(ctx, some); err != nil {
				return fmt.Errorf("soak: %s: %w", f.group, err)
			}
		}
	}
	for _, f := range x.flows {
		if x.s.meant(f) {
			x.victims = append(x.victims, f)
		} else {
			x.others = append(x.others, f)
		}
	}
	return nil
}

// receivers are the ends that get something without being asked.
func (f *flow) receivers() lab.Ends {
	switch f.group.Kind {
	case lab.Download, lab.Speak, lab.Echo:
		return lab.Ends{f.end}
	case lab.Upload:
		return lab.Ends{f.end.Peer()}
	case lab.Talk:
		return f.ends()
	case lab.Datagram:
		var out lab.Ends
		if f.group.Up > 0 {
			out = append(out, f.end.Peer())
		}
		if f.group.Down > 0 {
			out = append(out, f.end)
		}
		return out
	}
	return nil
}

// ends are those of a flow that the lab has.
func (f *flow) ends() lab.Ends {
	if peer := f.end.Peer(); peer != nil {
		return lab.Ends{f.end, peer}
	}
	return lab.Ends{f.end}
}

// endsOf returns the ends of flows.
func endsOf(flows []*flow) lab.Ends {
	var out lab.Ends
	for _, f := range flows {
		out = append(out, f.ends()...)
	}
	return out
}
