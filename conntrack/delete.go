package conntrack

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// Delete deletes exactly the entries named by keys: same original tuple, same
// zone, same ID. A later flow on the same tuple is not touched. A key may also
// hold the reply tuple: the kernel finds the entry, and its ID, by either.
//
// gone, unless nil, is called with the index of each key that had no entry any
// more; that is no error. Any other refusal is returned when all keys were
// tried: the first, with the number of the others. A key that names no entry
// at all, such as one without addresses, is an error before anything is
// deleted. If the context ends, deleted counts what is known to be deleted.
// Needs CAP_NET_ADMIN.
func (c *Client) Delete(ctx context.Context, keys []Key, gone func(i int)) (deleted int, err error) {
	return c.DeleteHeard(ctx, keys, gone, nil)
}

// DeleteHeard is [Client.Delete], and calls heard with the index of each key of
// which the kernel has sent an event that its entry has ended. It sends none of
// flows that began while nobody listened, where net.netfilter.nf_conntrack_events
// is 2, as it mostly is; those that listen now never hear of the end of these,
// unless [Client.Announce] tells them. That an event was sent does not mean that
// each queue had room for it.
func (c *Client) DeleteHeard(ctx context.Context, keys []Key, gone, heard func(i int)) (deleted int, err error) {
	for i := range keys {
		if err := keys[i].validate(); err != nil {
			return 0, fmt.Errorf("conntrack: delete key %d, %v: %w", i, keys[i], err)
		}
	}
	if gone == nil {
		gone = func(int) {}
	}
	d := deletion{keys: keys, gone: gone, heard: heard}
	err = c.with("delete", func(s *conn) error { return d.run(ctx, s) })
	if err == nil {
		err = d.refused.err()
	}
	return d.deleted, err
}

// deletion is one call of Delete.
type deletion struct {
	keys    []Key
	gone    func(i int)
	heard   func(i int) // nil: nobody asks
	deleted int
	refused refusals

	sent map[Key]int // index of each key of a send, where events are asked for
	flow Flow
}

// run deletes all keys through s.
func (d *deletion) run(ctx context.Context, s *conn) error {
	b := newBatch(s, "delete")
	if d.heard != nil {
		b.echoed = d.hear
	}
	for next := 0; next < len(d.keys); {
		n, err := d.send(ctx, b, next)
		if errors.Is(err, errOverrun) {
			if n, err = d.again(ctx, b, next, n); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		next += n
	}
	return nil
}

// send deletes keys from index next on, as many as fit, and counts.
func (d *deletion) send(ctx context.Context, b *batch, next int) (n int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	failed := make(map[int]answer)
	var flags msgFlags
	if d.heard != nil {
		flags = flagEcho
		d.sent = make(map[Key]int)
	}
	b.reset()
	for i, k := range d.keys[next:] {
		if b.full() {
			break
		}
		h := b.begin(msgDelete, flags)
		if err := b.add(appendDelete(b.s.out, h, &k)); err != nil {
			return 0, err
		}
		if d.heard != nil {
			d.sent[k] = next + i
		}
	}
	b.refused = func(i int, a answer) { failed[i] = a }
	if err := b.send(ctx); err != nil {
		return b.n, err
	}
	d.count(next, b.n, failed)
	return b.n, nil
}

// hear takes the event of an entry that was deleted. A key that holds a reply
// tuple is not found by it.
func (d *deletion) hear(payload []byte) error {
	attrs, err := attributes(payload)
	if err != nil {
		return err
	}
	if err := parseFlow(attrs, &d.flow); err != nil {
		return err
	}
	if i, ok := d.sent[d.flow.Key()]; ok {
		d.heard(i)
	}
	return nil
}

// count books the outcome of n keys from index next on.
func (d *deletion) count(next, n int, failed map[int]answer) {
	for i := range n {
		switch a, bad := failed[i]; {
		case !bad:
			d.deleted++
		case a.errno == syscall.ENOENT:
			d.gone(next + i)
		default:
			d.refused.add(newError("delete", d.keys[next+i].String(), a))
		}
	}
}

// again repeats a send of n keys whose answers were lost, one key at a time so
// that no answer can be lost again. A key without an entry now was deleted by
// the first send or was gone before it; it counts as deleted.
func (d *deletion) again(ctx context.Context, b *batch, next, n int) (int, error) {
	if err := b.drain(ctx); err != nil {
		return 0, err
	}
	gone := d.gone
	defer func() { d.gone = gone }()
	d.gone = func(int) { d.deleted++ }
	limit := b.limit
	defer func() { b.limit = limit }()
	b.limit = 1
	for i := range n {
		if _, err := d.send(ctx, b, next+i); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// validate refuses keys that the kernel could not look up, and above all those
// that it might not read as a key: it takes a delete without a tuple for an
// order to empty the table.
func (k *Key) validate() error { return k.Orig.validate() }

// appendDelete appends the request to delete k. This is the only place that
// builds a delete of entries; it always holds a whole tuple, the ID and the
// zone, or is an error.
func appendDelete(b []byte, h header, k *Key) ([]byte, error) {
	if err := k.validate(); err != nil {
		return nil, err
	}
	b, start := beginMessage(b, h, k.Orig.Family(), versionPlain)
	b = appendTuple(b, attrTupleOrig, &k.Orig, 0, false)
	b = appendUint32(b, attrID, k.ID)
	b = appendUint16(b, attrZone, uint16(k.Zone))
	return endMessage(b, start), nil
}
