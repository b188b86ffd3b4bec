package conntrack

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// inNewNetNS moves the test into a network namespace of its own, which ends
// with it: the thread is never given back.
func inNewNetNS(t testing.TB) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
}

// dialTest returns a client in a network namespace of the test's own.
func dialTest(t testing.TB) *Client {
	t.Helper()
	inNewNetNS(t)
	c, err := Dial(Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}
