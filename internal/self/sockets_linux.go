package self

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/netip"
	"os"
	"strconv"
)

// sockets notes the connections of the sockets and hosts that are known, and
// tells whether there were any. It notes those that variables claim as well.
// It reads text of /proc: that needs neither a privilege nor a kernel module,
// and shows any namespace that has a process.
func (s *search) sockets() (any bool) {
	if len(s.inodes) == 0 && len(s.hosts) == 0 && len(s.claims) == 0 {
		return false
	}
	read := map[string]bool{}
	for space, pid := range s.spaces {
		if own, err := os.Readlink(file(pid, "ns/net")); err == nil {
			space = own
		}
		if read[space] {
			continue
		}
		read[space] = true
		for _, name := range []string{"net/tcp", "net/tcp6"} {
			if f, err := os.Open(file(pid, name)); err == nil {
				any = s.table(f) || any
				_ = f.Close()
			}
		}
	}
	return any
}

// table reads one of proc_net(5)'s tables.
func (s *search) table(r io.Reader) (any bool) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		s.seen = true
		c, ok := parseSocket(lines.Bytes())
		if !ok {
			continue
		}
		held := s.inodes[c.inode]
		if !held && (len(s.hosts) == 0 && len(s.claims) == 0 || !s.users[c.user]) {
			continue
		}
		t := tuple(c.peer, c.local)
		held = held || s.hosts[t.Src]
		if held || s.claims[t] {
			s.found[t] = true
		}
		any = any || held
	}
	return any
}

// socket is one that has a peer.
type socket struct {
	local, peer netip.AddrPort
	user        uint32 // who made it, for a connection that was accepted the server
	inode       uint64
}

// parseSocket reads a line. It returns false for the heading, for sockets that
// listen, and for connections that have lost their socket.
func parseSocket(line []byte) (c socket, ok bool) {
	const local, peer, user, inode = 1, 2, 7, 9 // sl, local_address, rem_address, st, queues, tr, retrnsmt, uid, timeout, inode
	n := 0
	for f := range bytes.FieldsSeq(line) {
		good := true
		switch n {
		case local:
			c.local, good = parseEnd(f)
		case peer:
			c.peer, good = parseEnd(f)
			good = good && c.peer.Port() != 0
		case user:
			u, err := strconv.ParseUint(string(f), 10, 32)
			c.user, good = uint32(u), err == nil
		case inode:
			i, err := strconv.ParseUint(string(f), 10, 64)
			c.inode = i
			return c, err == nil && i != 0
		}
		if !good {
			return c, false
		}
		n++
	}
	return c, false
}

// parseEnd reads an address and a port: words of 32 bits as they are in
// memory, written as numbers of the machine, and the port as a number.
func parseEnd(b []byte) (netip.AddrPort, bool) {
	address, port, ok := bytes.Cut(b, []byte{':'})
	if !ok {
		return netip.AddrPort{}, false
	}
	raw := make([]byte, hex.DecodedLen(len(address)))
	if _, err := hex.Decode(raw, address); err != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for w := raw; len(w) > 0; w = w[4:] {
		binary.NativeEndian.PutUint32(w, binary.BigEndian.Uint32(w))
	}
	a, ok := netip.AddrFromSlice(raw)
	p, err := strconv.ParseUint(string(port), 16, 16)
	return netip.AddrPortFrom(a, uint16(p)), ok && err == nil
}
