package conntrack

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// threadNS names the network namespace of the calling thread.
const threadNS = "/proc/thread-self/ns/net"

// netNS is a handle of one network namespace, which it keeps alive.
type netNS struct {
	f        *os.File // nil where no /proc tells: whichever the calling thread is in
	dev, ino uint64
}

// openNetNS duplicates fd, or opens the calling thread's namespace if fd is 0.
func openNetNS(fd int) (*netNS, error) {
	n := new(netNS)
	if fd == 0 {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		f, err := os.Open(threadNS)
		if errors.Is(err, os.ErrNotExist) {
			return n, nil
		}
		if err != nil {
			return nil, err
		}
		n.f = f
	} else {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return nil, fmt.Errorf("duplicate namespace descriptor %d: %w", fd, err)
		}
		n.f = os.NewFile(uintptr(dup), "netns")
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(n.f.Fd()), &st); err != nil {
		return nil, errors.Join(err, n.f.Close())
	}
	// On MIPS the device has 32 bits.
	n.dev, n.ino = uint64(st.Dev), st.Ino
	return n, nil
}

func (n *netNS) close() error {
	if n.f == nil {
		return nil
	}
	return n.f.Close()
}

// dial opens a socket in the namespace. Only where the calling thread is in
// another one does it need the right to change (CAP_SYS_ADMIN).
func (n *netNS) dial(rcvbuf int) (*conn, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if n.isCurrent() {
		return dialConn(0, rcvbuf)
	}
	return dialConn(int(n.f.Fd()), rcvbuf)
}

// isCurrent tells whether the calling thread is in the namespace.
func (n *netNS) isCurrent() bool {
	if n.f == nil {
		return true
	}
	var st unix.Stat_t
	return unix.Stat(threadNS, &st) == nil && uint64(st.Dev) == n.dev && st.Ino == n.ino
}

// dialScratch opens a socket in a new network namespace, which lives as long
// as the socket. Needs CAP_SYS_ADMIN.
func dialScratch() (*conn, error) {
	runtime.LockOSThread()
	old, err := os.Open(threadNS)
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer old.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	c, err := dialConn(0, 0)
	if serr := unix.Setns(int(old.Fd()), unix.CLONE_NEWNET); serr != nil {
		// This thread cannot be given back to others as it is: it stays locked.
		return nil, errors.Join(fmt.Errorf("return to the network namespace: %w", serr), err)
	}
	runtime.UnlockOSThread()
	return c, err
}

// kernelRelease returns the release of the kernel, such as "6.18.2", "" if it
// does not tell.
func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
