package self

import (
	"bytes"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is what /proc/PID/stat says of one.
type process struct {
	pid, parent int
	name        string
	terminal    int // the number of its pseudo terminal, -1 for another terminal or none
}

// sshd tells whether it is part of an SSH server.
func (p process) sshd() bool {
	return strings.HasPrefix(p.name, "sshd") || strings.HasPrefix(p.name, "dropbear")
}

// file is the path of something that /proc has of a process.
func file(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

// readProcess returns false for a process that is gone or hidden.
func readProcess(pid int) (process, bool) {
	b, err := os.ReadFile(file(pid, "stat"))
	if err != nil {
		return process{terminal: -1}, false
	}
	return parseProcess(pid, b)
}

// parseProcess reads a line of proc_pid_stat(5).
func parseProcess(pid int, stat []byte) (process, bool) {
	p := process{pid: pid, terminal: -1}
	// The name stands in parentheses and may hold anything, these included.
	begin, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if begin < 0 || end < begin {
		return p, false
	}
	p.name = string(stat[begin+1 : end])
	const parent, terminal = 1, 4 // state, ppid, pgrp, session, tty_nr
	fields := bytes.Fields(stat[end+1:])
	if len(fields) <= terminal {
		return p, false
	}
	var err error
	if p.parent, err = strconv.Atoi(string(fields[parent])); err != nil {
		return p, false
	}
	device, err := strconv.ParseInt(string(fields[terminal]), 10, 64)
	if err != nil {
		return p, false
	}
	// The field is an int whose bits are new_encode_dev's, as Major and Minor read them.
	const first, last = 136, 143 // UNIX98_PTY_SLAVE_MAJOR and its UNIX98_PTY_MAJOR_COUNT
	if major := unix.Major(uint64(uint32(device))); major >= first && major <= last {
		p.terminal = int(unix.Minor(uint64(uint32(device))))
	}
	return p, true
}

// readProcesses returns all processes that can be seen.
func readProcesses() map[int]process {
	all := map[int]process{}
	list, _ := names("/proc")
	for _, name := range list {
		if pid, err := strconv.Atoi(name); err == nil {
			if p, ok := readProcess(pid); ok {
				all[pid] = p
			}
		}
	}
	return all
}

// names are those of the entries of a directory as far as it can be read, in no order.
func names(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	return d.Readdirnames(-1) // with an error there may be some all the same
}

// environment returns the variable in the environment that the process
// was started with, "" where it may not be read.
func environment(pid int) string {
	b, err := os.ReadFile(file(pid, "environ"))
	if err != nil {
		return ""
	}
	for entry := range bytes.SplitSeq(b, []byte{0}) {
		if value, ok := bytes.CutPrefix(entry, []byte(variable+"=")); ok {
			return string(value)
		}
	}
	return ""
}

// descriptors returns what a process's descriptors stand for, and last an error
// where they may not be read. Reading a link does not touch the file, which may
// be on a disk that does not answer.
func descriptors(pid int) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		dir := file(pid, "fd")
		list, err := names(dir)
		if errors.Is(err, os.ErrPermission) {
			yield("", err)
			return
		}
		for _, name := range list {
			link, err := os.Readlink(dir + "/" + name)
			if errors.Is(err, os.ErrPermission) {
				yield("", err)
				return
			}
			if err == nil && !yield(link, nil) {
				return
			}
		}
	}
}

// socketInode reads "socket:[NUMBER]".
func socketInode(link string) (uint64, bool) {
	digits, ok := strings.CutPrefix(link, "socket:[")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(digits, "]"), 10, 64)
	return n, err == nil
}

// pseudoTerminal reads "pts/NUMBER".
func pseudoTerminal(name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, "pts/")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 31) // -1 would be every process without one
	return int(n), err == nil
}

// elsewhere tells whether a process is known to be in another namespace of
// processes, such as a container: its terminals have numbers of their own.
func elsewhere(pid int) bool {
	own, err := os.Readlink("/proc/self/ns/pid")
	space, err2 := os.Readlink(file(pid, "ns/pid"))
	return err == nil && err2 == nil && space != own
}

// readUsers returns the user who started a process and the one whose rights
// it has. The owner of its directory would not do: that is root for any
// process that wants to hide.
func readUsers(pid int) (started, rights uint32, ok bool) {
	b, err := os.ReadFile(file(pid, "status"))
	if err != nil {
		return 0, 0, false
	}
	return parseUsers(b)
}

// parseUsers reads proc_pid_status(5).
func parseUsers(status []byte) (started, rights uint32, ok bool) {
	// The name, which may hold anything, stands before it with its line ends escaped.
	for line := range bytes.Lines(status) {
		ids, ok := bytes.CutPrefix(line, []byte("Uid:"))
		if !ok {
			continue
		}
		w := bytes.Fields(ids) // real, effective, saved, of files
		if len(w) != 4 {
			break
		}
		r, err := strconv.ParseUint(string(w[0]), 10, 32)
		e, err2 := strconv.ParseUint(string(w[1]), 10, 32)
		return uint32(r), uint32(e), err == nil && err2 == nil
	}
	return 0, 0, false
}

// callers are root and the users that the caller is or was: now, before sudo,
// at the login, if that is recorded, and as its ancestors.
func callers(ancestors map[int]bool) map[uint32]bool {
	users := map[uint32]bool{0: true, uint32(os.Getuid()): true}
	login, _ := os.ReadFile("/proc/self/loginuid")
	for _, s := range []string{os.Getenv("SUDO_UID"), string(bytes.TrimSpace(login))} {
		const unset = 1<<32 - 1 // INVALID_UID
		if uid, err := strconv.ParseUint(s, 10, 32); err == nil && uid != unset {
			users[uint32(uid)] = true
		}
	}
	for pid := range ancestors {
		if started, rights, ok := readUsers(pid); ok {
			users[started], users[rights] = true, true
		}
	}
	return users
}
