package conntrack

import (
	"errors"
	"fmt"
	"math"
	"os"
	"time"

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

// eventQueue is a socket that receives events, many at a time.
type eventQueue struct {
	*conn
	*datagrams

	wait     bool                  // fill is to wait
	waitRead func(fd uintptr) bool // receiveBatch, made once
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
	q := &eventQueue{conn: s, datagrams: newDatagrams(queueBatch, queueRoom)}
	q.waitRead = q.receiveBatch
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
	q.wait = wait
	err := q.raw.Read(q.waitRead)
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
	q.err = q.datagrams.receive(fd)
	return !q.wait || !errors.Is(q.err, unix.EAGAIN)
}

// wake ends the wait of fill, now or the next.
func (q *eventQueue) wake() {
	_ = q.nl.SetReadDeadline(time.Unix(1, 0)) // fails if it is closed, which wakes too
}
