package cut

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/netns"
)

// serving says whether somebody accepts connections at an address and port.
type serving uint8

const (
	unknown serving = iota // no answer, or no way to ask
	serves
	refuses
)

const (
	askAtOnce = 256                    // sockets
	askFor    = 300 * time.Millisecond // until silence is taken for none
	askLong   = 400 * time.Millisecond // in a whole cut: others can make questions without end
)

// askServing asks who accepts connections, by half a handshake: what accepts is
// reset before the handshake is complete, so that no program hears of it. It
// begins to ask until a moment. began, unless nil, is told of each handshake, as
// the asking host sends it.
func askServing(ctx context.Context, netNS int, at []netip.AddrPort, until time.Time, began func(conntrack.Tuple)) (map[netip.AddrPort]serving, error) {
	out := map[netip.AddrPort]serving{}
	for len(at) > 0 && ctx.Err() == nil && time.Now().Before(until) {
		n := min(len(at), askAtOnce)
		var fds []unix.PollFd
		var of []netip.AddrPort
		err := netns.DoFd(netNS, func() error {
			for _, a := range at[:n] {
				switch fd, err := halfConnect(a); {
				case err == nil:
					if from, err := localOf(fd); err == nil && began != nil {
						began(conntrack.Tuple{Proto: conntrack.ProtoTCP, Src: from.Addr(), SrcPort: from.Port(), Dst: a.Addr(), DstPort: a.Port()})
					}
					fds, of = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT}), append(of, a)
				case errors.Is(err, unix.ECONNREFUSED):
					out[a] = refuses
				}
			}
			return nil
		})
		err = errors.Join(err, hearAll(ctx, fds, func(i int, s serving) { out[of[i]] = s }))
		for _, p := range fds {
			if p.Fd >= 0 {
				err = errors.Join(err, unix.Close(int(p.Fd)))
			}
		}
		if err != nil {
			return nil, err
		}
		at = at[n:]
	}
	return out, ctx.Err()
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

// hearAll waits for the answers to handshakes that have begun. It closes the
// sockets that have got one at once, since their last ACK waits for 200 ms only
// (TCP_DELACK_MAX), and leaves -1 in their place.
func hearAll(ctx context.Context, fds []unix.PollFd, say func(i int, s serving)) error {
	const turn = 20 * time.Millisecond // to notice that ctx has ended
	left := len(fds)
	until := time.Now().Add(askFor)
	for left > 0 && ctx.Err() == nil && time.Now().Before(until) {
		n, err := unix.Poll(fds, int(turn/time.Millisecond))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for i := range fds {
			if n <= 0 || fds[i].Revents == 0 {
				continue
			}
			fd := int(fds[i].Fd)
			fds[i].Fd, fds[i].Revents = -1, 0 // poll passes it by
			left--
			errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
			if err := errors.Join(err, unix.Close(fd)); err != nil {
				return err
			}
			switch unix.Errno(errno) {
			case 0:
				say(i, serves)
			case unix.ECONNREFUSED:
				say(i, refuses)
			}
		}
	}
	return nil
}
