package cli

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// hurry keeps the goroutine on a thread of the best priority, as far as that
// is permitted, until calm is called. On a loaded gateway each wait for a
// processor before the fence is up is time in which packets get through that
// should not; afterwards the gateway's own work comes first.
func hurry() (calm func()) {
	const best = -20
	const bias = 20 // the system call returns 20 - nice
	runtime.LockOSThread()
	was, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err == nil {
		err = unix.Setpriority(unix.PRIO_PROCESS, 0, best)
	}
	return func() {
		if err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, 0, bias-was)
		}
		runtime.UnlockOSThread()
	}
}
