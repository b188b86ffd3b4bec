//go:build linux && amd64

package faults

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Trace is one run of a program under ptrace(2): its calls are counted by where
// they are made, and one of them meets a fault. The program is the one that is
// shipped, and knows nothing of it.
type Trace struct {
	Symbols *Symbols
	Program string
	Args    []string
	Stdin   string
	Inside  int // descriptor of the network namespace to start in, 0: the caller's

	Case  *Case         // nil: calls are counted only
	Limit time.Duration // after which the program is killed as hung

	// Vanish makes the namespace go away, for NetNS.
	Vanish func() error
	// Stopped is called while the program is stopped, for Stop and StopKill.
	Stopped func(pid int) error
}

// Outcome is what came of a run.
type Outcome struct {
	Exit     int         // exit code, if no signal ended it
	Signal   unix.Signal // that ended it, or 0
	Stdout   []byte
	Stderr   []byte
	Made     Made
	Injected bool      // the call was made, and met the fault
	Ended    time.Time // as seen here
	Took     time.Duration
	Hung     bool
}

// tracer is a Trace under way. All of it is on one thread, as ptrace(2) wants it.
type tracer struct {
	*Trace
	out     Outcome
	pid     int
	threads map[int]*thread
	fds     map[int]bool // descriptors that matter: of sockets (true), of namespaces, below /proc
	done    bool         // the fault is made, or there is none to make
	err     error

	mu    sync.Mutex
	ended bool // guards pid from being killed when it is another's
}

// thread is one of the program's.
type thread struct {
	call  *call // under way
	fresh bool  // its first stop is that of a new thread
}

// call is a system call under way that matters.
type call struct {
	known
	nr     uint64
	args   [6]uint64
	path   string
	inject Fault // "" for none
	undo   func() error
}

// Run runs the program to its end.
func (t *Trace) Run() (*Outcome, error) {
	r := &tracer{Trace: t, threads: map[int]*thread{}, fds: map[int]bool{}}
	r.out.Made = Made{}
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with what it traces
		failed <- r.run()
	}()
	err := <-failed
	return &r.out, err
}

func (t *tracer) run() error {
	began := time.Now()
	files, err := t.start()
	if err != nil {
		return err
	}
	defer files.close()
	hung := time.AfterFunc(t.Limit, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if !t.ended {
			t.out.Hung = true
			_ = unix.Kill(t.pid, unix.SIGKILL)
		}
	})
	defer hung.Stop()
	if err := t.loop(); err != nil {
		return err
	}
	t.out.Ended, t.out.Took = time.Now(), time.Since(began)
	if t.out.Stdout, err = files.read(1); err == nil {
		t.out.Stderr, err = files.read(2)
	}
	return errors.Join(t.err, err)
}

// streams are the program's standard streams.
type streams [3]*os.File

func (s *streams) close() {
	for _, f := range s {
		if f != nil {
			_ = f.Close()
		}
	}
}

func (s *streams) read(i int) ([]byte, error) {
	if _, err := s[i].Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(s[i])
}

func newStreams(stdin string) (*streams, error) {
	var s streams
	for i := range s {
		fd, err := unix.MemfdCreate("stream", unix.MFD_CLOEXEC)
		if err != nil {
			s.close()
			return nil, err
		}
		s[i] = os.NewFile(uintptr(fd), "stream")
	}
	if _, err := s[0].WriteString(stdin); err != nil {
		return nil, err
	}
	_, err := s[0].Seek(0, io.SeekStart)
	return &s, err
}

// start starts the program, stopped and traced by this thread.
func (t *tracer) start() (*streams, error) {
	files, err := newStreams(t.Stdin)
	if err != nil {
		return nil, err
	}
	err = inside(t.Inside, func() error {
		p, err := os.StartProcess(t.Program, append([]string{t.Program}, t.Args...), &os.ProcAttr{
			Files: files[:], Sys: &unix.SysProcAttr{Ptrace: true, Pdeathsig: unix.SIGKILL},
		})
		if err != nil {
			return err
		}
		t.pid = p.Pid
		return p.Release() // the loop waits for it
	})
	if err != nil {
		files.close()
		return nil, err
	}
	var ws unix.WaitStatus
	if _, err := unix.Wait4(t.pid, &ws, unix.WALL, nil); err != nil {
		return nil, err
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	if err := unix.PtraceSetOptions(t.pid, options); err != nil {
		return nil, err
	}
	t.threads[t.pid] = &thread{}
	return files, unix.PtraceSyscall(t.pid, 0)
}

// inside calls f on this very thread in a network namespace, 0 for the one that
// it is in.
func inside(fd int, f func() error) error {
	if fd == 0 {
		return f()
	}
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(home) }()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = f()
	return errors.Join(err, unix.Setns(home, unix.CLONE_NEWNET))
}

