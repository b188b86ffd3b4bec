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
	"syscall"

	uv "github.com/charmbracelet/ultraviolet"
	"github.com/charmbracelet/x/vt"
	"golang.org/x/sys/unix"

	"flowcut/internal/lab"
)

// screen is what a terminal shows, row by row.
type screen [][]uv.Cell

// terminal is a pseudoterminal whose other end we are.
type terminal struct {
	master, slave *os.File
	width, height int
	done          chan struct{} // closed when nobody writes any more

	mu       sync.Mutex
	emulator *vt.Emulator
}

// openTerminal makes a terminal of a size. Who runs in it may ask it questions.
func openTerminal(width, height int) (_ *terminal, err error) {
	t := &terminal{width: width, height: height, done: make(chan struct{}), emulator: vt.NewEmulator(width, height)}
	if t.master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.master.Close())
		}
	}()
	raw, err := t.master.SyscallConn()
	if err != nil {
		return nil, err
	}
	number := 0
	var refused error
	if err := raw.Control(func(fd uintptr) {
		if refused = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); refused != nil {
			return
		}
		if number, refused = unix.IoctlGetInt(int(fd), unix.TIOCGPTN); refused != nil {
			return
		}
		refused = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(height), Col: uint16(width)})
	}); err != nil || refused != nil {
		return nil, fmt.Errorf("make a terminal: %w", errors.Join(err, refused))
	}
	t.slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	return t, err
}

// start starts a command in the terminal, from the calling thread, and our end of it.
func (t *terminal) start(cmd *exec.Cmd) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = t.slave, t.slave, t.slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err := cmd.Start()
	err = errors.Join(err, t.slave.Close()) // the command has its own
	if err != nil {
		return err
	}
	go func() { _, _ = io.Copy(t.master, t.emulator) }() // answers to questions; ends with the emulator
	go func() {
		defer close(t.done)
		_, _ = io.Copy(t, t.master) // ends with an error when the command has
	}()
	return nil
}

// Write shows what the command writes.
func (t *terminal) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.emulator.Write(b)
}

func (t *terminal) close() error {
	err := t.master.Close()
	return errors.Join(err, t.emulator.Close())
}

// look returns what is on the screen.
func (t *terminal) look() screen {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := make(screen, t.height)
	for y := range s {
		s[y] = make([]uv.Cell, t.width)
		for x := range s[y] {
			if c := t.emulator.CellAt(x, y); c != nil {
				s[y][x] = *c
			}
		}
	}
	return s
}

// text returns a row as text.
func (s screen) text(y int) string {
	var b strings.Builder
	for _, c := range s[y] {
		if c.Content == "" && c.Width == 0 {
			continue // the second half of a wide character
		}
		b.WriteString(c.Content)
	}
	return strings.TrimRight(b.String(), " ")
}

// shows tells whether a row has some text.
func (s screen) shows(text string) bool {
	for y := range s {
		if strings.Contains(s.text(y), text) {
			return true
		}
	}
	return false
}

// play runs the line of a scene in a terminal on the gateway, and returns what is on
// the screen at the end.
func (s *scene) play(ctx context.Context, at *site) (_ screen, err error) {
	t, err := openTerminal(s.columns, s.rows)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	cmd := at.command(s.line)
	if err := at.net.Gateway.NS.Do(func() error { return t.start(cmd) }); err != nil {
		return nil, err
	}
	err = s.walk(ctx, at, t)
	seen := t.look()
	if len(s.steps) > 0 || err != nil {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGTERM) // with its children; it may have ended by itself
	}
	_ = cmd.Wait() // what it ended with says ProcessState
	if code := cmd.ProcessState.ExitCode(); err == nil && len(s.steps) == 0 && code != s.code {
		err = fmt.Errorf("%s: exit code %d, not %d", s.line, code, s.code)
	}
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, strings.Join(seen.lines(), "\n"))
	}
	return seen, nil
}

// walk goes through the steps, or waits until the line has ended and all that it
// wrote is shown.
func (s *scene) walk(ctx context.Context, at *site, t *terminal) error {
	if len(s.steps) == 0 {
		select {
		case <-t.done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for _, step := range s.steps {
		if err := lab.Until(ctx, "on the screen: "+step.see, func() (bool, error) { return t.await(step.see) }); err != nil {
			return err
		}
		if _, err := io.WriteString(t.master, step.keys); err != nil {
			return err
		}
		if step.do == nil {
			continue
		}
		if err := step.do(ctx, at); err != nil {
			return err
		}
	}
	return nil
}

// await tells whether some text is on the screen; that it cannot come any more is an
// error.
func (t *terminal) await(text string) (bool, error) {
	ended := false
	select {
	case <-t.done:
		ended = true
	default:
	}
	seen := t.look().shows(text)
	if ended && !seen {
		return false, errors.New("the program has ended without it")
	}
	return seen, nil
}

// lines returns the rows as text, without empty ones at the end.
func (s screen) lines() []string {
	var out []string
	for y := range s {
		out = append(out, s.text(y))
	}
	for len(out) > 0 && out[len(out)-1] == "" {
		out = out[:len(out)-1]
	}
	return out
}
