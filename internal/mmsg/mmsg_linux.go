// Package mmsg sends and receives many datagrams with one system call.
package mmsg

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Message is struct mmsghdr. Go pads it as C does, on 32 and 64 bits.
type Message struct {
	Header unix.Msghdr
	Len    uint32 // bytes that were sent or received
}

// Send sends messages and returns how many went: those before the first that
// cannot be sent, whose error is returned when it is the first of all.
func Send(fd int, msgs []Message) (int, error) {
	return call(unix.SYS_SENDMMSG, fd, msgs, 0)
}

// Receive receives messages that are there, at least one, with the flags of
// recvmmsg(2), and returns how many. With MSG_DONTWAIT and none it is EAGAIN.
func Receive(fd int, msgs []Message, flags int) (int, error) {
	return call(unix.SYS_RECVMMSG, fd, msgs, flags)
}

func call(number uintptr, fd int, msgs []Message, flags int) (int, error) {
	n, _, errno := unix.Syscall6(number, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), uintptr(flags), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
