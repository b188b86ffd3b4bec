package conntrack

import (
	"context"
	"iter"
)

// Dump lists the flows that match x, in no order, in constant memory.
//
// The *Flow is overwritten by the next step: keep a [Flow.Clone]. After an
// error the sequence ends. Stopping early costs nothing.
//
// A dump of a table that changes meanwhile misses and repeats entries without
// a sign; it proves nothing about flows that come and go.
// Needs CAP_NET_ADMIN.
func (c *Client) Dump(ctx context.Context, x Filter) iter.Seq2[*Flow, error] {
	return func(yield func(*Flow, error) bool) {
		stopped := false
		err := c.dump(ctx, &x, func(f *Flow) bool {
			stopped = !yield(f, nil)
			return stopped
		})
		if err != nil && !stopped {
			yield(nil, err)
		}
	}
}

// dump hands each flow that matches x to each until that returns true.
func (c *Client) dump(ctx context.Context, x *Filter, each func(*Flow) (stop bool)) error {
	s, err := c.take()
	if err != nil {
		return err
	}
	// Also if each panics or ends the goroutine. put takes s away from this.
	clean := false
	defer func() {
		if clean {
			c.put(s)
		} else {
			c.drop(s)
		}
	}()
	stopped := false
	err = s.dump(ctx, x, x.support(), func(f *Flow) bool {
		stopped = x.Match(f) && each(f)
		return stopped
	})
	clean = !stopped && (err == nil || isAnswer(err))
	if err != nil && !isAnswer(err) {
		return wrap("dump", err)
	}
	return err
}

// dump asks the kernel for the flows that match x, as far as sup trusts it, and
// hands each to each until that returns true.
func (s *conn) dump(ctx context.Context, x *Filter, sup Support, each func(*Flow) (stop bool)) error {
	var f Flow
	s.requestDump(x, sup)
	return s.roundTrip(ctx, "dump", "", func(_ header, b []byte) (bool, error) {
		b, err := attributes(b)
		if err != nil {
			return false, err
		}
		if err := parseFlow(b, &f); err != nil {
			return false, err
		}
		return each(&f), nil
	})
}

// requestDump builds the request for a dump, with as much of x as the kernel
// can be trusted with.
func (s *conn) requestDump(x *Filter, sup Support) {
	f := x.family()
	s.request(msgGet, flagDump, f, versionPlain)
	s.out = x.append(s.out, f, sup)
	s.seal()
}

// Has tells whether the table has an entry of family f, of any with
// [FamilyBoth]. It reads no more of the table than it takes to find one.
// Needs CAP_NET_ADMIN.
func (c *Client) Has(ctx context.Context, f Family) (bool, error) {
	found := false
	err := c.dump(ctx, &Filter{Family: f}, func(*Flow) bool {
		found = true
		return true
	})
	return found, err
}
