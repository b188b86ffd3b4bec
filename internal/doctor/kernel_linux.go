package doctor

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/rtnl"
)

// The least kernel for a cut.
const leastMajor, leastMinor = 5, 15

// oldEnough tells whether a release such as "6.1.0-18-amd64" is at least the
// least kernel; known is false if it has no number.
func oldEnough(release string) (enough, known bool) {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return false, false
	}
	return major > leastMajor || major == leastMajor && minor >= leastMinor, true
}

func lookAtVersion(v *visit) (finding, error) { return judgeVersion(v.kernel), nil }

func judgeVersion(release string) finding {
	enough, known := oldEnough(release)
	f := finding{found: "Linux " + release}
	switch {
	case !known:
		f.state, f.means = Warning, "the release has no number, so what this kernel can do is known from trying alone"
	case !enough:
		f.state = Fail
		f.means = "tables with an owner, and what the fence asks of connection tracking, are certain from Linux 5.15 on"
		f.do = "boot Linux 5.15 or newer"
	}
	return f
}

func lookAtCtnetlink(v *visit) (finding, error) {
	err := v.withConntrack(0, func(c *conntrack.Client) error {
		_, err := c.Count(v.ctx)
		return err
	})
	if err == nil {
		return fine("connection tracking answers")
	}
	if errors.Is(err, os.ErrPermission) {
		return finding{}, err
	}
	return finding{
		state: Fail, found: err.Error(),
		means: "flows can neither be listed nor deleted",
		do:    "modprobe nf_conntrack_netlink",
	}, err
}

// withConntrack calls f with a client in the namespace of a descriptor.
func (v *visit) withConntrack(fd int, f func(*conntrack.Client) error) error {
	c, err := conntrack.Dial(conntrack.Config{NetNS: fd})
	if err != nil {
		return err
	}
	return errors.Join(f(c), c.Close())
}

// untried is what is said of a feature that needs a scratch namespace to be
// tried, where none can be had.
func (v *visit) untried(err error) (finding, error) {
	if !errors.Is(err, os.ErrPermission) {
		return finding{}, err
	}
	f := finding{state: Note, found: "not tried, for want of CAP_SYS_ADMIN"}
	f.means = "it takes a namespace to try it in. Judged by its version this kernel can do it, if it was built so"
	if enough, _ := oldEnough(v.kernel); !enough {
		f.means = "it takes a namespace to try it in. Judged by its version this kernel may not be able to do it"
	}
	f.do = "run it as root to know"
	return f, nil
}

func lookAtFilter(v *visit) (finding, error) {
	if _, err := v.lab.fd(); err != nil {
		return v.untried(err)
	}
	s, err := conntrack.ProbeFilter()
	if err != nil {
		return finding{}, err
	}
	return judgeFilter(s), nil
}

func judgeFilter(s conntrack.Support) finding {
	var unable []string
	for _, part := range []struct {
		name string
		can  bool
	}{
		{"IPv4 addresses and ports", s.TupleIPv4}, {"IPv6 ports", s.PortsIPv6},
		{"status", s.Status}, {"mark", s.Mark}, {"zone", s.Zone},
	} {
		if !part.can {
			unable = append(unable, part.name)
		}
	}
	if unable == nil {
		return finding{found: "narrows lists by all that it can"}
	}
	return finding{
		state: Note, found: "does not narrow lists by " + strings.Join(unable, ", "),
		means: "flowcut compares these itself: selections by them take longer in a large table, and are no less right",
	}
}

func lookAtFilterIPv6(v *visit) (finding, error) {
	fd, err := v.lab.fd()
	if err != nil {
		return v.untried(err)
	}
	got, err := v.tryFilterIPv6(fd)
	return judgeFilterIPv6(got), err
}

// filterIPv6 is what the kernel answers when it is asked for one IPv6 address.
type filterIPv6 struct{ wanted, other bool }

func judgeFilterIPv6(got filterIPv6) finding {
	const means = "flowcut compares IPv6 addresses itself; programs that ask the kernel list, or delete, what was not meant"
	switch {
	case got.wanted && !got.other:
		return finding{found: "compares IPv6 addresses rightly"}
	case got.other && !got.wanted:
		return finding{state: Note, found: "inverted: asked for one address it sends all others", means: means}
	}
	return finding{state: Note, found: "does not compare IPv6 addresses", means: means}
}

func lookAtDeleteID(v *visit) (finding, error) {
	fd, err := v.lab.fd()
	if err != nil {
		return v.untried(err)
	}
	honoured, err := v.tryDeleteID(fd)
	return judgeDeleteID(honoured), err
}

func judgeDeleteID(honoured bool) finding {
	if honoured {
		return finding{found: "a deletion spares entries with another ID"}
	}
	return finding{
		state: Fail, found: "a deletion does not look at the ID",
		means: "a new connection on the addresses and ports of a cut one could be deleted in its place",
		do:    "boot Linux 5.15 or newer",
	}
}

func lookAtLabels(v *visit) (finding, error) {
	fd, err := v.lab.fd()
	if err != nil {
		return v.untried(err)
	}
	has, err := v.tryLabels(fd)
	return judgeLabels(has), err
}

func judgeLabels(has bool) finding {
	if has {
		return finding{found: "flows can have labels"}
	}
	return finding{state: Note, found: "this kernel has no labels", means: "nothing matches --label"}
}

func lookAtExtAck(*visit) (finding, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		if rtnl.Missing(err) {
			err = fmt.Errorf("no nfnetlink: %w", err)
		}
		return finding{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	return judgeExtAck(unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)), nil
}

func judgeExtAck(err error) finding {
	if err != nil {
		return finding{state: Note, found: "the kernel does not explain its refusals", means: "errors have a number without words"}
	}
	return finding{found: "the kernel explains its refusals"}
}

func lookAtMembarrier(*visit) (finding, error) {
	const query, global = 0, 1 // MEMBARRIER_CMD_QUERY, MEMBARRIER_CMD_GLOBAL
	can, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, query, 0, 0)
	return judgeMembarrier(errno == 0 && can&global != 0), nil
}

func judgeMembarrier(has bool) finding {
	if has {
		return finding{found: "waits for packets under way"}
	}
	return finding{
		state: Note, found: "no membarrier, as with nohz_full",
		means: "a cut waits 50 ms instead, until no packet can be under way that the fence has not seen",
	}
}
