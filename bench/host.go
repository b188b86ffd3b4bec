//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"

	"golang.org/x/sys/unix"
)

// spare is how many flows fit beside those of the benchmark.
const spare = 1 << 16

// limits are what holds for the tables of all namespaces and can be set in the
// host's alone.
type limits struct {
	max     int // flows in a namespace
	buckets int // of the hash table that all share
}

// readLimits reads the limits of the thread's namespace.
func readLimits() (limits, error) {
	most, err := read(maxName)
	if err != nil {
		return limits{}, fmt.Errorf("read the size of the tracking table: %w; modprobe nf_conntrack if it is not loaded", err)
	}
	buckets, err := read(bucketsName)
	return limits{most, buckets}, err
}

func (l limits) String() string {
	return fmt.Sprintf("nf_conntrack_max=%d nf_conntrack_buckets=%d", l.max, l.buckets)
}

// set sets the limits.
func (l limits) set() error {
	if err := errors.Join(write(maxName, l.max), write(bucketsName, l.buckets)); err != nil {
		return fmt.Errorf("set %v: %w; run as root, in the host's own network namespace", l, err)
	}
	return nil
}

// host raises the limits, and puts them back.
type host struct {
	was, now limits
	has      limits         // what the kernel made of now: it rounds buckets up
	keeper   *exec.Cmd      // nil while nothing was raised
	hold     io.WriteCloser // the keeper acts when this is closed, by us or by our death
}

func newHost() (*host, error) {
	l, err := readLimits()
	return &host{was: l, now: l, has: l}, err
}

// raise makes room for a table of n flows, with a bucket for each: the kernel,
// too, has as many buckets as flows if it is left alone. It never lowers them.
func (h *host) raise(n int) error {
	want := limits{max(h.was.max, n+spare), max(h.was.buckets, n)}
	if want == h.now {
		return nil
	}
	if h.keeper == nil {
		if err := h.keep(); err != nil {
			return fmt.Errorf("start who puts the limits back: %w", err)
		}
	}
	say("sets the host's %v; they were %v and will be again", want, h.was)
	if err := want.set(); err != nil {
		return err
	}
	h.now = want
	var err error
	h.has, err = readLimits()
	return err
}

// disturbed is an error if somebody else has changed the limits, such as another
// benchmark on the same machine.
func (h *host) disturbed() error {
	l, err := readLimits()
	if err != nil || l == h.has {
		return err
	}
	return fmt.Errorf("the host has %v and not %v: somebody has changed it; is there another benchmark on this machine?", l, h.has)
}

// keep starts a process that puts the limits back once this one has ended,
// however it ends.
func (h *host) keep() error {
	cmd := exec.Command("/proc/self/exe", keeperName, strconv.Itoa(h.was.max), strconv.Itoa(h.was.buckets))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true} // Ctrl-C is not for it
	var err error
	if h.hold, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	h.keeper = cmd
	return nil
}

// restore puts the limits back and waits until it is done.
func (h *host) restore() error {
	if h.keeper == nil {
		return nil
	}
	return errors.Join(h.hold.Close(), h.keeper.Wait())
}

// keeperName as first argument makes the program a keeper.
const keeperName = "keep-limits"

// keeper waits for the end of its standard input, then sets the limits that
// its arguments say. It returns the exit code.
func keeper(args []string) int {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
	_, _ = io.Copy(io.Discard, os.Stdin)
	var l limits
	_, err := fmt.Sscan(args[0]+" "+args[1], &l.max, &l.buckets)
	if err == nil {
		err = l.set()
	}
	if err != nil {
		say("cannot put the host's limits back: %v", err)
		return 1
	}
	say("the host has %v again", l)
	return 0
}
