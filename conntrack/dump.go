package conntrack

import (
	"bytes"
	"context"
	"errors"
	"iter"
)

// Dump lists the flows that match x, in no order, in constant memory.
//
// The *Flow is overwritten by the next step: keep a [Flow.Clone]. After an
// error the sequence ends. Stopping early costs no more than what
// the kernel has begun to send.
//
// A dump of a table that changes meanwhile misses and repeats entries without
// a sign; it proves nothing about flows that come and go.
// Needs CAP_NET_ADMIN.
func (c *Client) Dump(ctx context.Context, x Filter) iter.Seq2[*Flow, error] {
	return sequence(func(each func(*Flow) bool) error { return c.dump(ctx, &x, each) })
}

// DumpDying lists the flows of family f that have ended and whose end could
// not be told yet to a watcher that insists on it (NETLINK_BROADCAST_ERROR),
// such as conntrackd; mostly there are none. It yields as [Client.Dump] does.
// Needs CAP_NET_ADMIN.
func (c *Client) DumpDying(ctx context.Context, f Family) iter.Seq2[*Flow, error] {
	return c.dumpList(ctx, "dump dying", msgGetDying, f)
}

// DumpUnconfirmed lists the flows of family f whose first packet is still
// under way through this host. It yields as [Client.Dump] does.
//
// Kernels since 6.1 have no such list any more and say that it is empty.
// Needs CAP_NET_ADMIN.
func (c *Client) DumpUnconfirmed(ctx context.Context, f Family) iter.Seq2[*Flow, error] {
	return c.dumpList(ctx, "dump unconfirmed", msgGetUnconfirmed, f)
}

// DumpZero lists the flows of family f and sets their counters to zero, each as
// it is read: what one listing counts no other does. It yields as [Client.Dump]
// does; stopping early leaves some counters zeroed whose flows were not seen.
// Needs CAP_NET_ADMIN.
func (c *Client) DumpZero(ctx context.Context, f Family) iter.Seq2[*Flow, error] {
	return c.dumpList(ctx, "dump and zero", msgGetZero, f)
}

// dumpList yields the flows that the kernel sends when asked for typ.
func (c *Client) dumpList(ctx context.Context, op string, typ msgType, f Family) iter.Seq2[*Flow, error] {
	x := Filter{Family: f}
	return sequence(func(each func(*Flow) bool) error {
		return c.stream(op, func(s *conn) (stopped bool, err error) {
			s.request(typ, flagDump, f, versionPlain)
			s.seal()
			err = receiveEach(ctx, s, op, nil, parseFlow, func(f *Flow) bool {
				stopped = x.Match(f) && each(f)
				return stopped
			})
			return stopped, err
		})
	})
}

// sequence makes an iterator of dump, which hands values to a function until
// that returns true or there are no more.
func sequence[T any](dump func(each func(*T) (stop bool)) error) iter.Seq2[*T, error] {
	return func(yield func(*T, error) bool) {
		stopped := false
		err := dump(func(v *T) bool {
			stopped = !yield(v, nil)
			return stopped
		})
		if err != nil && !stopped {
			yield(nil, err)
		}
	}
}

// smallTable is how many flows are received in no more time than it takes to
// find out whether the kernel can be trusted with a filter.
const smallTable = 2048

// dump hands each flow that matches x to each until that returns true.
//
// A probe of the kernel's filter walks through the hash table, as a dump does:
// so the dump begins while it is made, and begins again if the kernel
// disappoints.
func (c *Client) dump(ctx context.Context, x *Filter, each func(*Flow) (stop bool)) error {
	hope, unproven := x.hope()
	if !unproven {
		return c.dumpTrusting(ctx, x, hope, nil, each)
	}
	if n, err := c.Count(ctx); err == nil && n <= smallTable {
		return c.dumpTrusting(ctx, x, Support{}, nil, each)
	}
	probed := make(chan struct{})
	var sup Support
	go func() {
		defer close(probed)
		sup = x.support()
	}()
	err := c.dumpTrusting(ctx, x, hope, func() error {
		<-probed
		f := x.family()
		if !bytes.Equal(x.append(nil, f, sup), x.append(nil, f, hope)) {
			return errMistrust
		}
		return nil
	}, each)
	<-probed
	if errors.Is(err, errMistrust) {
		return c.dumpTrusting(ctx, x, sup, nil, each)
	}
	return err
}

// errMistrust means that the kernel was asked for what it does not do right.
var errMistrust = errors.New("the kernel's filter is wrong")

// dumpTrusting is dump where the kernel is trusted with sup of x. Before the
// first flow proof is asked, unless it is nil.
func (c *Client) dumpTrusting(
	ctx context.Context, x *Filter, sup Support, proof func() error, each func(*Flow) (stop bool),
) error {
	return c.stream("dump", func(s *conn) (stopped bool, err error) {
		s.requestDump(x, sup)
		err = receiveEach(ctx, s, "dump", proof, parseFlow, func(f *Flow) bool {
			stopped = x.Match(f) && each(f)
			return stopped
		})
		return stopped, err
	})
}

// stream runs f, which may stop before all answers are received, with a socket
// of its own. The socket is used again only if all were.
func (c *Client) stream(op string, f func(*conn) (stopped bool, err error)) error {
	s, err := c.take()
	if err != nil {
		return err
	}
	// Also if f panics or ends the goroutine. put takes s away from this.
	clean := false
	defer func() {
		if clean {
			c.put(s)
		} else {
			c.drop(s)
		}
	}()
	stopped, err := f(s)
	clean = !stopped && (err == nil || isAnswer(err))
	if err != nil && !isAnswer(err) {
		return wrap(op, err)
	}
	return err
}

// dump asks the kernel for the flows that match x, as far as sup trusts it, and
// hands each to each until that returns true.
func (s *conn) dump(ctx context.Context, x *Filter, sup Support, each func(*Flow) (stop bool)) error {
	s.requestDump(x, sup)
	return receiveEach(ctx, s, "dump", nil, parseFlow, each)
}

// receiveEach sends the request in s.out and hands what parse makes of the
// attributes of each answer to each until that returns true. It is one value,
// overwritten every time. before, unless it is nil, runs when the kernel has
// begun to answer, and may forbid to read that.
func receiveEach[T any](
	ctx context.Context, s *conn, op string, before func() error,
	parse func([]byte, *T) error, each func(*T) (stop bool),
) error {
	var v T
	p := prefetch{s: s, before: before}
	defer p.stop()
	return s.exchange(ctx, op, "", p.receive, func(_ header, b []byte) (bool, error) {
		b, err := attributes(b)
		if err != nil {
			return false, err
		}
		if err := parse(b, &v); err != nil {
			return false, err
		}
		return each(&v), nil
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
