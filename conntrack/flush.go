package conntrack

import (
	"context"
	"fmt"
)

// Flush deletes every entry of family f, of both with [FamilyBoth].
//
// A flush of one family is refused with a [NotSupportedError] where the kernel
// was not seen to spare the other: that takes a scratch network namespace, so
// CAP_SYS_ADMIN, once per process. Needs CAP_NET_ADMIN.
func (c *Client) Flush(ctx context.Context, f Family) error {
	switch f {
	case FamilyBoth:
	case FamilyIPv4, FamilyIPv6:
		ok, err := probeFlushOnce()
		if err != nil {
			return fmt.Errorf("conntrack: flush %v: probe the kernel: %w", f, err)
		}
		if !ok {
			return &NotSupportedError{Feature: "flush of one family", Kernel: "5.3"}
		}
	default:
		return fmt.Errorf("conntrack: flush: no such family: %v", f)
	}
	return c.with("flush", func(s *conn) error { return s.flush(ctx, f) })
}

// flush sends the request that empties the table. This is the only place that
// builds one.
func (s *conn) flush(ctx context.Context, f Family) error {
	s.request(msgDelete, flagAck, f, versionFamily)
	s.seal()
	return s.roundTrip(ctx, "flush", f.String(), noMessage)
}
