//go:build linux && amd64

package faults

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab"
)

// Offsets in struct msghdr and struct mmsghdr on amd64.
const (
	msgIov     = 16
	msgFlags   = 48
	mmsgLen    = 56
	sizeofMmsg = 64
)

// begin makes a fault at the beginning of a call.
func (t *tracer) begin(tid int, c *call, regs *unix.PtraceRegs) error {
	t.out.Injected, t.done = true, true
	switch c.inject {
	case Kill:
		return unix.Kill(t.pid, unix.SIGKILL)
	case NetNS:
		return t.Vanish()
	case Short:
		return t.shorten(tid, c, regs)
	}
	if _, ok := errnos[c.inject]; ok && !c.happens() {
		regs.Orig_rax = ^uint64(0) // no call at all
		return unix.PtraceSetRegs(tid, regs)
	}
	return nil
}

// happens tells whether the call is made before its error: what is closed is
// gone whatever close says, and what a receive has lost is lost.
func (c *call) happens() bool {
	switch c.form {
	case closing:
		return true
	case recvfrom, recvmsg, recvmmsg:
		return c.inject == NoBufs
	}
	return false
}

// shorten makes a send shorter than it was asked for. One message among
// messages cannot be.
func (t *tracer) shorten(tid int, c *call, regs *unix.PtraceRegs) error {
	switch c.form {
	case sendto:
		regs.Rdx = half(regs.Rdx)
	case sendmmsg:
		t.out.Injected = regs.Rdx > 1
		regs.Rdx = max(1, regs.Rdx/2) // of the messages, as the kernel does
	case sendmsg:
		iov := word(tid, c.args[1]+msgIov)
		whole := word(tid, iov+8)
		c.undo = func() error { return setWord(tid, iov+8, whole) }
		return setWord(tid, iov+8, half(whole))
	default:
		return nil // receives are shortened when there is something
	}
	return unix.PtraceSetRegs(tid, regs)
}

// half is about half of a length, never at the end of an inner message: those
// are aligned to four.
func half(n uint64) uint64 { return min(n, n/2|1) }

func word(pid int, at uint64) uint64 {
	var b [8]byte
	readMemory(pid, at, b[:])
	return binary.NativeEndian.Uint64(b[:])
}

func setWord(pid int, at, v uint64) error {
	return writeMemory(pid, at, binary.NativeEndian.AppendUint64(nil, v))
}

func setWord32(pid int, at uint64, v uint32) error {
	return writeMemory(pid, at, binary.NativeEndian.AppendUint32(nil, v))
}

// finish makes a fault at the end of a call.
func (t *tracer) finish(tid int, c *call, result int64) (detached bool, err error) {
	if c.undo != nil {
		if err := c.undo(); err != nil {
			return false, err
		}
	}
	if errno, ok := errnos[c.inject]; ok {
		return false, setResult(tid, -int64(errno))
	}
	switch c.inject {
	case Stop, StopKill:
		return true, t.stop(tid, c.inject == StopKill)
	case Short, Truncated:
		if c.form < recvfrom {
			return false, nil // it was shortened before it was sent
		}
		if t.out.Injected = result > 0; !t.out.Injected {
			return false, nil // there was nothing
		}
		if c.inject == Short {
			return false, c.cut(tid, result)
		}
		return false, c.truncate(tid, result)
	}
	return false, nil
}

// setResult makes a call return something else.
func setResult(tid int, v int64) error {
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &regs); err != nil {
		return err
	}
	regs.Rax = uint64(v)
	return unix.PtraceSetRegs(tid, &regs)
}

// cut makes a receive return half of what there was.
func (c *call) cut(tid int, result int64) error {
	switch c.form {
	case recvfrom, recvmsg, read:
		return setResult(tid, int64(half(uint64(result))))
	case recvmmsg:
		at := c.args[1] + uint64(result-1)*sizeofMmsg + mmsgLen // the last message
		n := uint32(word(tid, at))
		return setWord32(tid, at, uint32(half(uint64(n))))
	}
	return nil
}

// truncate makes a receive say that there was more than room for it.
func (c *call) truncate(tid int, result int64) error {
	switch c.form {
	case recvfrom:
		if c.args[3]&unix.MSG_TRUNC != 0 { // it asks for the whole length
			return setResult(tid, int64(2*c.args[2]))
		}
	case recvmsg:
		return setWord32(tid, c.args[1]+msgFlags, uint32(word(tid, c.args[1]+msgFlags))|unix.MSG_TRUNC)
	case recvmmsg:
		at := c.args[1] + uint64(result-1)*sizeofMmsg + msgFlags
		return setWord32(tid, at, uint32(word(tid, at))|unix.MSG_TRUNC)
	}
	return nil
}

// stop stops the program as SIGSTOP does, lets go of it, and ends that.
func (t *tracer) stop(tid int, kill bool) error {
	if err := unix.Kill(t.pid, unix.SIGSTOP); err != nil {
		return err
	}
	// The stop stays when who traces lets go (ptrace(2)).
	if err := unix.PtraceDetach(tid); err != nil {
		return err
	}
	delete(t.threads, tid)
	for len(t.threads) > 0 {
		var ws unix.WaitStatus
		tid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for the threads to stop: %w", err)
		}
		if err == nil && ws.Stopped() {
			err = detach(tid, ws)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("let thread %d go: %w", tid, err)
		}
		delete(t.threads, tid)
	}
	if err := until(5*time.Second, "the program is stopped", t.allStopped); err != nil {
		return err
	}
	err := t.Stopped(t.pid)
	last := unix.SIGCONT
	if kill {
		last = unix.SIGKILL
	}
	return errors.Join(err, unix.Kill(t.pid, last))
}

// detach lets a stopped thread go, with the signal that it was about to get.
func detach(tid int, ws unix.WaitStatus) error {
	sig := ws.StopSignal()
	if sig == unix.SIGTRAP|0x80 || sig == unix.SIGTRAP {
		sig = 0
	}
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(tid), 0, uintptr(sig), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// allStopped tells whether all threads are stopped, and traced by nobody.
func (t *tracer) allStopped() (bool, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", t.pid))
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", t.pid, e.Name()))
		if err != nil {
			continue // it has ended
		}
		if !strings.Contains(string(status), "\nTracerPid:\t0\n") {
			// A thread that began while others were let go.
			tid, _ := strconv.Atoi(e.Name())
			var ws unix.WaitStatus
			if got, err := unix.Wait4(tid, &ws, unix.WALL|unix.WNOHANG, nil); err == nil && got == tid && ws.Stopped() {
				_ = detach(tid, ws)
			}
			return false, nil
		}
		if !strings.Contains(string(status), "\nState:\tT") {
			return false, nil
		}
	}
	return true, nil
}

// until waits for a condition, no longer than a limit.
func until(limit time.Duration, what string, cond func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return lab.Until(ctx, what, cond)
}
