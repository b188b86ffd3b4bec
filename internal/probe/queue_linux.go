package probe

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
)

// packet is one that waits to be sent.
type packet struct {
	t       Target
	way     Way
	kind    kind
	scope   int      // the device of a link-local end
	next    *station // the neighbour that gets it
	bytes   []byte   // from the IP header on
	done    Outcome
	to      []byte // struct sockaddr
	control []byte
	linkErr error // why it cannot leave by the link layer
}

// next returns the room of the next packet, empty.
func (p *Prober) next() []byte { return p.queue[p.waiting].bytes[:0] }

// add queues a packet that was made in the room of the next one.
func (p *Prober) add(t Target, w Way, proto conntrack.Proto, b []byte, done Outcome) {
	q := &p.queue[p.waiting]
	*q = packet{
		t: t, way: w, kind: kind{t.End.Src.Is6(), proto}, done: done,
		bytes: b, to: q.to, control: q.control, // room that is used again
	}
	if p.waiting++; p.waiting == most {
		p.Flush()
	}
}

// Flush sends what waits.
func (p *Prober) Flush() {
	var room [most]*packet
	list := room[:0]
	for i := range p.queue[:p.waiting] {
		q := &p.queue[i]
		var err error
		if q.scope, err = p.link.scope(&q.t); err != nil {
			q.finish(false, err)
			continue
		}
		list = append(list, q)
	}
	p.waiting = 0
	var four, six []*packet
	for _, q := range p.forward(list) {
		if q.kind.six {
			six = append(six, q)
		} else {
			four = append(four, q)
		}
	}
	p.route(p.raw4, four)
	p.route(p.raw6, six)
}

// forward sends those packets past all rules that are to leave so, and returns
// the others, and those that cannot.
func (p *Prober) forward(list []*packet) (rest []*packet) {
	var out []*packet
	for _, q := range list {
		if q.linkErr == nil && (q.way == Forwarded || p.refused[q.kind]) {
			out = append(out, q)
		} else {
			rest = append(rest, q)
		}
	}
	p.link.send(out)
	for _, q := range out {
		if q.linkErr == nil {
			q.finish(true, nil)
		} else {
			rest = append(rest, q)
		}
	}
	return rest
}

// route sends packets of a family by the host's own routing, and past all rules
// what these refuse.
func (p *Prober) route(raw *rawSocket, list []*packet) {
	for len(list) > 0 {
		n, err := raw.send(list)
		for _, q := range list[:n] {
			q.finish(false, nil)
		}
		if err == nil {
			return
		}
		bad := list[n]
		list = list[n+1:]
		if errors.Is(err, unix.EPERM) && bad.linkErr == nil {
			bad.way = Forwarded
			if len(p.forward([]*packet{bad})) == 0 {
				p.refused[bad.kind] = true // the next one need not try
				list = p.forward(list)
				continue
			}
		}
		bad.finish(false, err)
	}
}

// finish tells what became of a packet.
func (q *packet) finish(past bool, err error) {
	if q.done == nil {
		return
	}
	switch {
	case err == nil:
		q.done(past, nil)
	case q.linkErr == nil || errors.Is(q.linkErr, err): // the same either way
		q.done(false, fmt.Errorf("probe: send to %s: %w", q.t.End.Src, err))
	default:
		q.done(false, fmt.Errorf("probe: send to %s: %w, and past the output rules: %w", q.t.End.Src, err, q.linkErr))
	}
}
