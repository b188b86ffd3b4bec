package conntrack

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Announce tells those that listen to events that flows have ended whose end
// they may not have heard of. It makes an entry for each, with the flow's
// tuples and zone and without a translation, and deletes it at once: so they
// hear that it began, and that it ended. Of the flows Orig, Reply and the zones
// count; they must not have an entry any more.
//
// told is called with the index of each flow for which both events were sent.
// They are not where one of the tuples has an entry again, whose events they
// heard instead, where nobody listens, or where the table is full. Whatever
// interrupts it, an entry that it has made expires within two seconds, whether
// or not packets meet it until then. Needs CAP_NET_ADMIN.
func (c *Client) Announce(ctx context.Context, flows []*Flow, told func(i int)) error {
	a := announcement{client: c, flows: flows, told: told}
	for next := 0; next < len(flows); {
		n, err := a.send(ctx, next)
		if err != nil {
			return err
		}
		next += n
	}
	return nil
}

// announcement is one call of Announce.
type announcement struct {
	client *Client
	flows  []*Flow
	told   func(i int)

	sent  map[Key]int // index of each flow of a send, by its key without an ID
	made  []Key       // entries that were made
	index []int       // and the flows that they stand for
	flow  Flow
}

// announced is how long an entry of Announce lives if it is not deleted.
const announced = 2 * time.Second

// send announces flows from index next on, as many as fit into a send.
func (a *announcement) send(ctx context.Context, next int) (n int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	a.sent, a.made, a.index = map[Key]int{}, nil, nil
	err = a.client.with("announce", func(s *conn) error {
		b := newBatch(s, "announce")
		b.refused, b.echoed = func(int, answer) {}, a.hear
		for i, f := range a.flows[next:] {
			if b.full() {
				break
			}
			h := b.begin(msgNew, flagCreate|flagExcl|flagEcho)
			if err := b.add(appendCreate(s.out, h, standIn(f))); err != nil {
				return fmt.Errorf("%v: %w", f.Orig, err)
			}
			k := f.Key()
			k.ID = 0
			a.sent[k] = next + i
		}
		n = b.n
		err := b.send(context.WithoutCancel(ctx)) // what was made is to be deleted
		if errors.Is(err, errOverrun) {
			return b.drain(context.WithoutCancel(ctx))
		}
		return err
	})
	if err != nil {
		return n, err
	}
	_, err = a.client.DeleteHeard(context.WithoutCancel(ctx), a.made, nil, func(i int) { a.told(a.index[i]) })
	return n, err
}

// hear takes the event of an entry that was made.
func (a *announcement) hear(payload []byte) error {
	attrs, err := attributes(payload)
	if err != nil {
		return err
	}
	if err := parseFlow(attrs, &a.flow); err != nil {
		return err
	}
	k := a.flow.Key()
	k.ID = 0
	if i, ok := a.sent[k]; ok {
		a.made, a.index = append(a.made, a.flow.Key()), append(a.index, i)
	}
	return nil
}

// standIn is the entry that stands for a flow. Packets do not prolong its life:
// they are not translated by it. A TCP flow's state is one that those who listen
// to certain states only listen to.
func standIn(f *Flow) *Flow {
	in := &Flow{
		Has: AttrOrig | AttrReply | AttrStatus | f.Has&(AttrZone|AttrOrigZone|AttrReplyZone), Orig: f.Orig, Reply: f.Reply,
		Zone: f.Zone, OrigZone: f.OrigZone, ReplyZone: f.ReplyZone, Timeout: announced,
		Status: StatusFixedTimeout,
	}
	if f.Orig.Proto == ProtoTCP {
		in.Has |= AttrTCP
		in.TCP = TCP{State: TCPEstablished, OrigFlags: TCPBeLiberal, ReplyFlags: TCPBeLiberal}
	}
	return in
}
