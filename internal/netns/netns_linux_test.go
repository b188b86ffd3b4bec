package netns

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// inode tells which namespace the calling thread is in.
func inode(t *testing.T) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestDo(t *testing.T) {
	ns, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home := inode(t)
	want := errors.New("from inside")
	var names []string
	err = ns.Do(func() error {
		links, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, l := range links {
			names = append(names, l.Name)
		}
		return want
	})
	if !errors.Is(err, want) {
		t.Fatalf("Do returned %v, want %v", err, want)
	}
	if len(names) != 1 || names[0] != "lo" {
		t.Fatalf("a new namespace has links %v, want lo alone", names)
	}
	if got := inode(t); got != home {
		t.Fatalf("caller is in namespace %d after Do, was in %d", got, home)
	}
}

func TestDoNil(t *testing.T) {
	called := false
	if err := (*NS)(nil).Do(func() error { called = true; return nil }); err != nil || !called {
		t.Fatalf("nil Do: called %v, error %v", called, err)
	}
}

// Threads that were inside a namespace must all be back in the process's own.
func TestDoLeavesNoThreadBehind(t *testing.T) {
	ns, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	for range 50 {
		if err := ns.Do(func() error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	home := inode(t)
	threads, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(threads) == 0 {
		t.Fatalf("threads: %v, %v", threads, err)
	}
	for _, path := range threads {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // the thread has ended meanwhile
		} else if err != nil {
			t.Fatal(err)
		}
		if st.Ino != home {
			t.Errorf("%s is still in namespace %d", path, st.Ino)
		}
	}
}

func TestDoGoexit(t *testing.T) {
	ns, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := ns.Do(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Fatal("a function that ended its goroutine gave no error")
	}
}

func TestOpen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		which, err string // err is a part of the message, "" for success
		missing    bool
	}{
		{which: strconv.Itoa(os.Getpid())},
		{which: "/proc/self/ns/net"},
		{which: "", err: "empty name"},
		{which: "no-such-namespace", err: "/run/netns/no-such-namespace", missing: true},
		{which: "4194305", err: "/proc/4194305/ns/net", missing: true},
		{which: "a/b", err: "neither a name"},
		{which: "..", err: "neither a name"},
		{which: file, err: "not a network namespace"},
		{which: "/proc/self/ns/mnt", err: "not a network namespace"},
	} {
		t.Run(tt.which, func(t *testing.T) {
			ns, err := Open(tt.which)
			defer func() { _ = ns.Close() }() // also nil
			if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("error %v, want one with %q", err, tt.err)
			}
			if errors.Is(err, os.ErrNotExist) != tt.missing {
				t.Fatalf("error %v: is ErrNotExist is %v, want %v", err, !tt.missing, tt.missing)
			}
		})
	}
}
