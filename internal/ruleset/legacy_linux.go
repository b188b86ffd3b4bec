package ruleset

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"flowcut/internal/netns"
	"flowcut/internal/rtnl"
)

// legacy is the iptables that came before nf_tables, of one family. It has no
// netlink: its rules are read by getsockopt(2).
type legacy struct {
	family, level int
	names         string // file with the tables that are in use
	word          string
	// Where an entry has the offsets of its target and of the next entry: behind
	// struct ipt_ip or ip6t_ip6 and a number.
	offsets int
	matches int // where its matches begin, the size of struct ipt_entry
}

var legacies = []legacy{
	{unix.AF_INET, unix.SOL_IP, "ip_tables_names", "ip", 88, 112},
	{unix.AF_INET6, unix.SOL_IPV6, "ip6_tables_names", "ip6", 140, 168},
}

// Options of sockets, the same numbers for both families.
const (
	getInfo    = 64 // IPT_SO_GET_INFO
	getEntries = 65 // IPT_SO_GET_ENTRIES
)

// readLegacy goes through the tables that are in use. Others are not asked
// for: that would bring them into use.
//
// Needs to be root, or CAP_DAC_READ_SEARCH, for the names.
func readLegacy() ([]Use, error) {
	var out []Use
	for _, l := range legacies {
		names, err := netns.Proc("/proc/thread-self/net/" + l.names)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return out, fmt.Errorf("look for tables of iptables: %w", err)
		}
		for _, name := range strings.Fields(string(names)) {
			found, err := l.read(name)
			if err != nil {
				return out, fmt.Errorf("read table %s of iptables: %w", name, err)
			}
			out = append(out, found...)
		}
	}
	return out, nil
}

// read returns the uses in one table.
func (l legacy) read(name string) ([]Use, error) {
	fd, err := unix.Socket(l.family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		if rtnl.Missing(err) {
			return nil, nil
		}
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	const tries = 3 // rules may change between the two calls
	for try := 1; ; try++ {
		info, entries, err := l.ask(fd, name)
		if errors.Is(err, unix.EAGAIN) && try < tries {
			continue
		}
		if err != nil {
			return nil, err
		}
		return l.parse(name, info, entries)
	}
}

// ask returns what the kernel says of a table, struct ipt_getinfo, and the entries,
// one behind the other.
func (l legacy) ask(fd int, table string) (info, entries []byte, err error) {
	const (
		nameLen  = 32      // XT_TABLE_MAXNAMELEN
		infoLen  = 84      // struct ipt_getinfo
		sizeAt   = 80      // ipt_getinfo.size
		headAt   = nameLen // ipt_get_entries.size
		headSize = 40      // offset of ipt_get_entries.entrytable
	)
	info = make([]byte, infoLen)
	copy(info[:nameLen-1], table)
	if err := getsockopt(fd, l.level, getInfo, info); err != nil {
		return nil, nil, err
	}
	size := binary.NativeEndian.Uint32(info[sizeAt:])
	all := make([]byte, headSize+int(size))
	copy(all[:nameLen-1], table)
	binary.NativeEndian.PutUint32(all[headAt:], size)
	if err := getsockopt(fd, l.level, getEntries, all); err != nil {
		return nil, nil, err
	}
	return info, all[headSize:], nil
}

func getsockopt(fd, level, option int, b []byte) error {
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(&b[0])
	n := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return os.NewSyscallError("getsockopt", errno)
	}
	return nil
}

// hooks names the kernel's chain that begins at an offset, or the policy of which is
// there; none of the table's other entries. info is struct ipt_getinfo.
func hooks(info []byte, offset int) (chain string, policy bool) {
	const validAt, beginAt, policyAt = 32, 36, 56 // valid_hooks, hook_entry, underflow
	valid := binary.NativeEndian.Uint32(info[validAt:])
	for i, name := range []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"} { // enum nf_inet_hooks
		at := func(base int) int { return int(binary.NativeEndian.Uint32(info[base+4*i:])) }
		if valid&(1<<i) == 0 {
			continue
		}
		// In a chain without rules both are one entry.
		if begins, ends := at(beginAt) == offset, at(policyAt) == offset; begins || ends {
			return name, ends
		}
	}
	return "", false
}

// parse goes through entries: struct ipt_entry or ip6t_entry, each with its
// matches and its target, struct xt_entry_target. A chain that a user has made
// begins with a target ERROR that has its name.
func (l legacy) parse(table string, info, entries []byte) ([]Use, error) {
	const targetInfo = 32 // offset of data
	var out []Use
	chain, offset := "", 0
	for len(entries) > 0 {
		if len(entries) < l.offsets+4 {
			return nil, fmt.Errorf("an entry of %d bytes", len(entries))
		}
		target := int(binary.NativeEndian.Uint16(entries[l.offsets:]))
		next := int(binary.NativeEndian.Uint16(entries[l.offsets+2:]))
		if next <= l.offsets || next > len(entries) || target+targetInfo > next {
			return nil, fmt.Errorf("an entry of %d bytes in %d, with a target at %d", next, len(entries), target)
		}
		r, label := l.rule(entries[:next], target)
		if label != "" {
			chain = label
		}
		name, policy := hooks(info, offset)
		chain = cmp.Or(name, chain)
		where := fmt.Sprintf("%s %s %s of iptables-legacy", l.word, table, chain)
		switch {
		case policy && r.verdict == drops:
			out = append(out, Use{Drop, byte(l.family), where})
		case !fenceChain.MatchString(chain):
			out = append(out, r.uses(byte(l.family), where)...)
		}
		entries, offset = entries[next:], offset+next
	}
	return out, nil
}

// rule reads one entry, whose target is at an offset. The name of a chain that
// begins with it is label.
func (l legacy) rule(entry []byte, target int) (r rule, label string) {
	const name, info = 2, 32                                                            // offsets of name and data, struct xt_entry_match and xt_entry_target
	nameOf := func(b []byte) string { return unix.ByteSliceToString(b[name : info-1]) } // the last byte is a revision
	for at := l.matches; at+info <= target; {
		size := int(binary.NativeEndian.Uint16(entry[at:]))
		if size < info || at+size > target {
			break
		}
		r.matches(nameOf(entry[at:]), entry[at+info:at+size])
		at += size
	}
	const counter = 4 // struct ipt_ip and a number: bits that are no condition
	r.narrow = r.narrow || slices.ContainsFunc(entry[:l.offsets-counter], func(b byte) bool { return b != 0 })
	t := entry[target:]
	switch n := nameOf(t); {
	case n == "ERROR":
		label = unix.ByteSliceToString(t[info:])
	case n == "" && len(t) >= info+4:
		r.judge(-binary.NativeEndian.Uint32(t[info:]) - 1) // struct xt_standard_target
	default:
		r.targets(n, t[info:])
	}
	return r, label
}
