package usock

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Of many who find a stale socket one replaces it, and can be reached.
func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for round := range 50 {
		stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		if err != nil {
			t.Fatal(err)
		}
		stale.SetUnlinkOnClose(false)
		_ = stale.Close()
		const many = 8
		var all [many]*net.UnixListener
		var errs [many]error
		var g sync.WaitGroup
		for i := range all {
			g.Go(func() { all[i], errs[i] = Listen(path, 0o600) })
		}
		g.Wait()
		listening := 0
		for i, err := range errs {
			if err == nil {
				listening++
				defer all[i].Close()
			} else if !errors.Is(err, unix.EADDRINUSE) {
				t.Error(err)
			}
		}
		c, err := net.Dial("unix", path)
		if listening != 1 || err != nil {
			t.Fatalf("round %d: %d listen, %v", round, listening, err)
		}
		_ = c.Close()
		for _, l := range all {
			if l != nil {
				_ = l.Close()
			}
		}
	}
}

// A directory that somebody keeps locked is not waited for for ever.
func TestLocked(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(filepath.Join(dir.Name(), "s"), 0o600); err == nil || !strings.Contains(err.Error(), "lock the directory") {
		t.Error(err)
	}
}
