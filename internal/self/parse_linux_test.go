package self

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flowcut/conntrack"
)

var all = cmp.AllowUnexported(process{}, login{})

func TestParseProcess(t *testing.T) {
	const rest = " S 7 9 9 34819 9 4194560 1 2"
	for _, c := range []struct {
		name, stat string
		want       process
		ok         bool
	}{
		{"usual", "42 (sh)" + rest, process{42, 7, "sh", 3}, true},
		{"name with parentheses and fields", "42 (a) R 1 (b c)" + rest, process{42, 7, "a) R 1 (b c", 3}, true},
		{"name with a line end", "42 (a\n) S 1 1 1 0 )" + rest, process{42, 7, "a\n) S 1 1 1 0 ", 3}, true},
		{"no terminal", "42 (sh) S 7 9 9 0 -1 0", process{42, 7, "sh", -1}, true},
		{"console", "42 (sh) S 7 9 9 1025 -1 0", process{42, 7, "sh", -1}, true},                   // 4:1
		{"pseudo terminal 256", "42 (sh) S 7 9 9 1083392 -1 0", process{42, 7, "sh", 256}, true},   // 136:256
		{"beyond 31 bits", "42 (sh) S 7 9 9 -2147448832 -1 0", process{42, 7, "sh", 524288}, true}, // 136:524288
		{"no name", "42 S 7 9 9 0 -1 0", process{pid: 42, terminal: -1}, false},
		{"reversed", ")(", process{pid: 42, terminal: -1}, false},
		{"short", "42 (sh) S 7 9", process{42, 0, "sh", -1}, false},
		{"parent is no number", "42 (sh) S x 9 9 0 0", process{42, 0, "sh", -1}, false},
		{"empty", "", process{pid: 42, terminal: -1}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := parseProcess(42, []byte(c.stat))
			if ok != c.ok {
				t.Errorf("ok %v, want %v", ok, c.ok)
			}
			if diff := cmp.Diff(c.want, got, all); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseUsers(t *testing.T) {
	for _, c := range []struct {
		status          string
		started, rights uint32
		ok              bool
	}{
		{"Name:\tsudo\nUmask:\t0022\nUid:\t1000\t0\t0\t0\nGid:\t5\t5\t5\t5\n", 1000, 0, true},
		{"Name:\tx\\nUid:\\t0\\t0\nUid:\t7\t8\t8\t8\n", 7, 8, true}, // the kernel escapes a line end in the name
		{"Uid:\t4294967295\t4294967295\t0\t0\n", 4294967295, 4294967295, true},
		{"Uid:\t4294967296\t0\t0\t0\n", 0, 0, false},
		{"Uid:\t0\t0\n", 0, 0, false},
		{"Uid:\n", 0, 0, false},
		{"Name:\tx\n", 0, 0, false},
		{"", 0, 0, false},
	} {
		started, rights, ok := parseUsers([]byte(c.status))
		if ok != c.ok || ok && (started != c.started || rights != c.rights) {
			t.Errorf("%q: %d %d %v, want %d %d %v", c.status, started, rights, ok, c.started, c.rights, c.ok)
		}
	}
}

// record is one of utmp(5), with 32 bits for the time if size is 384.
func record(size int, kind uint16, line, host string) []byte {
	b := make([]byte, size)
	binary.NativeEndian.PutUint16(b, kind)
	copy(b[8:40], line)
	copy(b[76:332], host)
	return b
}

func join(parts ...[]byte) (out []byte) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func TestParseUtmp(t *testing.T) {
	const boot, user, dead = 2, 7, 8 // BOOT_TIME, USER_PROCESS, DEAD_PROCESS
	full := strings.Repeat("h", 256)
	for _, c := range []struct {
		name string
		file []byte
		want []login
	}{
		{"empty", nil, nil},
		{"usual", join(record(384, boot, "~", ""), record(384, user, "pts/0", "192.0.2.1"), record(384, dead, "pts/1", "192.0.2.2")),
			[]login{{"pts/0", "192.0.2.1"}}},
		{"long", join(record(400, user, "pts/0", "2001:db8::1"), record(400, user, "pts/7", "host")),
			[]login{{"pts/0", "2001:db8::1"}, {"pts/7", "host"}}},
		{"no zero at the ends", record(384, user, strings.Repeat("l", 40), full+"behind"), []login{{strings.Repeat("l", 32), full}}},
		{"cut short", record(384, user, "pts/0", "192.0.2.1")[:383], nil},
		{"a half behind", join(record(384, user, "pts/0", "192.0.2.1"), make([]byte, 20)), []login{{"pts/0", "192.0.2.1"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, parseUtmp(c.file), all); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseSession(t *testing.T) {
	for _, c := range []struct {
		file string
		want login
	}{
		{"# This is private data. Do not parse.\nUID=1000\nACTIVE=1\nREMOTE=1\nTTY=pts/0\nREMOTE_HOST=192.0.2.1\nLEADER=7\n", login{"pts/0", "192.0.2.1"}},
		{"REMOTE_HOST=fe80::1%eth0\nTTY=pts/0", login{"pts/0", "fe80::1%eth0"}},
		{"TTY=tty1\n", login{"tty1", ""}},
		{"TTY\n=\n==\nTTYX=pts/1", login{}},
		{"", login{}},
	} {
		if got := parseSession(c.file); got != c.want {
			t.Errorf("%q: %v, want %v", c.file, got, c.want)
		}
	}
}

// Lines in the form that /proc/net/tcp and tcp6 have on a little-endian machine.
const (
	accepted = "   3: 0100A8C0:0016 6402A8C0:9138 01 00000000:00000000 02:000AD3D1 00000000     0        0 8163 2 0000000000000000 20 4 31 10 -1"
	listens  = "   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 8162 1 0000000000000000 100 0 0 10 0"
	waits    = "   9: 0100A8C0:0016 6402A8C0:9137 06 00000000:00000000 03:00001770 00000000     0        0 0 3 0000000000000000"
	heading  = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
	six      = "   1: 000000FD010000000000000001000000:0016 000000FD010000000000000000010000:9139 01 00000000:00000000 00:00000000 00000000  1000        0 77 1 0"
	mapped   = "   2: 0000000000000000FFFF00000100A8C0:0016 0000000000000000FFFF00006402A8C0:9138 01 00000000:00000000 00:00000000 00000000     0        0 8 1 0"
)

func TestParseSocket(t *testing.T) {
	for _, c := range []struct {
		name, line  string
		peer, local string
		user        uint32
		inode       uint64
	}{
		{"accepted", accepted, "192.168.2.100:37176", "192.168.0.1:22", 0, 8163},
		{"IPv6", six, "[fd00:0:0:1::100]:37177", "[fd00:0:0:1::1]:22", 1000, 77},
		{"IPv4 in IPv6", mapped, "[::ffff:192.168.2.100]:37176", "[::ffff:192.168.0.1]:22", 0, 8},
		{"listens", listens, "", "", 0, 0},
		{"without a socket", waits, "", "", 0, 0},
		{"heading", heading, "", "", 0, 0},
		{"empty", "", "", "", 0, 0},
		{"short", accepted[:90], "", "", 0, 0},
		{"address of 3 bytes", strings.Replace(accepted, "0100A8C0", "0100A8", 1), "", "", 0, 0},
		{"address of 8 bytes", strings.Replace(accepted, "0100A8C0", "0100A8C00100A8C0", 1), "", "", 0, 0},
		{"port of 17 bits", strings.Replace(accepted, "0016", "10016", 1), "", "", 0, 0},
		{"user is no number", strings.Replace(accepted, "     0        0 8163", "     -1        0 8163", 1), "", "", 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := parseSocket([]byte(c.line))
			if ok != (c.peer != "") {
				t.Fatalf("%v %v", got, ok)
			}
			if !ok {
				return
			}
			want := socket{netip.MustParseAddrPort(c.local), netip.MustParseAddrPort(c.peer), c.user, c.inode}
			if got != want {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
}

// A connection counts when a visited process holds it. When a variable claims
// it or it comes from a known host, then only if its socket's user is known.
func TestTable(t *testing.T) {
	ours := conntrack.Tuple{Proto: conntrack.ProtoTCP, Src: netip.MustParseAddr("192.168.2.100"), SrcPort: 37176,
		Dst: netip.MustParseAddr("192.168.0.1"), DstPort: 22}
	gone := ours
	gone.SrcPort-- // waits: it is over
	theirs := strings.Replace(accepted, "     0        0 8163", "  1001        0 8163", 1)
	for _, c := range []struct {
		name, line string
		prepare    func(*search)
		held       bool
		want       int
	}{
		{"nothing known", accepted, func(*search) {}, false, 0},
		{"held", theirs, func(s *search) { s.inodes[8163] = true }, true, 1},
		{"claimed", accepted, func(s *search) { s.claims[ours] = true }, false, 1},
		{"claimed, IPv4 in IPv6", mapped, func(s *search) { s.claims[ours] = true }, false, 1},
		{"claimed, somebody else's", theirs, func(s *search) { s.claims[ours] = true }, false, 0},
		{"claimed, over", waits, func(s *search) { s.claims[gone] = true }, false, 0},
		{"host", accepted, func(s *search) { s.hosts[ours.Src] = true }, true, 1},
		{"host, somebody else's", theirs, func(s *search) { s.hosts[ours.Src] = true }, false, 0},
		{"other host", accepted, func(s *search) { s.hosts[ours.Dst] = true }, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSearch()
			s.users = map[uint32]bool{0: true}
			c.prepare(s)
			held := s.table(strings.NewReader(heading + "\n" + c.line + "\n"))
			if held != c.held || len(s.tuples()) != c.want {
				t.Errorf("held %v, found %v", held, s.tuples())
			}
			if c.want == 1 && !s.found[ours] {
				t.Errorf("found %v", s.tuples())
			}
		})
	}
}

func TestConnection(t *testing.T) {
	for _, c := range []struct{ value, want string }{
		{"192.0.2.1 40000 192.0.2.2 22", "192.0.2.1:40000 192.0.2.2:22"},
		{"2001:db8::1 40000 2001:db8::2 22", "[2001:db8::1]:40000 [2001:db8::2]:22"},
		{"fe80::1%eth0 40000 fe80::2%eth0 22", "[fe80::1]:40000 [fe80::2]:22"},
		{"::ffff:192.0.2.1 40000 192.0.2.2 22", "192.0.2.1:40000 192.0.2.2:22"},
		{"UNKNOWN 65535 UNKNOWN 65535", ""}, // sshd without a peer
		{"192.0.2.1 40000 192.0.2.2", ""},
		{"192.0.2.1 40000 192.0.2.2 22 x", ""},
		{"192.0.2.1 70000 192.0.2.2 22", ""},
		{"192.0.2.1 40000 192.0.2.2 -1", ""},
		{"", ""},
	} {
		s := newSearch()
		s.connection(c.value)
		got := ""
		for u := range s.claims {
			got = netip.AddrPortFrom(u.Src, u.SrcPort).String() + " " + netip.AddrPortFrom(u.Dst, u.DstPort).String()
		}
		if got != c.want {
			t.Errorf("%q: %q, want %q", c.value, got, c.want)
		}
		if got := len(s.tuples()); (got == 1) != (c.want != "") { // no table was read
			t.Errorf("%q: %d tuples without a table", c.value, got)
		}
	}
}

func TestLinks(t *testing.T) {
	for _, c := range []struct {
		link     string
		inode    uint64
		terminal int // -1: none
	}{
		{"socket:[123]", 123, -1},
		{"socket:[x]", 0, -1},
		{"socket:[", 0, -1},
		{"socket:[18446744073709551616]", 0, -1},
		{"pts/0", 0, 0},
		{"pts/", 0, -1},
		{"pts/ptmx", 0, -1},
		{"pts/-1", 0, -1},
		{"pts/+1", 0, -1},
		{"pts/2147483648", 0, -1},
		{"/dev/pts/3 (deleted)", 0, -1},
	} {
		inode, ok := socketInode(c.link)
		if ok != (c.inode != 0) || ok && inode != c.inode {
			t.Errorf("%q: socket %d %v", c.link, inode, ok)
		}
		terminal, ok := pseudoTerminal(c.link)
		if ok != (c.terminal >= 0) || ok && terminal != c.terminal {
			t.Errorf("%q: terminal %d %v", c.link, terminal, ok)
		}
	}
}

// FuzzParsers reads what other processes have a say in. Whatever it is, nothing
// panics, and what is read fits what it is for.
func FuzzParsers(f *testing.F) {
	for _, s := range []string{
		"42 (a) R 1 (b c) S 7 9 9 34819 9 4194560 1 2", "Uid:\t1000\t0\t0\t0\n", "TTY=pts/0\nREMOTE_HOST=192.0.2.1\n",
		accepted, listens, waits, heading, six, mapped, "192.0.2.1 40000 192.0.2.2 22", "fe80::1%eth0 1 ::ffff:192.0.2.1 2",
		"pts/3", "socket:[7]", string(record(384, 7, "pts/0", "192.0.2.1")), string(record(400, 7, "pts/0", "192.0.2.1")),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, ok := parseProcess(1, b); ok && p.terminal < -1 {
			t.Errorf("terminal %d", p.terminal)
		}
		parseUsers(b)
		parseSession(string(b))
		for _, l := range parseUtmp(b) {
			if len(l.line) > 32 || len(l.host) > 256 {
				t.Errorf("record %q", l)
			}
		}
		if c, ok := parseSocket(b); ok && (c.inode == 0 || !c.peer.IsValid() || !c.local.IsValid() || c.peer.Port() == 0) {
			t.Errorf("socket %+v", c)
		}
		if n, ok := pseudoTerminal(string(b)); ok && n < 0 {
			t.Errorf("terminal %d", n)
		}
		socketInode(string(b))
		s := newSearch()
		s.connection(string(b))
		for u := range s.claims {
			if u.Src.Is4In6() || u.Src.Zone() != "" || !u.Src.IsValid() || !u.Dst.IsValid() {
				t.Errorf("claim %v", u)
			}
		}
	})
}

// FuzzTable: no table makes a connection of somebody else's count.
func FuzzTable(f *testing.F) {
	for _, line := range []string{accepted, listens, waits, heading, six, mapped} {
		f.Add([]byte(line + "\n" + accepted))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newSearch()
		s.users = map[uint32]bool{}
		s.connection("192.168.2.100 37176 192.168.0.1 22")
		s.hosts[netip.MustParseAddr("192.168.2.100")] = true
		s.seen = true
		if s.table(strings.NewReader(string(b))) || len(s.tuples()) != 0 {
			t.Errorf("found %v", s.tuples())
		}
	})
}
