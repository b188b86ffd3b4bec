package doctor

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// right is what a capability is for.
type right struct {
	name    string
	lacking State
	means   string // without it
}

var rights = map[int]right{
	unix.CAP_NET_ADMIN: {"CAP_NET_ADMIN", Fail, "flows can neither be listed nor cut"},
	unix.CAP_NET_RAW:   {"CAP_NET_RAW", Fail, "no end can be asked whether it is dead: cut refuses, but for --no-kick and --silent"},
	unix.CAP_SYS_ADMIN: {"CAP_SYS_ADMIN", Note,
		"--netns is out of reach, the kernel's filters are not tried, so that some lists take longer, and programs of BPF have no names"},
	unix.CAP_SYS_PTRACE: {"CAP_SYS_PTRACE", Note,
		"sockets of other users are not seen: a cut may not know the SSH session that it is run through, and says so"},
	unix.CAP_DAC_READ_SEARCH: {"CAP_DAC_READ_SEARCH", Note,
		"what waits in NFQUEUEs is not seen, so that no cut is proven where there are any, nor are the rules of iptables-legacy"},
	unix.CAP_SYS_NICE: {"CAP_SYS_NICE", Note, "a busy machine may delay the fence"},
}

// capability looks whether the caller holds one.
func capability(number int) func(*visit) (finding, error) {
	return func(*visit) (finding, error) {
		held, err := effective()
		if err != nil {
			return finding{}, err
		}
		return judgeCapability(rights[number], held&(1<<number) != 0, os.Geteuid() == 0)
	}
}

func judgeCapability(r right, held, root bool) (finding, error) {
	switch {
	case held:
		return fine("held")
	case r.name == "CAP_DAC_READ_SEARCH" && root:
		return fine("not held, and not needed by root")
	}
	f := finding{state: r.lacking, found: r.name + " is not held", means: r.means, do: "run it as root, or give it " + r.name}
	if r.lacking == Fail {
		return f, os.ErrPermission
	}
	return f, nil
}

// effective returns the capabilities of the calling thread, a bit each.
func effective() (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("ask for capabilities: %w", err)
	}
	return uint64(data[0].Effective) | uint64(data[1].Effective)<<32, nil
}
