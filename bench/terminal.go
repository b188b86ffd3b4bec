//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"flowcut/internal/netns"

	"github.com/charmbracelet/x/vt"
	"golang.org/x/sys/unix"
)

// terminal is a terminal that a program is run in.
type terminal struct {
	cmd   *exec.Cmd
	pty   *os.File
	tasks sync.WaitGroup

	mu      sync.Mutex
	screen  *vt.Emulator
	changed chan struct{} // something was written
}

// openTerminal starts argv on a terminal inside a namespace.
func openTerminal(ns *netns.NS, width, height int, argv []string) (*terminal, error) {
	pty, tty, err := openPTY(width, height)
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	defer tty.Close() //nolint:errcheck // the program has its own
	t := &terminal{cmd: exec.Command(argv[0], argv[1:]...), pty: pty, screen: vt.NewEmulator(width, height), changed: make(chan struct{}, 1)}
	t.cmd.Stdin, t.cmd.Stdout, t.cmd.Stderr = tty, tty, tty
	t.cmd.Env = append(os.Environ(), "TERM=xterm-256color")
	t.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := ns.Do(t.cmd.Start); err != nil {
		return nil, errors.Join(fmt.Errorf("start %q: %w", argv, err), pty.Close())
	}
	t.tasks.Go(func() { _, _ = io.Copy(t, pty) })        // until the program has ended
	t.tasks.Go(func() { _, _ = io.Copy(pty, t.screen) }) // what a terminal answers to questions
	return t, nil
}

// openPTY opens both sides of a pseudo terminal.
func openPTY(width, height int) (pty, tty *os.File, err error) {
	if pty, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	fd := int(pty.Fd())
	err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	n, nerr := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	werr := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(width), Row: uint16(height)})
	if err = errors.Join(err, nerr, werr); err == nil {
		tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		return nil, nil, errors.Join(err, pty.Close())
	}
	return pty, tty, nil
}

// Write takes what the program writes.
func (t *terminal) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.screen.Write(b)
	select {
	case t.changed <- struct{}{}:
	default:
	}
	return n, err
}

// lines returns what is on the screen.
func (t *terminal) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Split(t.screen.String(), "\n")
}

// await waits until the screen is as wanted, and returns how long that took.
func (t *terminal) await(ctx context.Context, what string, want func(lines []string) bool) (time.Duration, error) {
	begin := time.Now()
	for {
		if want(t.lines()) {
			return time.Since(begin), nil
		}
		select {
		case <-t.changed:
		case <-ctx.Done():
			return 0, fmt.Errorf("wait until %s: %w; the screen:\n%s", what, context.Cause(ctx), strings.Join(t.lines(), "\n"))
		}
	}
}

// press types a key and returns when the screen shows what it does, and how long
// that took.
func (t *terminal) press(ctx context.Context, key string, want func(lines []string) bool) (time.Duration, error) {
	limit, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := io.WriteString(t.pty, key); err != nil {
		return 0, err
	}
	return t.await(limit, fmt.Sprintf("the key %q is answered", key), want)
}

// close ends the program.
func (t *terminal) close() error {
	_ = t.cmd.Process.Kill() // it may have ended
	_ = t.cmd.Wait()
	err := errors.Join(t.screen.Close(), t.pty.Close())
	t.tasks.Wait()
	return err
}
