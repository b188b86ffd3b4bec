package conntrack

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"
)

// DumpExpectations lists the expectations of family f, in no order, in
// constant memory. It yields as [Client.Dump] does: the *Expectation is
// overwritten by the next step, and after an error the sequence ends.
//
// The kernel does not say in which zone an expectation is: Zone is 0 for all.
// [Client.DumpExpectationsOf] knows it. Needs CAP_NET_ADMIN.
func (c *Client) DumpExpectations(ctx context.Context, f Family) iter.Seq2[*Expectation, error] {
	return sequence(func(each func(*Expectation) bool) error {
		return c.dumpExpectations(ctx, flagDump, f, nil, func(e *Expectation) (stop bool) {
			return (f == FamilyBoth || e.Tuple.Family() == f) && each(e)
		})
	})
}

// DumpExpectationsOf lists the expectations of one flow, with master as its
// original tuple in zone z. It yields as [Client.DumpExpectations] does.
//
// Errors: [os.ErrNotExist] if there is no such flow. Needs CAP_NET_ADMIN.
func (c *Client) DumpExpectationsOf(ctx context.Context, master Tuple, z Zone) iter.Seq2[*Expectation, error] {
	return sequence(func(each func(*Expectation) bool) error {
		if err := master.validateWhole(); err != nil {
			return fmt.Errorf("conntrack: dump expectations of %v: %w", master, err)
		}
		of := func(b []byte) []byte {
			b = appendTuple(b, attrExpectMaster, &master, 0, false)
			return appendUint16(b, attrExpectZone, uint16(z))
		}
		// A flow without room for a helper is answered by the
		// acknowledgement alone, any other by a dump without one.
		return c.dumpExpectations(ctx, flagDump|flagAck, master.Family(), of, func(e *Expectation) (stop bool) {
			e.Zone = z
			return e.Master == master && each(e)
		})
	})
}

// dumpExpectations asks for expectations, with the attributes that of appends,
// and hands them to each until that returns true.
func (c *Client) dumpExpectations(ctx context.Context, flags msgFlags, f Family, of func([]byte) []byte, each func(*Expectation) (stop bool)) error {
	const op = "dump expectations"
	return c.stream(op, func(s *conn) (stopped bool, err error) {
		s.request(msgExpGet, flags, f, versionPlain)
		if of != nil {
			s.out = of(s.out)
		}
		s.seal()
		err = receiveEach(ctx, s, op, nil, parseExpectation, func(e *Expectation) bool {
			stopped = each(e)
			return stopped
		})
		return stopped, err
	})
}

// GetExpectation returns the expectation that a flow with the original tuple t
// in zone z would meet. That is not only one whose Tuple is t: the kernel
// compares the source as far as the expectation's Mask says, so that any source
// port finds one that expects any.
//
// Errors: [os.ErrNotExist] if there is none. Needs CAP_NET_ADMIN.
func (c *Client) GetExpectation(ctx context.Context, t Tuple, z Zone) (Expectation, error) {
	k := ExpectationKey{Tuple: t, Zone: z}
	if err := t.validateWhole(); err != nil {
		return Expectation{}, fmt.Errorf("conntrack: get expectation %v: %w", t, err)
	}
	var e Expectation
	err := c.with("get expectation", func(s *conn) error { return s.getExpectation(ctx, &k, &e) })
	if err != nil {
		return Expectation{}, err
	}
	return e, nil
}

// getExpectation asks for the expectation of k, which has been validated.
func (s *conn) getExpectation(ctx context.Context, k *ExpectationKey, e *Expectation) error {
	s.request(msgExpGet, flagAck, k.Tuple.Family(), versionPlain)
	s.out = k.append(s.out)
	s.seal()
	return s.roundTrip(ctx, "get expectation", ofTuple(k.Tuple, k.Zone), func(_ header, b []byte) (bool, error) {
		attrs, err := attributes(b)
		if err != nil {
			return false, err
		}
		err = parseExpectation(attrs, e)
		e.Zone = k.Zone
		return false, err
	})
}

