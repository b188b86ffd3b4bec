//go:build linux

package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"flowcut/internal/netns"

	"golang.org/x/sys/unix"
)

// prefix begins the name of every namespace that a lab makes; the process ID
// of the maker follows.
const prefix = "fclab-"

// bind makes a namespace and binds it to a name, as ip-netns(8) does.
func bind(name string) (_ *netns.NS, err error) {
	if err := prepare(); err != nil {
		return nil, err
	}
	ns, err := netns.New()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(netns.Dir, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	_ = f.Close()
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", ns.Fd()), path, "", unix.MS_BIND, ""); err != nil {
		err = &os.PathError{Op: "bind a namespace to", Path: path, Err: err}
		return nil, errors.Join(err, os.Remove(path), ns.Close())
	}
	return ns, nil
}

// unbind takes a namespace's name away; no name is no error.
func unbind(name string) error {
	path := filepath.Join(netns.Dir, name)
	for unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
		continue // until nothing is mounted there any more
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// prepare makes the directory of names a shared mount of its own, so that a
// name that is taken away here is gone everywhere. It stays afterwards, as
// it does after ip-netns(8).
func prepare() error {
	if err := os.MkdirAll(netns.Dir, 0o755); err != nil {
		return err
	}
	dir, err := os.Open(netns.Dir)
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // opened for the lock alone
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return &os.PathError{Op: "lock", Path: netns.Dir, Err: err}
	}
	err = unix.Mount("", netns.Dir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // not a mount yet
		err = unix.Mount(netns.Dir, netns.Dir, "none", unix.MS_BIND|unix.MS_REC, "")
		if err == nil {
			err = unix.Mount("", netns.Dir, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	if err != nil {
		return &os.PathError{Op: "share the mount", Path: netns.Dir, Err: err}
	}
	return nil
}

// Sweep removes what labs of processes that are gone have left behind.
func Sweep() error {
	names, err := filepath.Glob(filepath.Join(netns.Dir, prefix+"*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range names {
		name := filepath.Base(path)
		digits, _, _ := strings.Cut(strings.TrimPrefix(name, prefix), "-")
		pid, err := strconv.Atoi(digits)
		if err != nil || maker(pid, path) {
			continue
		}
		if err := unbind(name); err != nil {
			errs = append(errs, fmt.Errorf("lab: remove leftover: %w", err))
		}
	}
	return errors.Join(errs...)
}

// maker tells whether process pid can have made the namespace bound to path:
// it lives and is not younger.
func maker(pid int, path string) bool {
	if err := unix.Kill(pid, 0); errors.Is(err, unix.ESRCH) {
		return false
	}
	file, err := os.Stat(path)
	if err != nil {
		return true // somebody else has removed it
	}
	born, err := started(pid)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	return !born.After(file.ModTime().Add(time.Second))
}

// started returns when a process began, to about a tick.
// Source: proc_pid_stat(5), field 22; proc_stat(5), btime.
func started(pid int) (time.Time, error) {
	const ticksPerSecond = 100 // USER_HZ, the same on every architecture that Go has
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return time.Time{}, err
	}
	_, rest, _ := bytes.Cut(stat, []byte(") ")) // the name may hold blanks
	fields := bytes.Fields(rest)
	const startTime = 22 - 3 // fields are counted from 1, two are cut off
	if len(fields) <= startTime {
		return time.Time{}, fmt.Errorf("lab: /proc/%d/stat has %d fields", pid, len(fields)+2)
	}
	ticks, err := strconv.ParseInt(string(fields[startTime]), 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	boot, err := bootTime()
	if err != nil {
		return time.Time{}, err
	}
	return boot.Add(time.Duration(ticks) * time.Second / ticksPerSecond), nil
}

func bootTime() (time.Time, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, err
	}
	for line := range bytes.Lines(stat) {
		if text, ok := bytes.CutPrefix(line, []byte("btime ")); ok {
			seconds, err := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64)
			return time.Unix(seconds, 0), err
		}
	}
	return time.Time{}, errors.New("lab: /proc/stat has no btime")
}
