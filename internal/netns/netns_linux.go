package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// NS is an open network namespace.
//
// A nil *NS stands for the namespace the calling thread is in. All methods
// may be called at once, except Close.
type NS struct {
	file *os.File
	name string
}

// Open opens the namespace called which: digits are a process ID, an absolute
// path is the file itself, anything else is a name below [Dir].
//
// Errors: wraps [os.ErrNotExist] when there is no such namespace, and says so
// when the file is not a network namespace. The caller must Close the result.
func Open(which string) (*NS, error) {
	p, err := path(which)
	if err != nil {
		return nil, err
	}
	return open(p, which)
}

// open opens the namespace file p; which is its name in errors.
//
// The file is opened by the raw call: os.Open puts what it can into the
// runtime's poller, and a namespace is no stream.
func open(p, which string) (*NS, error) {
	fd, err := unix.Open(p, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("netns: open %s: %w", which, &os.PathError{Op: "open", Path: p, Err: err})
	}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("netns: open %s: %s is not a network namespace", which, p)
	}
	return &NS{file: os.NewFile(uintptr(fd), p), name: which}, nil
}

// New makes a network namespace that has no name and ends when it is closed
// and nothing inside it is left. Its loopback device is down.
//
// Needs CAP_SYS_ADMIN. The caller must Close the result.
func New() (*NS, error) {
	var ns *NS
	err := away(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("netns: new: %w", err)
		}
		var err error
		ns, err = open("/proc/thread-self/ns/net", "new")
		return err
	})
	if err != nil {
		_ = ns.Close()
		return nil, err
	}
	return ns, nil
}

// Fd returns the descriptor of the namespace, valid until Close; -1 for nil.
func (ns *NS) Fd() int {
	if ns == nil {
		return -1
	}
	return int(ns.file.Fd())
}

// String returns the name the namespace was opened by; "" for nil.
func (ns *NS) String() string {
	if ns == nil {
		return ""
	}
	return ns.name
}

// Close releases the namespace; sockets opened in it live on.
func (ns *NS) Close() error {
	if ns == nil {
		return nil
	}
	return ns.file.Close()
}

// Do runs f inside the namespace and returns its error. Sockets that f opens,
// and what it reads below /proc/sys/net and /proc/thread-self/net, belong to
// the namespace.
//
// f runs on a thread of its own while the caller waits: goroutines that it
// starts are outside, and it must not end by [runtime.Goexit], as a test's
// FailNow does. A nil *NS calls f where the caller is.
//
// Needs CAP_SYS_ADMIN.
func (ns *NS) Do(f func() error) error {
	if ns == nil {
		return f()
	}
	return away(func() error {
		if err := unix.Setns(ns.Fd(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("netns: enter %s: %w", ns.name, err)
		}
		runtime.KeepAlive(ns.file)
		return f()
	})
}

// DoFd is [NS.Do] for the descriptor of a namespace; 0 is the caller's own.
func DoFd(fd int, f func() error) error {
	if fd == 0 {
		return f()
	}
	return away(func() error {
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("netns: enter the namespace of descriptor %d: %w", fd, err)
		}
		return f()
	})
}

// away runs f, which may change the thread's network namespace, on a thread
// that nobody else uses meanwhile, and takes the thread home afterwards.
//
// A thread that cannot be taken home stays locked, so that the runtime
// destroys it together with its goroutine.
func away(f func() error) error {
	result := errors.New("netns: the function ended its goroutine")
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			result = fmt.Errorf("netns: open the thread's own namespace: %w", err)
			return
		}
		defer func() {
			if unix.Setns(home, unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
			_ = unix.Close(home)
		}()
		result = f()
	}()
	<-done
	return result
}

// Inode returns the number that the kernel tells network namespaces apart by; fd 0 is
// the calling thread's.
func Inode(fd int) (uint64, error) {
	var st unix.Stat_t
	var err error
	if fd == 0 {
		err = unix.Stat("/proc/thread-self/ns/net", &st)
	} else {
		err = unix.Fstat(fd, &st)
	}
	if err != nil {
		return 0, fmt.Errorf("netns: number of the namespace: %w", err)
	}
	return st.Ino, nil
}