// append appends what names the expectation: tuple, zone and, unless it is 0,
// the ID.
func (k *ExpectationKey) append(b []byte) []byte {
	b = appendTuple(b, attrExpectTuple, &k.Tuple, 0, false)
	b = appendUint16(b, attrExpectZone, uint16(k.Zone))
	if k.ID != 0 {
		b = appendUint32(b, attrExpectID, k.ID)
	}
	return b
}

// CreateExpectation makes an expectation of the flow whose original or reply
// tuple is e.Master, in e's zone. Tuple must be set; a zero Mask stands for
// every bit. Of NAT, what is zero may be left out.
//
// The master needs room for a helper: it must have got one when it was made, by
// a rule or by [Client.Create] with Helper. That helper also decides how long
// the expectation lives, whatever Timeout says, and how many one master may
// have: beyond that the oldest goes, with FTP beyond one. ID and
// [ExpectUserspace] are the kernel's. Helper need not be set: new kernels ignore
// it, others refuse one that is not for the master's protocol, and want it for a
// Class other than 0.
//
// Errors: [os.ErrExist] if a flow of the tuple is expected already,
// [os.ErrNotExist] if the master does not exist, EBUSY if an expectation
// overlaps with this one, EOPNOTSUPP if the master has no room for a helper or
// Helper is refused, EINVAL for an unknown Class or Func or a Helper of more
// than 15 bytes, EMFILE if the table (net.netfilter.nf_conntrack_expect_max) is
// full. Needs CAP_NET_ADMIN.
func (c *Client) CreateExpectation(ctx context.Context, e *Expectation) error {
	return c.with("create expectation", func(s *conn) error {
		s.seq++
		h := header{msgExpNew, flagCreate | flagExcl | flagAck, s.seq}
		out, err := appendCreateExpectation(s.out[:0], h, e)
		if err != nil {
			return fmt.Errorf("%v: %w", e.Tuple, err)
		}
		s.out = out
		return s.roundTrip(ctx, "create expectation", ofTuple(e.Tuple, e.Zone), noMessage)
	})
}

// appendCreateExpectation appends the request to make e.
func appendCreateExpectation(b []byte, h header, e *Expectation) ([]byte, error) {
	c := *e
	if err := c.fill(); err != nil {
		return nil, err
	}
	b, start := beginMessage(b, h, c.Tuple.Family(), versionPlain)
	b, err := c.appendTuples(b)
	if err != nil {
		return nil, err
	}
	if b, err = c.appendRest(b); err != nil {
		return nil, err
	}
	return endMessage(b, start), nil
}

// fill sets what may be left out in a request, and refuses tuples that do not
// belong together: the kernel reads all by one family.
func (e *Expectation) fill() error {
	if err := e.Tuple.validateWhole(); err != nil {
		return fmt.Errorf("tuple: %w", err)
	}
	if e.Mask == (Tuple{}) {
		e.Mask = fullMask(e.Tuple)
	}
	// Of ICMP the kernel reads the mask's type, refuses ones, and ignores it.
	e.Mask.ICMPType, e.Mask.ICMPCode = e.Tuple.ICMPType, e.Tuple.ICMPCode
	f := e.Tuple.Family()
	if e.NAT != (Tuple{}) {
		e.NAT.fillZero(f)
		if e.NAT.Proto == 0 {
			e.NAT.Proto = e.Tuple.Proto
		}
	}
	switch {
	case e.Master.Family() != f:
		return fmt.Errorf("master of another family: %v", e.Master)
	case e.Mask.Family() != f, e.Mask.Proto != e.Tuple.Proto:
		return fmt.Errorf("mask of another protocol or family: %v", e.Mask)
	case e.NAT != Tuple{} && e.NAT.Family() != f:
		return fmt.Errorf("translation to another family: %v", e.NAT)
	}
	return nil
}

// fillZero sets the addresses that t lacks to the unspecified one of family f.
func (t *Tuple) fillZero(f Family) {
	zero := netip.IPv4Unspecified()
	if f == FamilyIPv6 {
		zero = netip.IPv6Unspecified()
	}
	if !t.Src.IsValid() {
		t.Src = zero
	}
	if !t.Dst.IsValid() {
		t.Dst = zero
	}
}

