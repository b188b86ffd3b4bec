package probe

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
)

// way looks up where packets to an end go, as they would when the other end
// sent them.
func (l *link) way(t *Target, scope int) (route, error) {
	if scope != 0 { // on a link is where it is
		if l.isLocal(t.End.Src) {
			return route{local: true}, nil
		}
		return route{dev: scope, hop: t.End.Src}, nil
	}
	p, err := l.rules(t.End.Src.Is6())
	if err != nil {
		return route{}, err
	}
	key := flow{dst: t.End.Src}
	if t.routesBySource() && (p.source || p.device || t.End.Src.Is6()) { // IPv6 has routes by source without rules
		key.src = t.Other
	}
	if p.mark {
		key.mark = t.Mark
	}
	if proto := t.End.Proto; p.ports && (proto == conntrack.ProtoTCP || proto == conntrack.ProtoUDP) {
		key.proto, key.sport, key.dport = proto, t.End.DstPort, t.End.SrcPort
	}
	f, ok := l.routes[key]
	if !ok {
		if len(l.routes) >= mostRoutes {
			clear(l.routes)
		}
		f.route, f.err = l.lookUp(key, p)
		l.routes[key] = f
	}
	return f.route, f.err
}

// mostRoutes is how many routes are kept: 100,000 flows have two ends each,
// and rules may tell each from the others.
const mostRoutes = 1 << 18

// rules reads a family's routing rules, once.
func (l *link) rules(six bool) (policy, error) {
	i, family := 0, byte(unix.AF_INET)
	if six {
		i, family = 1, unix.AF_INET6
	}
	if l.policy[i] == nil {
		p, err := l.ask.policy(family)
		if err != nil {
			return policy{}, err
		}
		l.policy[i] = &p
	}
	return *l.policy[i], nil
}

// lookUp looks up the way of a flow's packets: as packets that come in by the
// other end's device, if rules ask about that; then with what is left, down to
// the destination alone.
func (l *link) lookUp(f flow, p policy) (route, error) {
	plain, made := query{dst: f.dst}, query{dst: f.dst, src: f.src, mark: f.mark, proto: f.proto, sport: f.sport, dport: f.dport}
	// The kernel routes no IPv4 packet of its own with a source that it has not:
	// it must come in somewhere.
	if p.device || p.source && f.dst.Is4() {
		seems, err := l.ask.route(plain)
		if err == nil && seems.local {
			return seems, nil
		}
		other, err := l.towardsOther(f, seems.dev)
		if err == nil && !other.local {
			come := made
			come.iif = other.dev
			if rt, err := l.ask.route(come); err == nil {
				return rt, nil
			}
		}
		if f.src.Is4() && !other.local {
			made.src = netip.Addr{}
		}
	}
	if made != plain {
		if rt, err := l.ask.route(made); err == nil {
			return rt, nil
		}
	}
	return l.ask.route(plain)
}

// towardsOther looks up where the other end is: as the end's own packets find
// it when they come in by the device that it seems to be at.
func (l *link) towardsOther(f flow, dev int) (route, error) {
	if !f.src.IsValid() {
		return route{}, errors.New("the other end has no address to route by")
	}
	back := query{dst: f.src, src: f.dst, iif: dev, mark: f.mark, proto: f.proto, sport: f.dport, dport: f.sport}
	if dev != 0 {
		if rt, err := l.ask.route(back); err == nil {
			return rt, nil
		}
	}
	return l.ask.route(query{dst: f.src, mark: f.mark})
}

// linkLocal is where link-local addresses are: they name a host together with
// a device alone, which conntrack does not keep.
type linkLocal struct{ neighbours, own map[netip.Addr][]int }

// scope returns the device of a link-local end, 0 for any other end.
//
// It is the one that has the end as a neighbour. Where several have one of
// that address, it is the one of these that has the other end's, which is this
// host's, since such addresses are not forwarded.
func (l *link) scope(t *Target) (int, error) {
	end := t.End.Src
	if !end.Is6() || !end.IsLinkLocalUnicast() {
		return 0, nil
	}
	if err := l.readLinkLocal(); err != nil {
		return 0, err
	}
	devices := l.ll.own[end]
	if len(devices) == 0 {
		devices = l.ll.neighbours[end]
	}
	own := l.ll.own[t.End.Dst]
	both := slices.DeleteFunc(slices.Clone(devices), func(d int) bool { return !slices.Contains(own, d) })
	switch {
	case len(devices) == 1:
		return devices[0], nil
	case len(both) == 1:
		return both[0], nil
	case len(devices) == 0 && len(own) == 1:
		return own[0], nil
	}
	return 0, fmt.Errorf("%w: the address is link-local, and %d devices have such a neighbour", errScope, len(devices))
}

var errScope = errors.New("cannot tell the device")

func (l *link) isLocal(a netip.Addr) bool { return l.ll != nil && len(l.ll.own[a]) > 0 }

func (l *link) readLinkLocal() error {
	if l.ll != nil {
		return nil
	}
	neighbours, own, err := l.ask.linkLocal()
	if err != nil {
		return err
	}
	l.ll = &linkLocal{neighbours, own}
	return nil
}
