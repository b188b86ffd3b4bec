package probe

import (
	"errors"
	"net/netip"
	"slices"

	"flowcut/conntrack"
)

// flow is what decides the way of a packet. What rules do not look at is zero.
type flow struct {
	dst          netip.Addr
	src          netip.Prefix // an address, or all that rules on sources take for the same
	mark         uint32
	proto        conntrack.Proto
	sport, dport uint16
}

// found is the outcome of a look-up.
type found struct {
	route
	err error
}

// mostRoutes is how many routes are kept: 100,000 flows have two ends each,
// and rules may tell each from the others.
const mostRoutes = 1 << 18

// alike is the flow that stands for all that rules take for the same.
func (f flow) alike(p *policy) flow {
	if f.src.IsValid() && f.dst.Is4() && !p.device {
		f.src = p.class(f.src.Addr())
	}
	return f
}

// known returns what was found for a flow, or for one that is alike.
func (l *link) known(f flow, p *policy) (found, bool) {
	if w, ok := l.routes[f.alike(p)]; ok {
		return w, true
	}
	w, ok := l.routes[f]
	return w, ok
}

// prepare looks up the ways of packets that are not known.
func (l *link) prepare(list []*packet) {
	if len(l.routes)+len(list) > mostRoutes {
		clear(l.routes)
	}
	var todo []*search
	for _, q := range list {
		f, p, err := l.flow(&q.t)
		if err != nil || q.scope != 0 {
			continue
		}
		_, ok := l.known(f, p)
		if !ok && !slices.ContainsFunc(todo, func(s *search) bool { return s.flow == f || s.alike == f.alike(p) }) {
			todo = append(todo, l.search(f, p))
		}
	}
	l.lookUp(todo)
}

// search is a look-up under way.
type search struct {
	flow  flow
	alike flow
	tries []query // from the one that says most to the destination alone
	whole bool    // the first has all that rules ask about
	done  bool
}

// search makes the queries for a flow's way: as packets that come in by the
// other end's device, if rules ask about that, and with ever less.
func (l *link) search(f flow, p *policy) *search {
	s := &search{flow: f, alike: f.alike(p), whole: true}
	plain, made := query{dst: f.dst}, query{dst: f.dst, src: f.src.Addr(), mark: f.mark, proto: f.proto, sport: f.sport, dport: f.dport}
	// The kernel routes no IPv4 packet of its own with a source that it has not:
	// it must come in somewhere.
	if p.device || p.source && f.dst.Is4() {
		var seems route
		if p.device {
			var err error
			if seems, err = l.ask.route(plain); err == nil && seems.local {
				s.tries = []query{plain}
				return s
			}
		}
		other, err := l.towardsOther(f, p, seems.dev)
		if s.whole = err == nil && !other.local; s.whole {
			come := made
			come.iif = other.dev
			s.tries = append(s.tries, come)
		}
		if f.dst.Is4() && !other.local {
			made.src = netip.Addr{}
		}
	}
	if s.tries = append(s.tries, made); made != plain {
		s.tries = append(s.tries, plain)
	}
	return s
}

// lookUp looks up the ways of flows, those of all together.
func (l *link) lookUp(list []*search) {
	for try := 0; len(list) > 0; try++ {
		var left []*search
		queries := make([]query, len(list))
		for i, s := range list {
			queries[i] = s.tries[try]
		}
		err := l.ask.routes(queries, func(i int, rt route, err error) {
			s := list[i]
			if s.done = err == nil || try+1 == len(s.tries); !s.done {
				left = append(left, s)
				return
			}
			key := s.flow
			if s.whole && try == 0 { // otherwise others that are alike may fare better
				key = s.alike
			}
			l.routes[key] = found{rt, err}
		})
		if err != nil {
			for _, s := range list {
				if !s.done {
					l.routes[s.flow] = found{err: err}
				}
			}
			return
		}
		list = left
	}
}

// reverse is what decides where the other end is.
type reverse struct {
	flow
	dev int
}

// towardsOther looks up where the other end is, once for all flows for which
// that is the same: as the end's own packets find it when they come in by the
// device that it seems to be at, of which 0 means that no rule asks about it.
func (l *link) towardsOther(f flow, p *policy, dev int) (route, error) {
	if !f.src.IsValid() {
		return route{}, errors.New("the other end has no address to route by")
	}
	back := query{dst: f.src.Addr(), src: f.dst, iif: dev, mark: f.mark, proto: f.proto, sport: f.dport, dport: f.sport}
	key := reverse{flow{dst: back.dst, src: exactly(f.dst), mark: f.mark, proto: f.proto, sport: f.dport, dport: f.sport}, dev}
	if f.dst.Is4() {
		key.src = p.class(f.dst)
	}
	if rt, ok := l.others[key]; ok {
		return rt, nil
	}
	if back.iif == 0 {
		seems, _ := l.ask.route(query{dst: f.dst}) // without one it is looked for all the same
		back.iif = seems.dev
	}
	var rt route
	var err error = errors.New("the end is nowhere")
	if back.iif != 0 {
		rt, err = l.ask.route(back)
	}
	if err != nil {
		rt, err = l.ask.route(query{dst: back.dst, mark: f.mark})
	}
	if err != nil {
		return rt, err
	}
	if len(l.others) >= mostRoutes {
		clear(l.others)
	}
	l.others[key] = rt
	return rt, nil
}
