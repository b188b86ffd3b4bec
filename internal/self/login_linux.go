package self

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// login is a record of who came to a terminal.
type login struct {
	line string // the terminal, such as pts/0
	host string // where the user came from: an address or a name
}

// logins takes down from where the users of the known terminals came. Anyone
// may read that. Each connection from there is taken to be meant.
func (s *search) logins() {
	utmp, _ := os.ReadFile("/run/utmp")
	for _, l := range append(parseUtmp(utmp), logindSessions("/run/systemd/sessions")...) {
		terminal, ok := pseudoTerminal(l.line)
		if !ok || !s.terminals[terminal] {
			continue
		}
		if host, err := netip.ParseAddr(l.host); err == nil {
			s.hosts[plain(host)] = true
		}
	}
}

// parseUtmp reads utmp(5), as the C library of GNU lays it out.
func parseUtmp(b []byte) []login {
	const (
		user        = 7          // USER_PROCESS
		line, host  = 8, 76      // ut_line, ut_host
		lineEnd     = line + 32  // UT_LINESIZE
		hostEnd     = host + 256 // UT_HOSTSIZE
		usual, long = 384, 400   // where ut_session and ut_tv have 32 bits, and 64
	)
	size := usual
	if len(b)%usual != 0 && len(b)%long == 0 {
		size = long
	}
	var out []login
	for ; len(b) >= size; b = b[size:] {
		if binary.NativeEndian.Uint16(b) == user {
			out = append(out, login{text(b[line:lineEnd]), text(b[host:hostEnd])})
		}
	}
	return out
}

// text is what stands before the first zero.
func text(b []byte) string {
	before, _, _ := bytes.Cut(b, []byte{0})
	return string(before)
}

// logindSessions reads what systemd-logind keeps of its sessions, each a file
// of assignments.
func logindSessions(dir string) []login {
	var out []login
	list, _ := names(dir)
	for _, name := range list {
		if _, err := strconv.Atoi(strings.TrimLeft(name, "c")); err != nil {
			continue // the pipe beside it, N.ref, which blocks who opens it
		}
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		out = append(out, parseSession(string(b)))
	}
	return out
}

func parseSession(s string) login {
	var l login
	for line := range strings.Lines(s) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "TTY":
			l.line = value
		case "REMOTE_HOST":
			l.host = value
		}
	}
	return l
}
