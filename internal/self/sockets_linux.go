package self

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"strconv"
)

// sockets notes the connections of the sockets and hosts that are known, and
// tells whether there were any. It reads text of /proc: that needs neither a
// privilege nor a kernel module, and shows any namespace that has a process.
func (s *search) sockets() (any bool) {
	if len(s.inodes) == 0 && len(s.hosts) == 0 {
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
		for _, table := range []string{"net/tcp", "net/tcp6"} {
			any = s.table(file(pid, table)) || any
		}
	}
	return any
}

// table reads one of proc_net(5)'s tables.
func (s *search) table(path string) (any bool) {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		local, peer, inode := fields(lines.Bytes())
		n, err := strconv.ParseUint(string(inode), 10, 64)
		if err != nil || n == 0 { // the heading, or a connection without a socket
			continue
		}
		if !s.inodes[n] && len(s.hosts) == 0 {
			continue
		}
		to, ok := parseEnd(local)
		from, ok2 := parseEnd(peer)
		if !ok || !ok2 || from.Port() == 0 { // one that listens has no peer
			continue
		}
		if s.inodes[n] || s.hosts[plain(from.Addr())] {
			s.add(from, to)
			any = true
		}
	}
	return any
}

// fields returns those of a line that are of interest.
func fields(line []byte) (local, peer, inode []byte) {
	n := 0 // sl, local_address, rem_address, st, queues, tr, retrnsmt, uid, timeout, inode
	for f := range bytes.FieldsSeq(line) {
		switch n {
		case 1:
			local = f
		case 2:
			peer = f
		case 9:
			return local, peer, f
		}
		n++
	}
	return nil, nil, nil
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
