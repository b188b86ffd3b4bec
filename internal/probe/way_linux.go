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
	f, p, err := l.flow(t)
	if err != nil {
		return route{}, err
	}
	w, ok := l.known(f, p)
	if !ok {
		l.lookUp([]*search{l.search(f, p)})
		w, _ = l.known(f, p)
	}
	return w.route, w.err
}

// flow returns what decides the way to an end.
func (l *link) flow(t *Target) (flow, *policy, error) {
	f := flow{dst: t.End.Src}
	p, err := l.rules(f.dst.Is6())
	if err != nil {
		return f, nil, err
	}
	if t.routesBySource() && (p.source || p.device || f.dst.Is6()) { // IPv6 has routes by source without rules
		f.src = exactly(t.Other)
	}
	if p.mark {
		f.mark = t.Mark
	}
	if proto := t.End.Proto; p.ports && (proto == conntrack.ProtoTCP || proto == conntrack.ProtoUDP) {
		f.proto, f.sport, f.dport = proto, t.End.DstPort, t.End.SrcPort
	}
	return f, p, nil
}

// rules reads a family's routing rules, once.
func (l *link) rules(six bool) (*policy, error) {
	i, family := 0, byte(unix.AF_INET)
	if six {
		i, family = 1, unix.AF_INET6
	}
	if l.policy[i] == nil {
		p, err := l.ask.policy(family)
		if err != nil {
			return nil, err
		}
		l.policy[i] = &p
	}
	return l.policy[i], nil
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
