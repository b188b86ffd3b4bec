//go:build linux

package serve

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// token is what allows a cut: its hash, so that a comparison takes the same time
// whatever it is compared with.
type token [sha256.Size]byte

func newToken(s string) token { return sha256.Sum256([]byte(s)) }

func (t token) is(s string) bool {
	given := newToken(s)
	return subtle.ConstantTimeCompare(t[:], given[:]) == 1
}

// NewToken makes a token that nobody guesses.
func NewToken() string { return rand.Text() }

// leastToken is how short a token may be that somebody has thought of.
const leastToken = 20

// ReadToken reads the token in a file that nobody but its owner may read or write:
// that is us or root. The group root may read it, as systemd's credentials have it.
func ReadToken(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe is not waited for
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // nothing was written to it
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", err
	}
	const others, groupReads, groupWrites = 0o007, 0o040, 0o020
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return "", errors.New("is no regular file")
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return "", fmt.Errorf("belongs to user %d, not to root or to us", st.Uid)
	case st.Mode&others != 0 || st.Mode&groupWrites != 0 || st.Mode&groupReads != 0 && st.Gid != 0:
		return "", fmt.Errorf("has mode %#o: others than its owner may use it", st.Mode&0o777)
	}
	const most = 4096
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return "", err
	}
	if len(b) > most {
		return "", fmt.Errorf("is longer than %d bytes", most)
	}
	b = bytes.TrimSpace(b)
	if len(b) < leastToken || bytes.ContainsFunc(b, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("does not hold one word of %d visible ASCII characters or more", leastToken)
	}
	return string(b), nil
}
