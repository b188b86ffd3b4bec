package cli

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// hurry gives the program the best priority, as far as that is permitted, until
// calm is called. On a loaded gateway each wait for a processor before the fence
// is up is time in which packets get through that should not; afterwards the
// gateway's own work comes first.
func hurry() (calm func()) {
	const best = -20
	const bias = 20 // the system call returns 20 - nice
	was, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		return func() {}
	}
	renice(best)
	return func() { renice(bias - was) }
}

// renice sets the priority of all threads. Those that begin later have that of
// the thread that starts them.
func renice(nice int) {
	const own = "0"
	tasks := []string{own}
	if entries, err := os.ReadDir("/proc/self/task"); err == nil {
		for _, e := range entries {
			tasks = append(tasks, e.Name())
		}
	}
	for _, task := range tasks {
		if id, err := strconv.Atoi(task); err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, id, nice) // as far as it is permitted
		}
	}
}
