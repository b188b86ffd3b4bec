//go:build linux

package main

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/mmsg"
)

const (
	datagrams = 64      // that are received at once
	perEvent  = 8 << 10 // room for one
	patience  = 100 * time.Millisecond
)

// batch receives many datagrams at once. They are never read, so all lie in
// the same place.
type batch struct {
	socket int
	msgs   [datagrams]mmsg.Message
	iov    unix.Iovec
}

func newBatch(socket int) *batch {
	b := &batch{socket: socket}
	b.iov.Base = &make([]byte, perEvent)[0]
	b.iov.SetLen(perEvent)
	for i := range b.msgs {
		b.msgs[i].Header.Iov = &b.iov
		b.msgs[i].Header.SetIovlen(1)
	}
	return b
}

// receive waits for datagrams, not for long, and counts those that came. What
// did not fit into the queue is lost.
func (b *batch) receive() (int, error) {
	poll := []unix.PollFd{{Fd: int32(b.socket), Events: unix.POLLIN}}
	if _, err := unix.Poll(poll, int(patience.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
		return 0, err
	}
	n, err := mmsg.Receive(b.socket, b.msgs[:], unix.MSG_DONTWAIT)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS) {
		return 0, nil
	}
	return n, err
}
