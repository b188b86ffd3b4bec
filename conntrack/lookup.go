package conntrack

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// Lookup asks for the entry that has a tuple in a zone.
type Lookup struct {
	Tuple Tuple
	Zone  Zone // of the direction that the tuple is of
}

// ErrMany means that more entries were found at once than the socket's receive
// queue has room for. A [Client.Dump] finds them.
var ErrMany = errors.New("more was found than fits into the receive queue")

// GetAll looks many tuples up, each as [Client.Get] does, and calls found with
// the index of each that is the original or the reply tuple of an entry. The
// *Flow is overwritten by the next. It is meant for tuples that are not
// expected to have one: the time it takes grows with their number and not with
// the table, and each that has one takes several times as long.
//
// Errors: [ErrMany]. Needs CAP_NET_ADMIN.
func (c *Client) GetAll(ctx context.Context, tuples []Lookup, found func(i int, f *Flow)) error {
	for i := range tuples {
		if err := tuples[i].Tuple.validate(); err != nil {
			return fmt.Errorf("conntrack: get tuple %d, %v: %w", i, tuples[i].Tuple, err)
		}
	}
	g := lookups{tuples: tuples, found: found}
	err := c.with("get", func(s *conn) error { return g.run(ctx, s) })
	if err == nil {
		err = g.refused.err()
	}
	return err
}

// lookups is one call of GetAll.
type lookups struct {
	tuples  []Lookup
	found   func(i int, f *Flow)
	next    int // index of the first request of the batch
	flow    Flow
	refused refusals
}

// run looks all tuples up through s.
func (g *lookups) run(ctx context.Context, s *conn) error {
	b := newBatch(s, "get")
	b.refused, b.found = g.refuse, g.parse
	for g.next < len(g.tuples) {
		if err := ctx.Err(); err != nil {
			return err
		}
		b.reset()
		for _, l := range g.tuples[g.next:] {
			if b.full() {
				break
			}
			out, start := beginMessage(b.s.out, b.begin(msgGet, 0), l.Tuple.Family(), versionPlain)
			out = appendTuple(out, attrTupleOrig, &l.Tuple, 0, false)
			out = appendUint16(out, attrZone, uint16(l.Zone))
			if err := b.add(endMessage(out, start), nil); err != nil {
				return err
			}
		}
		err := b.send(ctx)
		if errors.Is(err, errOverrun) {
			return ErrMany
		}
		if err != nil {
			return err
		}
		g.next += b.n
	}
	return nil
}

// refuse takes the answer to a request whose tuple has no entry, or a refusal.
func (g *lookups) refuse(i int, a answer) {
	if a.errno != syscall.ENOENT {
		l := &g.tuples[g.next+i]
		g.refused.add(newError("get", ofTuple(l.Tuple, l.Zone), a))
	}
}

// parse takes the entry that a request has found.
func (g *lookups) parse(i int, payload []byte) error {
	attrs, err := attributes(payload)
	if err != nil {
		return err
	}
	if err := parseFlow(attrs, &g.flow); err != nil {
		return err
	}
	g.found(g.next+i, &g.flow)
	return nil
}
