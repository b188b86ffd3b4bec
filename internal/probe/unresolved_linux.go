package probe

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"flowcut/internal/netns"
	"flowcut/internal/rtnl"
)

// Unresolved tells of which addresses the next hop's link-layer address is still
// being asked for, so that what is sent to them waits: for up to a second, or more,
// after a takeover, since IPv6 does not ask before the device's own link-local
// address is known to be unique (ndisc_send_ns). What cannot be found out is taken for
// no.
func Unresolved(netNS int, at []netip.Addr) (out map[netip.Addr]bool, err error) {
	var conn *rtnl.Conn
	err = netns.DoFd(netNS, func() (err error) {
		conn, err = rtnl.Dial(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // nothing was written to it
	k, list := kernel{conn}, make([]query, len(at))
	for i, a := range at {
		list[i].dst = a
	}
	ways := make([]route, len(at))
	err = k.routes(list, func(i int, rt route, err error) {
		if err == nil && !rt.local {
			ways[i] = rt
		}
	})
	if err != nil {
		return nil, err
	}
	out = map[netip.Addr]bool{}
	for i, rt := range ways {
		if rt.dev == 0 {
			continue
		}
		if n, err := k.neighbour(rt.dev, rt.hop); err == nil && n.state&unix.NUD_INCOMPLETE != 0 {
			out[at[i]] = true
		}
	}
	return out, nil
}
