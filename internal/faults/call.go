//go:build linux && amd64

package faults

import (
	"bytes"
	"strings"

	"golang.org/x/sys/unix"
)

// form says how a system call moves bytes, which decides what can go wrong.
type form uint8

const (
	plain    form = iota // none, or not as a message
	sendto               // args: descriptor, buffer, length
	sendmsg              // args: descriptor, struct msghdr
	sendmmsg             // args: descriptor, array of struct mmsghdr, how many
	recvfrom             // as sendto
	recvmsg              // as sendmsg
	recvmmsg             // as sendmmsg
	read                 // as sendto
	closing              // the descriptor is gone whatever is returned
	waiting              // for what may happen; the runtime's own
)

// known is a system call that faults are injected into.
type known struct {
	name string
	form form
	what object
}

// object says what a call is about.
type object uint8

const (
	always     object = iota
	descriptor        // the first argument, which must be one of those that matter
	copied            // the same, where the call copies it
	watched           // the third one, which must be a socket
	path              // the second argument
)

var calls = map[uint64]known{
	unix.SYS_SOCKET:      {"socket", plain, always},
	unix.SYS_BIND:        {"bind", plain, descriptor},
	unix.SYS_CONNECT:     {"connect", plain, descriptor},
	unix.SYS_GETSOCKNAME: {"getsockname", plain, descriptor},
	unix.SYS_SETSOCKOPT:  {"setsockopt", plain, descriptor},
	unix.SYS_GETSOCKOPT:  {"getsockopt", plain, descriptor},
	unix.SYS_FCNTL:       {"fcntl", plain, copied},
	unix.SYS_IOCTL:       {"ioctl", plain, descriptor},
	unix.SYS_FSTAT:       {"fstat", plain, descriptor},
	unix.SYS_SENDTO:      {"sendto", sendto, descriptor},
	unix.SYS_WRITE:       {"write", sendto, descriptor},
	unix.SYS_SENDMSG:     {"sendmsg", sendmsg, descriptor},
	unix.SYS_SENDMMSG:    {"sendmmsg", sendmmsg, descriptor},
	unix.SYS_RECVFROM:    {"recvfrom", recvfrom, descriptor},
	unix.SYS_RECVMSG:     {"recvmsg", recvmsg, descriptor},
	unix.SYS_RECVMMSG:    {"recvmmsg", recvmmsg, descriptor},
	unix.SYS_READ:        {"read", read, descriptor},
	unix.SYS_PREAD64:     {"pread", read, descriptor},
	unix.SYS_CLOSE:       {"close", closing, descriptor},
	unix.SYS_EPOLL_CTL:   {"epoll_ctl", plain, watched},
	unix.SYS_POLL:        {"poll", waiting, always},
	unix.SYS_PPOLL:       {"ppoll", waiting, always},
	unix.SYS_EPOLL_PWAIT: {"epoll_pwait", waiting, always},
	unix.SYS_OPENAT:      {"openat", plain, path},
	unix.SYS_NEWFSTATAT:  {"newfstatat", plain, path},
	unix.SYS_SETNS:       {"setns", plain, always},
	unix.SYS_UNSHARE:     {"unshare", plain, always},
	unix.SYS_MEMBARRIER:  {"membarrier", plain, always},
}

// outsideStack names the site of calls that the runtime makes for itself on
// our behalf: the wait for sockets.
const outsideStack = "runtime.netpoll"

// opens tells whether a file that is opened or looked at is about namespaces,
// sockets or packets.
func opens(name string) bool {
	return strings.HasPrefix(name, "/proc/") || strings.HasPrefix(name, "/run/netns/") || strings.HasPrefix(name, "/var/run/netns/")
}

// beside are sites that are not on the path of a cut: priorities of threads.
const beside = "cli.hurry/"

// text reads a string that ends with a zero.
func text(pid int, at uint64) string {
	b := make([]byte, 256)
	b = b[:readMemory(pid, at, b)]
	if end := bytes.IndexByte(b, 0); end >= 0 {
		return string(b[:end])
	}
	return ""
}