// loop follows the program until it ends.
func (t *tracer) loop() error {
	t.done = false
	for {
		var ws unix.WaitStatus
		// Other threads of this process have children of their own.
		tid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("wait for the program: %w", err)
		case ws.Stopped():
			if err := t.stopped(tid, ws); err != nil && !errors.Is(err, unix.ESRCH) { // killed meanwhile
				t.err = errors.Join(t.err, err)
				_ = unix.Kill(t.pid, unix.SIGKILL)
			}
		case tid == t.pid && (ws.Exited() || ws.Signaled()):
			t.mu.Lock()
			t.ended = true
			t.mu.Unlock()
			t.out.Exit = ws.ExitStatus()
			if ws.Signaled() {
				t.out.Signal = ws.Signal()
			}
			return nil
		default:
			delete(t.threads, tid)
		}
	}
}

// stopped handles a stop of a thread, and lets it go on.
func (t *tracer) stopped(tid int, ws unix.WaitStatus) error {
	th := t.threads[tid]
	if th == nil {
		th = &thread{fresh: true}
		t.threads[tid] = th
	}
	switch sig := ws.StopSignal(); {
	case sig == unix.SIGTRAP|0x80:
		detached, err := t.syscall(tid, th)
		if detached || err != nil {
			return err
		}
		return t.resume(tid, 0)
	case sig == unix.SIGTRAP && ws.TrapCause() > 0: // a new thread; it stops by itself
		return t.resume(tid, 0)
	case sig == unix.SIGSTOP && th.fresh:
		th.fresh = false
		return t.resume(tid, 0)
	default:
		return t.resume(tid, sig)
	}
}

// resume lets a thread go on; once the fault is made, at full speed.
func (t *tracer) resume(tid int, sig unix.Signal) error {
	if t.done && t.threads[tid].call == nil {
		return unix.PtraceCont(tid, int(sig))
	}
	return unix.PtraceSyscall(tid, int(sig))
}

// syscallInfo is struct ptrace_syscall_info.
type syscallInfo struct {
	op   uint8
	_    [3]uint8
	arch uint32
	ip   uint64
	sp   uint64
	a    [8]uint64 // at entry: number and arguments; at exit: the result
}

const (
	opEntry = 1 // PTRACE_SYSCALL_INFO_ENTRY
	opExit  = 2 // PTRACE_SYSCALL_INFO_EXIT
)

// syscall handles the beginning or the end of a system call.
func (t *tracer) syscall(tid int, th *thread) (detached bool, err error) {
	var info syscallInfo
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 {
		return false, errno
	}
	switch info.op {
	case opEntry:
		return false, t.enter(tid, th, &info)
	case opExit:
		c := th.call
		th.call = nil
		if c == nil {
			return false, nil
		}
		return t.leave(tid, c, int64(info.a[0]))
	}
	return false, nil
}

// enter looks at a call that begins.
func (t *tracer) enter(tid int, th *thread, info *syscallInfo) error {
	th.call = nil
	k, ok := calls[info.a[0]]
	if !ok || t.done {
		return nil
	}
	c := &call{known: k, nr: info.a[0], args: [6]uint64(info.a[1:7])}
	switch k.what {
	case descriptor:
		_, ok = t.fds[int(int32(c.args[0]))]
	case copied:
		_, ok = t.fds[int(int32(c.args[0]))]
		ok = ok && c.args[1] == unix.F_DUPFD_CLOEXEC
	case watched:
		ok = t.fds[int(int32(c.args[2]))]
	case path:
		c.path = text(tid, c.args[1])
		ok = opens(c.path)
	}
	if !ok {
		return nil
	}
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &regs); err != nil {
		return err
	}
	site := t.Symbols.site(tid, &regs)
	if site == "" && k.name == "epoll_pwait" {
		site = outsideStack
	}
	th.call = c // also without a site: it may open a descriptor
	if site == "" || strings.Contains(site, beside) {
		return nil
	}
	site += "/" + k.name
	t.out.Made[site]++
	if t.Case != nil && t.Case.Site == site && t.Case.N == t.out.Made[site] {
		c.inject = t.Case.Fault
		return t.begin(tid, c, &regs)
	}
	return nil
}

// leave looks at a call that ends.
func (t *tracer) leave(tid int, c *call, result int64) (detached bool, err error) {
	if c.inject != "" {
		detached, err = t.finish(tid, c, result)
	}
	switch {
	case c.name == "close":
		delete(t.fds, int(int32(c.args[0])))
	case result >= 0 && (c.name == "socket" || c.name == "openat" || c.name == "fcntl"):
		t.fds[int(result)] = c.name == "socket"
	}
	return detached, err
}
