// Package self finds the connections through which the caller works, so that
// a cut leaves them alone.
package self

import (
	"maps"
	"net"
	"net/netip"
	"os"
	"strings"

	"flowcut/conntrack"
)

// Sessions returns the TCP connections through which the caller works: what
// their peers send to the sockets here. They are those that SSH_CONNECTION
// names, in the caller's environment or in that of an ancestor, and those
// that ancestors hold, which is the caller included and process 1 not. Where
// ancestors hold terminals besides the caller's own, as tmux, screen and
// sudo do, those who sit there and their ancestors count, too.
//
// When no socket was found in this way and the caller has a pseudo terminal,
// then the login record of the terminals says whose connection it is. Where
// there is none either, all SSH sessions of the caller's user count: one too
// many is better than one too few.
//
// Nothing is an error. What the caller may not read is passed over, and none
// is right for what a daemon started. Not found are sockets of UDP, such as
// mosh's, and connections that end in a process that is no ancestor and owns
// no terminal, such as those of consoles in a browser.
func Sessions() []conntrack.Tuple {
	s := search{
		visited: map[int]bool{}, terminals: map[int]bool{}, hosts: map[netip.Addr]bool{},
		inodes: map[uint64]bool{}, spaces: map[string]int{"": os.Getpid()},
		found: map[conntrack.Tuple]bool{},
	}
	s.connection(os.Getenv(variable))
	s.climb(os.Getpid(), readProcess)
	held := s.sockets()
	own, _ := readProcess(os.Getpid())
	if own.terminal >= 0 {
		s.terminals[own.terminal] = true
	}
	if s.alone(own.terminal) && held || len(s.terminals) == 0 {
		return s.tuples()
	}
	// From here on all processes are looked at, which takes longer.
	all := readProcesses()
	s.attached(all)
	if s.sockets() {
		return s.tuples()
	}
	s.logins(all)
	if !s.sockets() {
		s.sameUser(all)
		s.sockets()
	}
	return s.tuples()
}

// search is what has been found so far.
type search struct {
	visited   map[int]bool        // processes that were asked for all they have
	terminals map[int]bool        // pseudo terminals: those of the caller and its ancestors
	hosts     map[netip.Addr]bool // that somebody logged in from at these terminals
	inodes    map[uint64]bool     // sockets of visited processes
	spaces    map[string]int      // network namespaces of visited processes, with one of these
	found     map[conntrack.Tuple]bool
}

// alone tells whether no terminal is known but the given one, which may be -1.
func (s *search) alone(terminal int) bool {
	return len(s.terminals) == 0 || len(s.terminals) == 1 && s.terminals[terminal]
}

func (s *search) tuples() []conntrack.Tuple {
	var out []conntrack.Tuple
	for t := range maps.Keys(s.found) {
		out = append(out, t)
	}
	return out
}

// lookup finds a process by its ID.
type lookup func(pid int) (process, bool)

// climb visits a process and its ancestors, but not process 1, the start of
// everything, nor what is outside this namespace of processes.
func (s *search) climb(pid int, find lookup) {
	for pid > 1 && !s.visited[pid] {
		s.visit(pid)
		p, ok := find(pid)
		if !ok {
			return
		}
		pid = p.parent
	}
}

// visit notes the connections and terminals that a process has.
func (s *search) visit(pid int) {
	s.visited[pid] = true
	s.connection(environment(pid))
	space, err := os.Readlink(file(pid, "ns/net"))
	if err == nil && s.spaces[space] == 0 {
		s.spaces[space] = pid
	}
	for link := range descriptors(pid) {
		if inode, ok := socketInode(link); ok {
			s.inodes[inode] = true
		} else if terminal, ok := pseudoTerminal(strings.TrimPrefix(link, "/dev/")); ok {
			s.terminals[terminal] = true
		}
	}
}

// attached finds who sits at the terminals that are known. A multiplexer's
// server is no descendant of them, but it holds their terminals. Processes at
// a terminal may have connections of any kind; through those of the ancestors
// that have another terminal or none, such as sshd, somebody sits there. These
// may be in a multiplexer in turn.
func (s *search) attached(all map[int]process) {
	find := func(pid int) (process, bool) {
		p, ok := all[pid]
		return p, ok
	}
	asked := map[int]bool{}
	for known := -1; known < len(s.terminals); {
		known = len(s.terminals)
		for _, p := range all {
			if !s.terminals[p.terminal] || asked[p.pid] {
				continue
			}
			asked[p.pid] = true
			s.connection(environment(p.pid))
			if parent, ok := all[p.parent]; ok && parent.terminal != p.terminal {
				s.climb(parent.pid, find)
			}
		}
	}
}

// sameUser visits the SSH sessions of the user that the caller is or was.
// Only the child of a session that was authenticated is another program.
func (s *search) sameUser(all map[int]process) {
	users := callers()
	for pid := range s.visited {
		if uid, ok := owner(pid); ok {
			users[uid] = true
		}
	}
	for _, p := range all {
		parent, ok := all[p.parent]
		if !ok || !parent.sshd() || p.sshd() {
			continue
		}
		if uid, ok := owner(p.pid); ok && users[uid] {
			s.visit(parent.pid)
			s.visit(parent.parent) // holds the connection as well, where privileges are separated
		}
	}
}

// variable is set by SSH servers in the environment of a session.
const variable = "SSH_CONNECTION"

// connection notes what the variable says: the client's address and port,
// then the server's.
func (s *search) connection(value string) {
	w := strings.Fields(value)
	if len(w) != 4 {
		return
	}
	client, err := netip.ParseAddrPort(net.JoinHostPort(w[0], w[1]))
	if err != nil {
		return
	}
	server, err := netip.ParseAddrPort(net.JoinHostPort(w[2], w[3]))
	if err == nil {
		s.add(client, server)
	}
}

// add notes a connection as conntrack names it.
func (s *search) add(peer, local netip.AddrPort) {
	s.found[conntrack.Tuple{
		Proto: conntrack.ProtoTCP,
		Src:   plain(peer.Addr()), SrcPort: peer.Port(),
		Dst: plain(local.Addr()), DstPort: local.Port(),
	}] = true
}

// plain is an address without what packets do not carry.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
