//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"flowcut/internal/netns"

	"golang.org/x/sys/unix"
)

// measure is what one run of a program took, and what came of it.
type measure struct {
	Wall   time.Duration      `json:"wall_ns"`
	CPU    time.Duration      `json:"cpu_ns"` // user and system
	Memory int64              `json:"memory"` // peak, bytes
	Exit   int                `json:"exit"`
	Count  int                `json:"count"`            // flows that it listed or deleted, by its own account
	Values map[string]float64 `json:"values,omitempty"` // what else there is to tell
}

// output is what a program said, and when it began.
type output struct {
	began  time.Time
	stdout string // its beginning
	lines  int    // in all of its standard output
	stderr string
}

// tally counts the lines that are written to it, and keeps the first bytes.
type tally struct {
	lines int
	head  []byte
}

// tallyHead is how much a tally keeps: a receipt is about 1 KiB.
const tallyHead = 64 << 10

func (t *tally) Write(b []byte) (int, error) {
	t.lines += bytes.Count(b, []byte{'\n'})
	t.head = append(t.head, b[:min(len(b), tallyHead-len(t.head))]...)
	return len(b), nil
}

// child is a program under way.
type child struct {
	cmd    *exec.Cmd
	report *os.File
	stdout tally
	stderr bytes.Buffer
	argv   []string
}

// start starts argv inside the gateway, see [start].
func (s *site) start(ctx context.Context, dir string, argv []string, keep bool) (*child, error) {
	return start(ctx, s.gateway, dir, argv, keep)
}

// start starts argv inside a namespace, by the launcher in dir. Its standard
// output goes to /dev/null unless keep.
func start(ctx context.Context, ns *netns.NS, dir string, argv []string, keep bool) (*child, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close() //nolint:errcheck // the child has its own
	c := &child{cmd: exec.CommandContext(ctx, dir+"/launch", argv...), report: r, argv: argv}
	c.cmd.Stderr = &c.stderr
	if keep {
		c.cmd.Stdout = &c.stdout
	}
	c.cmd.ExtraFiles = []*os.File{w}
	c.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	c.cmd.Cancel = func() error { return unix.Kill(-c.cmd.Process.Pid, unix.SIGKILL) }
	if err := ns.Do(c.cmd.Start); err != nil {
		return nil, errors.Join(fmt.Errorf("start %q: %w", argv, err), r.Close())
	}
	return c, nil
}

// interrupt ends the program as Ctrl-C does.
func (c *child) interrupt() error { return unix.Kill(-c.cmd.Process.Pid, unix.SIGINT) }

// wait waits for the program to end.
func (c *child) wait(ctx context.Context) (measure, output, error) {
	line, rerr := io.ReadAll(c.report)
	err := errors.Join(c.cmd.Wait(), rerr, c.report.Close())
	if ctx.Err() != nil {
		return measure{}, output{}, context.Cause(ctx)
	}
	if err != nil {
		return measure{}, output{}, fmt.Errorf("run %q: %w: %s", c.argv, err, c.stderr.String())
	}
	m, err := parseMeasure(string(line))
	began, berr := parseBegan(string(line))
	if err := errors.Join(err, berr); err != nil {
		return m, output{}, fmt.Errorf("run %q: report %q: %w", c.argv, line, err)
	}
	return m, output{began, string(c.stdout.head), c.stdout.lines, c.stderr.String()}, nil
}

// parseMeasure reads what command launch writes.
func parseMeasure(line string) (measure, error) {
	var user, system time.Duration
	var m measure
	_, err := fmt.Sscan(line, &m.Wall, &user, &system, &m.Memory, &m.Exit)
	m.CPU = user + system
	m.Memory <<= 10
	return m, err
}

// parseBegan finds when the program began in what command launch writes.
func parseBegan(line string) (time.Time, error) {
	fields := strings.Fields(line)
	n, err := strconv.ParseInt(fields[len(fields)-1], 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	// With a reading of this process's own clock: the other may be set meanwhile.
	return time.Now().Add(-time.Since(time.Unix(0, n))), nil
}
