// Package privilege gives up the rights that the program has and does not need.
package privilege

import (
	"fmt"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// kept are the capabilities that the program has a use for. Without those after
// the first two it does less, or takes longer, and says so.
var kept = []cap.Value{
	cap.NET_ADMIN,       // conntrack, nf_tables, routes
	cap.NET_RAW,         // probes to the ends
	cap.SYS_ADMIN,       // other network namespaces, and trying kernel filters in one; names of BPF programs
	cap.SYS_PTRACE,      // sockets and environments of ancestors under other users
	cap.DAC_READ_SEARCH, // the same, files of others that hold lists, the file of queues
	cap.SYS_NICE,        // priority until the fence is up
}

// Drop gives up, for all threads and for good, all capabilities but those that
// the program has a use for, and the way to gain any by running another
// program. It takes none on. What the process can still do it may hand on: an
// ambient capability that is kept stays ambient.
//
// An error is the kernel's refusal, as a filter of system calls may make it;
// then some or all are held as before.
func Drop() error {
	// Running a program as root would bring back what the bounding set allows,
	// running a set-user-ID one its owner's rights. Not after this.
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("privilege: set no_new_privs: %w", err)
	}
	now, next := cap.GetProc(), cap.NewSet()
	for _, flag := range []cap.Flag{cap.Permitted, cap.Effective, cap.Inheritable} {
		for _, c := range kept {
			held, err := now.GetFlag(flag, c)
			if err == nil && held {
				err = next.SetFlag(flag, true, c)
			}
			if err != nil {
				return fmt.Errorf("privilege: look at %v: %w", c, err)
			}
		}
	}
	if err := next.SetProc(); err != nil {
		return fmt.Errorf("privilege: set capabilities to %q: %w", next, err)
	}
	return nil
}
