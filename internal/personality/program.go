package personality

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// netlinkTable lists the netlink sockets of the namespace.
const netlinkTable = "/proc/net/netlink"

// programs remembers the names of the programs that own netlink ports. Finding
// one takes a walk through /proc, and events come by the thousand.
type programs struct {
	known map[uint32]program
}

// program is the name of a port's owner, "" if it was not found.
type program struct {
	name string
	at   time.Time
}

// programAge is how long a name is believed: a port may have another owner
// later.
const programAge = time.Second

// name returns the name of the program that owns a port, "" if it has gone.
func (p *programs) name(port uint32) string {
	now := time.Now()
	if k, ok := p.known[port]; ok && now.Sub(k.at) < programAge {
		return k.name
	}
	if p.known == nil || len(p.known) > 1024 {
		p.known = make(map[uint32]program)
	}
	name := ""
	if inode, ok := socketOf(port); ok {
		name = ownerOf(inode, port)
	}
	p.known[port] = program{name, now}
	return name
}

// socketOf returns the inode of the netfilter socket with a port.
func socketOf(port uint32) (inode string, ok bool) {
	f, err := os.Open(netlinkTable)
	if err != nil {
		return "", false
	}
	defer func() { _ = f.Close() }() // it was only read
	want := strconv.FormatUint(uint64(port), 10)
	for s := bufio.NewScanner(f); s.Scan(); {
		// sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode; 12 is NETLINK_NETFILTER.
		w := strings.Fields(s.Text())
		if len(w) >= 10 && w[1] == "12" && w[2] == want {
			return w[9], true
		}
	}
	return "", false
}

// ownerOf returns the name of a process that has a socket. Many programs have
// their process ID as their first port.
func ownerOf(inode string, port uint32) string {
	link := "socket:[" + inode + "]"
	first := strconv.FormatUint(uint64(port), 10)
	if holds(first, link) {
		return comm(first)
	}
	all, err := os.ReadDir("/proc")
	if err != nil {
		return ""
	}
	for _, d := range all {
		if _, err := strconv.Atoi(d.Name()); err == nil && holds(d.Name(), link) {
			return comm(d.Name())
		}
	}
	return ""
}

// holds tells whether a process has a descriptor that is a link to something.
func holds(pid, link string) bool {
	dir := filepath.Join("/proc", pid, "fd")
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && to == link {
			return true
		}
	}
	return false
}

// comm returns the name of a process, printable as it is in one word of a line.
func comm(pid string) string {
	b, err := os.ReadFile(filepath.Join("/proc", pid, "comm"))
	if err != nil {
		return ""
	}
	name := string(bytes.TrimSuffix(b, []byte("\n")))
	if strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Sprintf("%q", name)
	}
	return name
}
