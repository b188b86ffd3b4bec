package receipts

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"flowcut/internal/netns"
	"flowcut/internal/usock"
)

// Listener takes receipts of cuts in one network namespace.
type Listener struct {
	c    *net.UnixConn
	path string
	made string // the directory, if it was made for this
	once sync.Once
}

// Listen begins to take receipts of cuts in a network namespace, 0 for the calling
// thread's. It makes Dir, for its own user alone, if it is not there. A socket that
// nobody listens to any more is replaced.
//
// Errors: wraps unix.EADDRINUSE if somebody listens already.
func Listen(fd int) (*Listener, error) { return listen(Dir, fd) }

func listen(dir string, fd int) (*Listener, error) {
	inode, err := netns.Inode(fd)
	if err != nil {
		return nil, err
	}
	l := &Listener{path: path(dir, inode)}
	for range 10 { // another process may end and remove the directory at any time
		if err = l.bind(dir); !errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("receipts: %w", err)
	}
	if err := l.passCredentials(); err != nil {
		return nil, errors.Join(fmt.Errorf("receipts: %s: %w", l.path, err), l.Close())
	}
	return l, nil
}

// bind makes the socket, and its directory if it is not there.
func (l *Listener) bind(dir string) error {
	switch err := os.Mkdir(dir, 0o700); {
	case err == nil:
		l.made = dir
	case !errors.Is(err, os.ErrExist):
		return err
	}
	// The directory says who comes this far. Root without CAP_DAC_OVERRIDE, as flowcut
	// runs, needs the permission to write all the same.
	var err error
	l.c, err = usock.ListenGram(l.path, 0o666)
	return err
}

// passCredentials asks the kernel to say who has sent a datagram.
func (l *Listener) passCredentials() error {
	raw, err := l.c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	return errors.Join(err, set)
}

// ErrRefused is wrapped by errors about a datagram that is no receipt or comes from
// somebody who is neither root nor our own user. The next may be better.
var ErrRefused = errors.New("refused")

// Next waits for a receipt. Its texts are what others wrote. After Close the error
// is net.ErrClosed; others that do not wrap ErrRefused end the Listener.
func (l *Listener) Next() (*Note, error) {
	b := make([]byte, 2*most)
	control := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	n, oob, flags, _, err := l.c.ReadMsgUnix(b, control)
	if err != nil {
		return nil, err
	}
	uid, err := sender(control[:oob])
	switch {
	case err != nil:
		return nil, fmt.Errorf("receipts: %w: %w", ErrRefused, err)
	case uid != 0 && int(uid) != os.Geteuid():
		return nil, fmt.Errorf("receipts: %w: from user %d", ErrRefused, uid)
	case flags&unix.MSG_TRUNC != 0:
		return nil, fmt.Errorf("receipts: %w: longer than %d bytes", ErrRefused, len(b))
	}
	note, err := decode(b[:n])
	if err != nil {
		return nil, fmt.Errorf("receipts: %w: %w", ErrRefused, err)
	}
	return note, nil
}

// sender returns the user that the kernel names as the sender.
func sender(control []byte) (uid uint32, err error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0, err
	}
	for i := range messages {
		if c, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			return c.Uid, nil
		}
	}
	return 0, errors.New("the kernel does not say from whom")
}

// Close removes the socket, and the directory if it was made for that and is empty;
// Next ends.
func (l *Listener) Close() (err error) {
	l.once.Do(func() { // another process may have made its own by a second time
		if err = os.Remove(l.path); errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		err = errors.Join(err, l.c.Close()) // until now nobody else could have the path
		if l.made != "" {
			_ = os.Remove(l.made) // others' sockets keep it
		}
	})
	return err
}
