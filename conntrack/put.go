package conntrack

import (
	"context"
	"fmt"
	"net/netip"
)

// Translation is what a flow that is made is to be translated to: the
// destination, the source, or both. A zero address leaves that end as it is; a
// zero port leaves the port to the kernel, which keeps it if it can.
type Translation struct {
	Dst, Src         netip.Addr
	DstPort, SrcPort uint16
}

// Put sends the kernel an entry exactly as f has it, where [Client.Create]
// fills in what is missing and leaves out what cannot be: tuples, zones,
// timeout, status, mark, labels, protocol state and the like go out if f.Has
// says so. Of the reply tuple the kernel makes what t asks for.
//
// With exclusive an entry that has one of the tuples is an error, os.ErrExist;
// without it, that entry is changed. Both tuples need addresses.
// Needs CAP_NET_ADMIN.
func (c *Client) Put(ctx context.Context, f *Flow, t Translation, exclusive bool) error {
	flags := flagCreate | flagAck
	if exclusive {
		flags |= flagExcl
	}
	return c.with("create", func(s *conn) error {
		s.seq++
		out, err := appendPut(s.out[:0], header{msgNew, flags, s.seq}, f, t)
		if err != nil {
			return fmt.Errorf("%v: %w", f.Orig, err)
		}
		s.out = out
		return s.roundTrip(ctx, "create", ofTuple(f.Orig, f.Key().Zone), noMessage)
	})
}

// appendPut appends the request of Put.
func appendPut(b []byte, h header, f *Flow, t Translation) ([]byte, error) {
	if err := f.validateText(); err != nil {
		return nil, err
	}
	b, start := beginMessage(b, h, f.Orig.Family(), versionPlain)
	b, err := f.appendTuples(b)
	if err != nil {
		return nil, err
	}
	if f.Has&AttrTimeout != 0 {
		if b, err = f.appendTimeout(b); err != nil {
			return nil, err
		}
	}
	if f.Has&AttrStatus != 0 {
		b = appendUint32(b, attrStatus, uint32(f.Status|StatusConfirmed))
	}
	if t.Dst.IsValid() {
		b = appendNAT(b, attrNATDst, t.Dst, t.DstPort != 0, t.DstPort)
	}
	if t.Src.IsValid() {
		b = appendNAT(b, attrNATSrc, t.Src, t.SrcPort != 0, t.SrcPort)
	}
	return endMessage(f.appendState(b), start), nil
}
