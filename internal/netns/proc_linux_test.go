package netns

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// What cannot be looked for is not taken for absent.
func TestProcNotMounted(t *testing.T) {
	const lacking = "/proc/thread-self/net/no_such_file"
	if b, err := Proc("/proc/thread-self/net/netlink"); err != nil || len(b) == 0 {
		t.Errorf("a file: %d bytes, error %v", len(b), err)
	}
	if _, err := Proc(lacking); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that the kernel does not have: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and it ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			t.Error(err)
			return
		}
		err := errors.Join(
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("none", "/proc", "tmpfs", 0, ""))
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := Proc(lacking); err == nil || errors.Is(err, os.ErrNotExist) {
			t.Errorf("without /proc: %v", err)
		}
	}()
	<-done
}
