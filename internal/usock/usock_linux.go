// Package usock listens on Unix sockets in the file system.
package usock

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Listen listens for streams. The socket has the mode from the beginning, and is
// removed when the listener is closed. One that nobody listens to any more is
// replaced; where somebody does, the error wraps unix.EADDRINUSE. Needs permission to
// read the directory.
func Listen(path string, mode os.FileMode) (*net.UnixListener, error) {
	return bind("unix", path, mode, func(a *net.UnixAddr) (*net.UnixListener, error) { return net.ListenUnix("unix", a) })
}

// ListenGram is Listen for datagrams. The caller removes the socket.
func ListenGram(path string, mode os.FileMode) (*net.UnixConn, error) {
	return bind("unixgram", path, mode, func(a *net.UnixAddr) (*net.UnixConn, error) { return net.ListenUnixgram("unixgram", a) })
}

// umask is of the process: one at a time changes it.
var umask sync.Mutex

func bind[T any](network, path string, mode os.FileMode, listen func(*net.UnixAddr) (T, error)) (l T, err error) {
	dir, err := lock(filepath.Dir(path))
	if err != nil {
		return l, err
	}
	defer func() { _ = dir.Close() }() // nothing was written to it
	if err := removeStale(network, path); err != nil {
		return l, err
	}
	umask.Lock()
	defer umask.Unlock()
	before := unix.Umask(int(0o777 &^ mode))
	defer unix.Umask(before)
	return listen(&net.UnixAddr{Name: path, Net: network})
}

// lock keeps others from binding in a directory until it is closed: one that had found
// the same stale socket would remove ours. Whoever reads the directory can keep it
// locked, so it is not waited for long.
func lock(dir string) (*os.File, error) {
	const patience, pause = 2 * time.Second, 10 * time.Millisecond
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(patience); ; time.Sleep(pause) { // time itself is meant
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end):
			return nil, errors.Join(fmt.Errorf("lock the directory %s: %w", dir, err), f.Close())
		}
	}
}

// removeStale removes a socket that nobody listens to.
func removeStale(network, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode()&os.ModeSocket == 0:
		return fmt.Errorf("%s is there and is no socket", path)
	}
	c, err := net.Dial(network, path)
	switch {
	case err == nil:
		_ = c.Close()
		return fmt.Errorf("%s: %w", path, unix.EADDRINUSE)
	case errors.Is(err, unix.ECONNREFUSED):
		return os.Remove(path)
	}
	return err
}
