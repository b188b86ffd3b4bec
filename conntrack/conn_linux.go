package conntrack

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// recvSize is the size of the receive buffer. The kernel fills at most 32 KiB
// of a dump at a time (netlink_recvmsg), and one buffer for each.
const recvSize = 64 << 10

// conn is one netlink socket. One request is under way at a time.
type conn struct {
	nl  *netlink.Conn
	raw syscall.RawConn
	seq uint32
	out []byte // request under construction
	in  []byte // last datagram

	rcvbuf int         // bytes the kernel may queue for us, by its own account
	closed atomic.Bool // the poller's own error for this has no exported name
}

// dialConn opens a socket in the namespace of fd, the calling thread's if fd is 0.
// rcvbuf is the size asked for the kernel's receive queue, 0 for a large one.
func dialConn(fd, rcvbuf int) (*conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: fd})
	if err != nil {
		return nil, err
	}
	c := &conn{nl: nl, in: make([]byte, recvSize)}
	if err := c.setup(rcvbuf); err != nil {
		return nil, errors.Join(err, nl.Close())
	}
	return c, nil
}

// setup sets the socket's options.
func (c *conn) setup(rcvbuf int) error {
	for _, o := range []netlink.ConnOption{netlink.CapAcknowledge, netlink.ExtendedAcknowledge} {
		if err := c.nl.SetOption(o, true); err != nil {
			return fmt.Errorf("netlink option %d: %w", o, err)
		}
	}
	var err error
	if c.raw, err = c.nl.SyscallConn(); err != nil {
		return err
	}
	if rcvbuf == 0 {
		return c.setRecvBuffer(4<<20, true)
	}
	return c.setRecvBuffer(rcvbuf, false)
}

// setRecvBuffer sets the size of the kernel's receive queue, with force beyond
// the system's limit where that is permitted, and notes what was granted.
func (c *conn) setRecvBuffer(n int, force bool) error {
	opt := unix.SO_RCVBUF
	if force {
		opt = unix.SO_RCVBUFFORCE
	}
	var err error
	cerr := c.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, opt, n)
		if errors.Is(err, unix.EPERM) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, n)
		}
		if err == nil {
			c.rcvbuf, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
		}
	})
	return errors.Join(err, cerr)
}

func (c *conn) close() error {
	c.closed.Store(true)
	return c.nl.Close()
}

// send sends b to the kernel as one datagram.
func (c *conn) send(b []byte) error {
	var err error
	werr := c.raw.Write(func(fd uintptr) bool {
		for {
			err = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
			if !errors.Is(err, unix.EINTR) {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	})
	return c.closedError(errors.Join(werr, err))
}

// receive returns the next datagram of the kernel; it is valid until the next
// call. It does not wait: the kernel answers a request before the send of it
// returns, and goes on with a dump as one receives. If nothing is there,
// nothing will come: errNoAnswer.
func (c *conn) receive(ctx context.Context) ([]byte, error) { return c.receiveWith(ctx, 0) }

// peek returns the datagram that receive would return, without taking it.
func (c *conn) peek(ctx context.Context) ([]byte, error) { return c.receiveWith(ctx, unix.MSG_PEEK) }

// skip takes the datagram that peek returned.
func (c *conn) skip() error {
	_, _, err := c.receiveOnce(0)
	return c.closedError(err)
}

// receiveWith receives with flags. What comes from other processes is not for us.
func (c *conn) receiveWith(ctx context.Context, flags int) ([]byte, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, from, err := c.receiveOnce(flags)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil, errNoAnswer
		case err != nil:
			return nil, c.closedError(err)
		case n > len(c.in):
			return nil, fmt.Errorf("datagram of %d bytes, room for %d", n, len(c.in))
		}
		if sa, ok := from.(*unix.SockaddrNetlink); ok && sa.Pid == 0 {
			return c.in[:n], nil
		}
		if flags&unix.MSG_PEEK == 0 {
			continue
		}
		if err := c.skip(); err != nil {
			return nil, err
		}
	}
}

// receiveOnce reads one datagram into c.in.
func (c *conn) receiveOnce(flags int) (n int, from unix.Sockaddr, err error) {
	rerr := c.raw.Read(func(fd uintptr) bool {
		for {
			n, from, err = unix.Recvfrom(int(fd), c.in, flags|unix.MSG_DONTWAIT|unix.MSG_TRUNC)
			if !errors.Is(err, unix.EINTR) {
				return true
			}
		}
	})
	return n, from, errors.Join(rerr, err)
}

// receiveMany receives as many datagrams as d has room for and are there, at
// least one. Like receive it does not wait.
func (c *conn) receiveMany(d *datagrams) error {
	err := c.raw.Read(d.read)
	if err == nil {
		err = d.err
	}
	if errors.Is(err, unix.EAGAIN) {
		return errNoAnswer
	}
	return c.closedError(err)
}

// closedError turns the error of a socket that was closed under us into ErrClosed.
func (c *conn) closedError(err error) error {
	if err != nil && c.closed.Load() {
		return ErrClosed
	}
	return err
}