// fullMask returns the mask by which every bit of t counts, as the kernel sends
// it.
func fullMask(t Tuple) Tuple {
	ones := netip.AddrFrom4([4]byte{0xff, 0xff, 0xff, 0xff})
	if t.Family() == FamilyIPv6 {
		var b [16]byte
		for i := range b {
			b[i] = 0xff
		}
		ones = netip.AddrFrom16(b)
	}
	m := Tuple{Src: ones, Dst: ones, Proto: t.Proto}
	if t.HasPorts() || t.Proto == ProtoGRE {
		m.SrcPort, m.DstPort = 0xffff, 0xffff
	}
	if t.IsICMP() {
		m.ICMPID, m.ICMPType, m.ICMPCode = 0xffff, 0xff, 0xff
	}
	return m
}

// DeleteExpectations deletes exactly the expectations named by keys: same
// tuple, same zone, same ID. No flow is touched.
//
// gone, unless nil, is called with the index of each key that had no
// expectation any more; that is no error. Any other refusal is returned when
// all keys were tried: the first, with the number of the others. A key that
// names no expectation, such as one without addresses, is an error before
// anything is deleted. If the context ends, deleted counts what is known to be
// deleted.
//
// Linux before 6.11, and stable releases before July 2024, compare the ID with
// another number than they send: there a key with an ID is refused with a
// [NotSupportedError] while its expectation exists. A key without an ID works
// everywhere. Needs CAP_NET_ADMIN.
func (c *Client) DeleteExpectations(ctx context.Context, keys []ExpectationKey, gone func(i int)) (deleted int, err error) {
	for i := range keys {
		if err := keys[i].Tuple.validateWhole(); err != nil {
			return 0, fmt.Errorf("conntrack: delete expectation %d, %v: %w", i, keys[i], err)
		}
	}
	if gone == nil {
		gone = func(int) {}
	}
	var refused refusals
	err = c.with("delete expectation", func(s *conn) error {
		for i := range keys {
			found, err := s.deleteExpectation(ctx, &keys[i])
			switch {
			case isRefusal(err):
				refused.add(err)
			case err != nil:
				return err
			case found:
				deleted++
			default:
				gone(i)
			}
		}
		return nil
	})
	if err == nil {
		err = refused.err()
	}
	return deleted, err
}

// isRefusal tells whether err concerns one expectation alone.
func isRefusal(err error) bool { return isAnswer(err) || errors.Is(err, ErrNotSupported) }

// deleteExpectation deletes the expectation of k. found is false if there was
// none.
func (s *conn) deleteExpectation(ctx context.Context, k *ExpectationKey) (found bool, err error) {
	s.seq++
	out, err := appendDeleteExpectation(s.out[:0], header{msgExpDelete, flagAck, s.seq}, k)
	if err != nil {
		return false, err
	}
	s.out = out
	err = s.roundTrip(ctx, "delete expectation", k.String(), noMessage)
	if !errors.Is(err, os.ErrNotExist) {
		return err == nil, err
	}
	if k.ID == 0 {
		return false, nil
	}
	// A kernel that compares the ID wrongly says the same.
	var e Expectation
	err = s.getExpectation(ctx, k, &e)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, &NotSupportedError{Feature: "delete of an expectation by its ID", Kernel: "6.11"}
}

// appendDeleteExpectation appends the request to delete the expectation of k.
// This is the only place that builds one. The kernel takes a request without a
// tuple for an order to delete all expectations, of a helper or of everything:
// this one always holds a whole tuple, or is an error.
func appendDeleteExpectation(b []byte, h header, k *ExpectationKey) ([]byte, error) {
	if err := k.Tuple.validateWhole(); err != nil {
		return nil, err
	}
	b, start := beginMessage(b, h, k.Tuple.Family(), versionPlain)
	return endMessage(k.append(b), start), nil
}

// FlushExpectations deletes all expectations, of both families: the kernel
// knows no flush of one. No flow is touched. Needs CAP_NET_ADMIN.
func (c *Client) FlushExpectations(ctx context.Context) error {
	return c.with("flush expectations", func(s *conn) error {
		s.request(msgExpDelete, flagAck, FamilyBoth, versionPlain)
		s.seal()
		return s.roundTrip(ctx, "flush expectations", "", noMessage)
	})
}
