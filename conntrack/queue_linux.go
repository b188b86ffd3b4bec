package conntrack

import (
	"errors"
	"fmt"
	"math"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// queueBatch is how many datagrams are received at once. The kernel sends
	// one for each event; one at a time took half as long again.
	queueBatch = 64

	// queueRoom is the room for a datagram. Events are of some 300 bytes; a
	// security context makes them longer, to 4 KiB and a little.
	queueRoom = 8 << 10
)

// mmsghdr is struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// eventQueue is a socket that receives events, many at a time.
type eventQueue struct {
	*conn
	msgs [queueBatch]mmsghdr
	iovs [queueBatch]unix.Iovec
	from [queueBatch]unix.RawSockaddrNetlink
	room []byte // queueRoom for each

	got, at int // datagrams received, and handed out

	wait bool // fill is to wait
	err  error
	read func(fd uintptr) bool // receive, made once
}

// newEventQueue makes s receive the messages of groups in a receive queue of
// rcvbuf bytes.
func newEventQueue(s *conn, rcvbuf int, groups []uint32) (*eventQueue, error) {
	if rcvbuf > math.MaxInt32 {
		return nil, fmt.Errorf("receive buffer of %d bytes is too large", rcvbuf)
	}
	if err := s.setRecvBuffer(rcvbuf, true); err != nil {
		return nil, fmt.Errorf("set receive buffer of %d bytes: %w", rcvbuf, err)
	}
	if err := s.join(groups); err != nil {
		return nil, fmt.Errorf("join groups %d: %w", groups, err)
	}
	q := &eventQueue{conn: s, room: make([]byte, queueBatch*queueRoom)}
	for i := range q.msgs {
		q.iovs[i].Base = &q.room[i*queueRoom]
		q.iovs[i].SetLen(queueRoom)
		q.msgs[i].hdr.Iov = &q.iovs[i]
		q.msgs[i].hdr.SetIovlen(1)
		q.msgs[i].hdr.Name = (*byte)(unsafe.Pointer(&q.from[i]))
	}
	q.read = q.receiveBatch
	return q, nil
}

// join makes the socket a member of groups, of all at one moment: what happens
// in between would else be heard in part.
func (c *conn) join(groups []uint32) error {
	to := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	for _, g := range groups {
		to.Groups |= 1 << (g - 1)
	}
	var err error
	cerr := c.raw.Control(func(fd uintptr) {
		var sa unix.Sockaddr
		if sa, err = unix.Getsockname(int(fd)); err != nil {
			return
		}
		if own, ok := sa.(*unix.SockaddrNetlink); ok {
			to.Pid = own.Pid
		}
		err = unix.Bind(int(fd), to)
	})
	return errors.Join(err, cerr)
}

// fill receives datagrams for next, at least one. If there are none it waits
// or, if not told to, returns errQueueEmpty. Further errors: errQueueOverrun,
// after which the queue is to be read on; errQueueWoken.
func (q *eventQueue) fill(wait bool) error {
	q.got, q.at, q.wait, q.err = 0, 0, wait, nil
	err := q.raw.Read(q.read)
	if err == nil {
		err = q.err
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EAGAIN):
		return errQueueEmpty
	case errors.Is(err, unix.ENOBUFS):
		return errQueueOverrun
	case errors.Is(err, os.ErrDeadlineExceeded):
		if err := q.nl.SetReadDeadline(time.Time{}); err != nil {
			return q.closedError(err)
		}
		return errQueueWoken
	}
	return q.closedError(err)
}

// receiveBatch receives up to queueBatch datagrams. It returns false if the
// caller is to wait until there are some.
func (q *eventQueue) receiveBatch(fd uintptr) bool {
	for i := range q.msgs {
		q.msgs[i].hdr.Namelen = unix.SizeofSockaddrNetlink
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&q.msgs)), queueBatch,
			unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			q.got, q.err = int(n), nil
			return true
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			q.err = errno
			return !q.wait
		}
		q.err = errno
		return true
	}
}

// next hands out a datagram, nil if fill is to be called. It is valid until
// then.
func (q *eventQueue) next() ([]byte, error) {
	for q.at < q.got {
		i := q.at
		q.at++
		if q.from[i].Pid != 0 {
			continue // some process's, not the kernel's
		}
		m := &q.msgs[i]
		if m.hdr.Flags&unix.MSG_TRUNC != 0 {
			return nil, fmt.Errorf("event of more than %d bytes", queueRoom)
		}
		return q.room[i*queueRoom:][:m.len], nil
	}
	return nil, nil
}

// wake ends the wait of fill, now or the next.
func (q *eventQueue) wake() {
	_ = q.nl.SetReadDeadline(time.Unix(1, 0)) // fails if it is closed, which wakes too
}
