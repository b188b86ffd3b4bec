package self

import (
	"bufio"
	"net/netip"
	"os"

	"flowcut/conntrack"
)

// Through returns the connections through which somebody works who has a TCP
// connection from peer to our socket local: that connection, and, where peer is a
// socket of this host, such as of an SSH server that forwards a port, those of the SSH
// servers among the process that holds it and its ancestors. Others' connections are left out,
// since a proxy has those of all its clients.
//
// Nothing is an error. Hidden tells that peer is a socket of this host, and that no SSH
// server which can be seen is behind it: it may be a proxy, with somebody elsewhere.
func Through(peer, local netip.AddrPort) (list []conntrack.Tuple, hidden bool) {
	s := newSearch()
	inode, here := inodeOf(peer, local)
	if here {
		all := readProcesses()
		for pid := range all {
			if !holds(pid, inode) {
				continue
			}
			s.climb(pid, in(all), func(pid int) bool { return all[pid].sshd() })
		}
		hidden = !s.sockets()
	}
	return append(s.tuples(), tuple(peer, local)), hidden
}

// inodeOf finds the socket at the other end of ours.
func inodeOf(peer, local netip.AddrPort) (inode uint64, found bool) {
	for _, name := range []string{"net/tcp", "net/tcp6"} {
		f, err := os.Open(file(os.Getpid(), name))
		if err != nil {
			continue
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			c, ok := parseSocket(lines.Bytes())
			if ok && samePlain(c.local, peer) && samePlain(c.peer, local) {
				return c.inode, true
			}
		}
	}
	return 0, false
}

func samePlain(a, b netip.AddrPort) bool {
	return a.Port() == b.Port() && plain(a.Addr()) == plain(b.Addr())
}

// holds tells whether a process has a socket.
func holds(pid int, inode uint64) bool {
	for link, err := range descriptors(pid) {
		if n, ok := socketInode(link); err == nil && ok && n == inode {
			return true
		}
	}
	return false
}
