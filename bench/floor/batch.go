//go:build linux

package main

import (
	"errors"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	datagrams = 64      // that are received at once
	perEvent  = 8 << 10 // room for one
	patience  = 100 * time.Millisecond
)

// mmsghdr is struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	_   uint32 // msg_len
}

// batch receives many datagrams at once. They are never read, so all lie in
// the same place.
type batch struct {
	socket int
	msgs   [datagrams]mmsghdr
	iov    unix.Iovec
}

func newBatch(socket int) *batch {
	b := &batch{socket: socket}
	b.iov.Base = &make([]byte, perEvent)[0]
	b.iov.SetLen(perEvent)
	for i := range b.msgs {
		b.msgs[i].hdr.Iov = &b.iov
		b.msgs[i].hdr.SetIovlen(1)
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
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(b.socket), uintptr(unsafe.Pointer(&b.msgs)), datagrams, unix.MSG_DONTWAIT, 0, 0)
	switch errno {
	case 0:
		return int(n), nil
	case unix.EAGAIN, unix.EINTR, unix.ENOBUFS:
		return 0, nil
	}
	return 0, errno
}
