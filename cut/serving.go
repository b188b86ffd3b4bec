package cut

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/netns"
	"flowcut/internal/probe"
)

// serving says whether somebody accepts connections at an address and port.
type serving uint8

const (
	unknown serving = iota // no answer, or no way to ask
	serves
	refuses
)

const (
	askAtOnce = 256                     // sockets
	askFor    = 300 * time.Millisecond  // until silence is taken for none
	askLong   = 400 * time.Millisecond  // in a whole cut: others can make questions without end
	askSlow   = 1500 * time.Millisecond // where the question cannot leave yet, besides
)

// asking is half a handshake under way with each of some addresses.
type asking struct {
	fds []unix.PollFd // -1 where there is an answer
	at  []netip.AddrPort
	out map[netip.AddrPort]serving
}

// askServing asks who accepts connections, by half a handshake: what accepts is
// reset before the handshake is complete, so that no program hears of it. It
// begins to ask until a moment. began, unless nil, is told of each handshake, as
// the asking host sends it. Where the question waits for a neighbour's address it
// is waited for until late.
func askServing(ctx context.Context, netNS int, at []netip.AddrPort, until, late time.Time, began func(conntrack.Tuple)) (map[netip.AddrPort]serving, error) {
	out := map[netip.AddrPort]serving{}
	for len(at) > 0 && ctx.Err() == nil && time.Now().Before(until) {
		n := min(len(at), askAtOnce)
		a := &asking{out: out}
		err := netns.DoFd(netNS, func() error {
			a.begin(at[:n], began)
			return nil
		})
		err = errors.Join(err, a.hear(ctx, time.Now().Add(askFor)))
		if err == nil {
			err = a.hearSlow(ctx, netNS, late)
		}
		if err = errors.Join(err, a.close()); err != nil {
			return nil, err
		}
		at = at[n:]
	}
	return out, ctx.Err()
}

// begin sends the first half to all.
func (a *asking) begin(at []netip.AddrPort, began func(conntrack.Tuple)) {
	for _, to := range at {
		switch fd, err := halfConnect(to); {
		case err == nil:
			if from, err := localOf(fd); err == nil && began != nil {
				began(conntrack.Tuple{Proto: conntrack.ProtoTCP, Src: from.Addr(), SrcPort: from.Port(), Dst: to.Addr(), DstPort: to.Port()})
			}
			a.fds, a.at = append(a.fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT}), append(a.at, to)
		case errors.Is(err, unix.ECONNREFUSED):
			a.out[to] = refuses
		}
	}
}

// hearSlow waits on for those whom the question has not reached yet.
func (a *asking) hearSlow(ctx context.Context, netNS int, late time.Time) error {
	var silent []netip.Addr
	for i, p := range a.fds {
		if p.Fd >= 0 {
			silent = append(silent, a.at[i].Addr())
		}
	}
	if len(silent) == 0 || !time.Now().Before(late) {
		return nil
	}
	waiting, err := probe.Unresolved(netNS, silent)
	if err != nil || len(waiting) == 0 {
		return nil // silence is an answer, too
	}
	slow := &asking{out: a.out}
	for i, p := range a.fds {
		if p.Fd >= 0 && waiting[a.at[i].Addr()] {
			slow.fds, slow.at = append(slow.fds, p), append(slow.at, a.at[i])
			a.fds[i].Fd = -1
		}
	}
	return errors.Join(slow.hear(ctx, late), slow.close())
}

// close closes what has got no answer.
func (a *asking) close() (err error) {
	for i, p := range a.fds {
		if p.Fd >= 0 {
			err = errors.Join(err, unix.Close(int(p.Fd)))
			a.fds[i].Fd = -1
		}
	}
	return err
}

// halfConnect begins a handshake, and returns the socket that closes with a reset.
func halfConnect(to netip.AddrPort) (fd int, err error) {
	family, addr := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	if to.Addr().Is4() {
		family, addr = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = errors.Join(
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1)) // who connects keeps the last ACK back
	if err == nil {
		err = unix.Connect(fd, addr)
	}
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// localOf returns the address that a socket is bound to.
func localOf(fd int) (netip.AddrPort, error) {
	name, err := unix.Getsockname(fd)
	switch a := name.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), err
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)), err
	}
	return netip.AddrPort{}, errors.Join(err, unix.EAFNOSUPPORT)
}

// hear waits for the answers until a moment. It closes the sockets that have got
// one at once, since their last ACK waits for 200 ms only (TCP_DELACK_MAX).
func (a *asking) hear(ctx context.Context, until time.Time) error {
	const turn = 20 * time.Millisecond // to notice that ctx has ended
	left := len(a.fds)
	for left > 0 && ctx.Err() == nil && time.Now().Before(until) {
		n, err := unix.Poll(a.fds, int(turn/time.Millisecond))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for i := range a.fds {
			if n <= 0 || a.fds[i].Revents == 0 {
				continue
			}
			fd := int(a.fds[i].Fd)
			a.fds[i].Fd, a.fds[i].Revents = -1, 0 // poll passes it by
			left--
			errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
			if err := errors.Join(err, unix.Close(fd)); err != nil {
				return err
			}
			switch unix.Errno(errno) {
			case 0:
				a.out[a.at[i]] = serves
			case unix.ECONNREFUSED:
				a.out[a.at[i]] = refuses
			}
		}
	}
	return nil
}
