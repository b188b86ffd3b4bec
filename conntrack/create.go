package conntrack

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
)

// Create makes an entry. Orig must be set, and Timeout of at least a second;
// Reply is the inverse of Orig unless f has it. Of the rest, what f.Has says
// is sent, where the kernel takes it: zone, status, mark, labels, protocol
// state, helper, sequence adjustment, synproxy, master.
//
// If Status says StatusSrcNAT or StatusDstNAT, the entry is made with the
// translation that the difference of Orig and Reply shows; otherwise a
// differing Reply is taken as it is and nothing is translated.
// Errors: [os.ErrExist] if an entry has one of the tuples.
// Needs CAP_NET_ADMIN.
func (c *Client) Create(ctx context.Context, f *Flow) error {
	return c.with("create", func(s *conn) error {
		s.seq++
		out, err := appendCreate(s.out[:0], header{msgNew, flagCreate | flagExcl | flagAck, s.seq}, f)
		if err != nil {
			return fmt.Errorf("%v: %w", f.Orig, err)
		}
		s.out = out
		return s.roundTrip(ctx, "create", ofTuple(f.Orig, f.Key().Zone), noMessage)
	})
}

// CreateAll makes the entries of flows, as [Client.Create] does, many at a
// time. Refusals do not stop it; the first is returned at the end, with the
// number of the others. made counts the entries that were made.
func (c *Client) CreateAll(ctx context.Context, flows iter.Seq[*Flow]) (made int, err error) {
	err = c.with("create", func(s *conn) error {
		var err error
		made, err = s.createAll(ctx, flows)
		return err
	})
	return made, err
}

// createAll makes the entries of flows.
func (s *conn) createAll(ctx context.Context, flows iter.Seq[*Flow]) (made int, err error) {
	c := creation{b: newBatch(s, "create")}
	c.b.refused = c.refuse
	for f := range flows {
		h := c.b.begin(msgNew, flagCreate|flagExcl)
		if err := c.b.add(appendCreate(s.out, h, f)); err != nil {
			return c.made(), fmt.Errorf("%v: %w", f.Orig, err)
		}
		if c.b.full() {
			if err := c.send(ctx); err != nil {
				return c.made(), err
			}
		}
	}
	if err := c.send(ctx); err != nil {
		return c.made(), err
	}
	return c.made(), c.refused.err()
}

// creation is one call of CreateAll.
type creation struct {
	b       *batch
	sent    int // requests that were answered
	refused refusals
}

func (c *creation) made() int { return c.sent - c.refused.n }

// refuse books the refusal of request i of the batch.
func (c *creation) refuse(i int, a answer) {
	c.refused.add(newError("create", fmt.Sprintf("flow %d", c.sent+i), a))
}

// send sends the batch.
func (c *creation) send(ctx context.Context) error {
	if err := c.b.send(ctx); err != nil {
		return err
	}
	c.sent += c.b.n
	c.b.reset()
	return nil
}

// Update changes the entry that has f.Orig as a tuple in f's zone. What f.Has
// says is set, where the kernel takes it: status (bits can only be set),
// timeout, mark, labels, protocol state, helper, sequence adjustment, synproxy.
//
// Errors: [os.ErrNotExist] if there is no such entry. Needs CAP_NET_ADMIN.
func (c *Client) Update(ctx context.Context, f *Flow) error {
	return c.with("update", func(s *conn) error {
		s.seq++
		out, err := appendUpdate(s.out[:0], header{msgNew, flagAck, s.seq}, f)
		if err != nil {
			return fmt.Errorf("%v: %w", f.Orig, err)
		}
		s.out = out
		return s.roundTrip(ctx, "update", ofTuple(f.Orig, f.Key().Zone), noMessage)
	})
}

// appendCreate appends the request to make f.
func appendCreate(b []byte, h header, f *Flow) ([]byte, error) {
	if err := f.validateText(); err != nil {
		return nil, err
	}
	c := *f
	c.Has |= AttrOrig | AttrReply
	if f.Has&AttrReply == 0 {
		c.Reply = f.Orig.Invert()
	}
	if f.Timeout < time.Second {
		return nil, errors.New("no timeout")
	}
	if c.Reply.Proto != c.Orig.Proto || c.Orig.Family() != c.Reply.Family() {
		return nil, fmt.Errorf("reply tuple of another protocol or family: %v", c.Reply)
	}
	nat := c.Status & (StatusSrcNAT | StatusDstNAT)
	if nat != 0 {
		// The kernel makes the reply tuple from this one and the translation.
		c.Reply = c.Orig.Invert()
	}
	b, start := beginMessage(b, h, c.Orig.Family(), versionPlain)
	b, err := c.appendTuples(b)
	if err != nil {
		return nil, err
	}
	if b, err = c.appendTimeout(b); err != nil {
		return nil, err
	}
	if f.Has&AttrStatus != 0 {
		// Without those that the kernel alone may set: it refuses the
		// request if they differ from what it has set by now.
		const own = StatusExpected | StatusDying
		b = appendUint32(b, attrStatus, uint32(c.Status&^own|StatusConfirmed))
	}
	if nat&StatusDstNAT != 0 {
		b = appendNAT(b, attrNATDst, f.Reply.Src, f.Orig.HasPorts(), f.Reply.SrcPort)
	}
	if nat&StatusSrcNAT != 0 {
		b = appendNAT(b, attrNATSrc, f.Reply.Dst, f.Orig.HasPorts(), f.Reply.DstPort)
	}
	return endMessage(c.appendState(b), start), nil
}

// appendUpdate appends the request to change the entry of f.
func appendUpdate(b []byte, h header, f *Flow) ([]byte, error) {
	if err := f.validateText(); err != nil {
		return nil, err
	}
	if err := f.Orig.validate(); err != nil {
		return nil, err
	}
	b, start := beginMessage(b, h, f.Orig.Family(), versionPlain)
	b = appendTuple(b, attrTupleOrig, &f.Orig, 0, false)
	b = appendUint16(b, attrZone, uint16(f.Key().Zone))
	if f.Has&AttrTimeout != 0 {
		var err error
		if b, err = f.appendTimeout(b); err != nil {
			return nil, err
		}
	}
	if f.Has&AttrStatus != 0 {
		b = appendUint32(b, attrStatus, uint32(f.Status))
	}
	return endMessage(f.appendState(b), start), nil
}
