// Package self finds the connections through which the caller works, so that
// a cut leaves them alone.
package self

import (
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
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
// Whatever anybody may write, such as a variable, counts only for a connection
// that a socket has here, one of root or of the caller's users, and only if it
// was found with these users or an ancestor. So nobody else can have a
// connection of his own left alone.
//
// Nothing is an error. What the caller may not read is passed over, and none
// is right for what a daemon started. Hidden tells that somebody seems to sit
// there, at a terminal or as the variable has it, that no connection was found,
// and that an ancestor was closed to the caller, who has no CAP_SYS_PTRACE. Not found are sockets of UDP, such as
// mosh's, and connections that end in a process that is no ancestor and owns
// no terminal, such as those of consoles in a browser.
func Sessions() (list []conntrack.Tuple, hidden bool) {
	s := newSearch()
	terminal := s.run()
	list = s.tuples()
	return list, len(list) == 0 && s.closed && (terminal || len(s.claims) > 0)
}

// run looks in all places, and tells whether the caller has a pseudo terminal.
func (s *search) run() (terminal bool) {
	s.connection(os.Getenv(variable))
	s.climb(os.Getpid(), readProcess, everyone)
	s.users = callers(s.visited)
	held := s.sockets()
	own, _ := readProcess(os.Getpid())
	if own.terminal >= 0 {
		s.terminals[own.terminal] = true
	}
	terminal = own.terminal >= 0
	if s.alone(own.terminal) && held || len(s.terminals) == 0 {
		return terminal
	}
	// From here on all processes are looked at, which takes longer.
	all := readProcesses()
	s.attached(all)
	if s.sockets() {
		return terminal
	}
	s.logins()
	if !s.sockets() {
		s.sameUser(all)
		s.sockets()
	}
	return terminal
}

// search is what has been found so far.
type search struct {
	visited   map[int]bool             // processes that were asked for all they have
	users     map[uint32]bool          // that the caller is or was, and root
	terminals map[int]bool             // pseudo terminals: those of the caller and its ancestors
	hosts     map[netip.Addr]bool      // that somebody logged in from at these terminals
	claims    map[conntrack.Tuple]bool // what variables name, to be found among the sockets
	inodes    map[uint64]bool          // sockets of visited processes
	spaces    map[string]int           // network namespaces of visited processes, with one of these
	seen      bool                     // a table of sockets could be read
	closed    bool                     // a process did not show what it has open
	found     map[conntrack.Tuple]bool
}

func newSearch() *search {
	return &search{
		visited: map[int]bool{}, terminals: map[int]bool{}, hosts: map[netip.Addr]bool{},
		claims: map[conntrack.Tuple]bool{}, inodes: map[uint64]bool{},
		spaces: map[string]int{"": os.Getpid()}, found: map[conntrack.Tuple]bool{},
	}
}

// alone tells whether no terminal is known but the given one, which may be -1.
func (s *search) alone(terminal int) bool {
	return len(s.terminals) == 0 || len(s.terminals) == 1 && s.terminals[terminal]
}

// tuples are the connections found. Where no table of sockets can be read,
// that is without /proc, the caller's own variable is all there is.
func (s *search) tuples() []conntrack.Tuple {
	if !s.seen {
		maps.Copy(s.found, s.claims)
	}
	return slices.Collect(maps.Keys(s.found))
}

// lookup finds a process by its ID.
type lookup func(pid int) (process, bool)

func in(all map[int]process) lookup {
	return func(pid int) (process, bool) {
		p, ok := all[pid]
		return p, ok
	}
}

// climb visits a process and its ancestors as far as they may be believed, but
// not process 1, the start of everything, nor what is outside this namespace
// of processes.
func (s *search) climb(pid int, find lookup, believed func(pid int) bool) {
	for range 1 << 16 { // parents that are read one after the other could make a ring
		if pid <= 1 || s.visited[pid] {
			return
		}
		if believed(pid) {
			s.visit(pid)
		}
		p, ok := find(pid)
		if !ok {
			return
		}
		pid = p.parent
	}
}

// everyone believes all: what ancestors do, the caller does.
func everyone(int) bool { return true }

// known believes those who run as users of the caller or as root, and were
// started by them.
func (s *search) known(pid int) bool {
	real, effective, ok := readUsers(pid)
	return ok && s.users[real] && s.users[effective]
}

// visit notes the connections and terminals that a process has.
func (s *search) visit(pid int) {
	s.visited[pid] = true
	s.connection(environment(pid))
	space, err := os.Readlink(file(pid, "ns/net"))
	if err == nil && s.spaces[space] == 0 {
		s.spaces[space] = pid
	}
	for link, err := range descriptors(pid) {
		if err != nil {
			s.closed = true
			break
		}
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
// may be in a multiplexer in turn. Whoever sits there, his own processes count
// only if he is a user of the caller: su gives a terminal to others, too.
func (s *search) attached(all map[int]process) {
	asked := map[int]bool{}
	for before := -1; before < len(s.terminals); {
		before = len(s.terminals)
		for _, p := range all {
			if !s.terminals[p.terminal] || asked[p.pid] || elsewhere(p.pid) {
				continue
			}
			asked[p.pid] = true
			if s.known(p.pid) {
				s.connection(environment(p.pid))
			}
			if parent, ok := all[p.parent]; ok && parent.terminal != p.terminal {
				s.climb(parent.pid, in(all), s.known)
			}
		}
	}
}

// sameUser visits the SSH sessions of the users that the caller is or was.
// Only the child of a session that was authenticated is another program. Its
// name anybody may take, so whose they are is looked at, too.
func (s *search) sameUser(all map[int]process) {
	for _, p := range all {
		server, ok := all[p.parent]
		if !ok || !server.sshd() || p.sshd() || elsewhere(p.pid) || !s.known(p.pid) || !s.known(server.pid) {
			continue
		}
		s.visit(server.pid)
		// Where privileges are separated, its parent holds the connection as well.
		if above, ok := all[server.parent]; ok && above.sshd() && s.known(above.pid) {
			s.visit(above.pid)
		}
	}
}

// variable is set by SSH servers in the environment of a session.
const variable = "SSH_CONNECTION"

// connection notes what the variable claims: the client's address and port,
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
		s.claims[tuple(client, server)] = true
	}
}

// tuple is a connection as conntrack names it.
func tuple(peer, local netip.AddrPort) conntrack.Tuple {
	return conntrack.Tuple{
		Proto: conntrack.ProtoTCP,
		Src:   plain(peer.Addr()), SrcPort: peer.Port(),
		Dst: plain(local.Addr()), DstPort: local.Port(),
	}
}

// plain is an address without what packets do not carry.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
