package cli

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// hurry gives all threads of the process the best priority, as far as that is
// permitted, until calm is called. On a loaded gateway each wait for a
// processor before the fence is up is time in which packets get through that
// should not; afterwards the gateway's own work comes first.
func hurry() (calm func()) {
	const best = -20
	const bias = 20 // the system call returns 20 - nice
	was, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		return func() {}
	}
	nice := func(n int) {
		_, _, _ = syscall.AllThreadsSyscall(unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, 0, uintptr(n))
	}
	nice(best)
	return func() { nice(bias - was) }
}
