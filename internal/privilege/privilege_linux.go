// Package privilege gives up the rights that the program has and does not need.
package privilege

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kept are the capabilities that the program has a use for. Without those after
// the first two it does less, or takes longer, and says so.
const kept = 1<<unix.CAP_NET_ADMIN | // conntrack, nf_tables, routes
	1<<unix.CAP_NET_RAW | // probes to the ends
	1<<unix.CAP_SYS_ADMIN | // other network namespaces, and trying kernel filters in one; names of BPF programs
	1<<unix.CAP_SYS_PTRACE | // sockets and environments of ancestors under other users
	1<<unix.CAP_DAC_READ_SEARCH | // the same, files of others that hold lists, the file of queues
	1<<unix.CAP_SYS_NICE // priority until the fence is up

// Drop gives up, for all threads and for good, all capabilities but those that
// the program has a use for, and the way to gain any by running another
// program. It takes none on. What the process can still do it may hand on: an
// ambient capability that is kept stays ambient.
//
// An error is the kernel's refusal, as a filter of system calls may make it, or
// that the program was built with cgo, whose threads the runtime does not know:
// then some or all are held as before.
//
// libcap's package for this needs no such thing, but ends a program that was
// built with cgo where there is no /proc.
func Drop() error { return keep(kept) }

// DropToWatch is Drop for a program that only looks at the table from here on, in
// another network namespace than its own if elsewhere: nothing is left of what a cut
// needs.
func DropToWatch(elsewhere bool) error {
	few := uint32(1 << unix.CAP_NET_ADMIN)
	if elsewhere {
		few |= 1 << unix.CAP_SYS_ADMIN
	}
	return keep(few)
}

// keep gives up all capabilities but those of a set.
func keep(set uint32) error {
	// Running a program as root would bring back what the bounding set allows,
	// running a set-user-ID one its owner's rights. Not after this.
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("privilege: set no_new_privs: %w", explain(errno))
	}
	head := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // of the calling thread
	data := new([2]unix.CapUserData)                                      // the lower and the upper 32 capabilities
	if err := unix.Capget(head, &data[0]); err != nil {
		return fmt.Errorf("privilege: read the capabilities: %w", err)
	}
	data[0].Permitted &= set
	data[0].Effective &= set
	data[0].Inheritable &= set
	data[1] = unix.CapUserData{}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(head)), uintptr(unsafe.Pointer(data)), 0); errno != 0 {
		return fmt.Errorf("privilege: set the capabilities to %#x: %w", data[0].Permitted, explain(errno))
	}
	return nil
}

func explain(errno syscall.Errno) error {
	if errno == unix.ENOTSUP {
		return fmt.Errorf("%w: build it with CGO_ENABLED=0", errno)
	}
	return errno
}
