package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// socket is one of NETLINK_NETFILTER in the namespace.
type socket struct {
	port   uint32 // its ID, by which the kernel names it to others
	groups uint32 // a bit for each of the first 32 groups of events it listens to
	inode  uint64
}

// sockets lists them.
func sockets() ([]socket, error) {
	b, err := os.ReadFile("/proc/thread-self/net/netlink")
	if err != nil {
		return nil, fmt.Errorf("list netlink sockets: %w", err)
	}
	return parseSockets(string(b))
}

// parseSockets reads what netlink_seq_show in net/netlink/af_netlink.c writes:
// address, protocol, port ID, groups, six other columns, inode.
func parseSockets(text string) ([]socket, error) {
	const protocol, port, groups, inode = 1, 2, 3, 9
	var out []socket
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) <= inode || fields[protocol] != strconv.Itoa(unix.NETLINK_NETFILTER) {
			continue
		}
		id, err := strconv.ParseUint(fields[port], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("list netlink sockets: %w", err)
		}
		g, err := strconv.ParseUint(fields[groups], 16, 32)
		if err != nil {
			return nil, fmt.Errorf("list netlink sockets: %w", err)
		}
		n, err := strconv.ParseUint(fields[inode], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("list netlink sockets: %w", err)
		}
		if id != 0 { // the kernel's own
			out = append(out, socket{uint32(id), uint32(g), n})
		}
	}
	return out, nil
}

// process is one that has a socket open.
type process struct {
	pid  int
	name string
}

func (p process) String() string { return fmt.Sprintf("%s (%d)", p.name, p.pid) }

// holders returns who has sockets open, by their inodes. What the caller may not
// see is left out.
func holders(inodes map[uint64]bool) map[uint64]process {
	out := map[uint64]process{}
	dirs, _ := filepath.Glob("/proc/[0-9]*/fd") // the pattern is right
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // gone, or another user's
		}
		for _, e := range entries {
			link, err := os.Readlink(filepath.Join(dir, e.Name()))
			if err != nil {
				continue
			}
			digits, isSocket := strings.CutPrefix(link, "socket:[")
			inode, err := strconv.ParseUint(strings.TrimSuffix(digits, "]"), 10, 64)
			if !isSocket || err != nil || !inodes[inode] {
				continue
			}
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
			comm, _ := os.ReadFile(filepath.Join(filepath.Dir(dir), "comm"))
			out[inode] = process{pid, strings.TrimSpace(string(comm))}
		}
	}
	return out
}

// owners names the processes of port IDs; those that are not to be seen by their
// number.
func owners(ports ...uint32) (map[uint32]string, error) {
	out := map[uint32]string{}
	for _, p := range ports {
		out[p] = fmt.Sprintf("the process with netlink port %d", p)
	}
	if len(ports) == 0 {
		return out, nil
	}
	all, err := sockets()
	if err != nil {
		return out, err
	}
	inodes := map[uint64]bool{}
	for _, s := range all {
		if _, wanted := out[s.port]; wanted {
			inodes[s.inode] = true
		}
	}
	who := holders(inodes)
	for _, s := range all {
		if p, seen := who[s.inode]; seen {
			out[s.port] = p.String()
		}
	}
	return out, nil
}
