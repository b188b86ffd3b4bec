// Package iptables changes and reads the tables of iptables by its own
// programs, iptables-restore and iptables-save.
//
// This is the only place in the program where another program is run. There is
// no stable interface to the tables but these: the kernel takes a whole table in
// a layout of C structures that differs between extensions and their revisions,
// and the lock that keeps programs from undoing each other's changes is a file of
// theirs. github.com/coreos/go-iptables runs iptables once for each rule, so that
// half a fence would stand, and takes a second for some hundred rules.
package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/netns"
)

// Tools are the programs for one family in one namespace.
type Tools struct {
	netNS         int
	restore, save string // paths
}

// dirs are where the programs are: the caller's PATH is not asked.
var dirs = []string{"/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"}

// Find finds the programs that work on the kernel's own tables: by the name
// that says so, or, on systems that have no others, by the plain one. Those that
// translate for nf_tables are of no use where that is missing.
//
// Without, the error is a [conntrack.NotSupportedError].
func Find(ctx context.Context, family conntrack.Family, netNS int) (*Tools, error) {
	name := "iptables"
	if family == conntrack.FamilyIPv6 {
		name = "ip6tables"
	}
	t := &Tools{netNS: netNS}
	for _, kind := range []string{name + "-legacy", name} {
		restore, save := find(kind+"-restore"), find(kind+"-save")
		if restore == "" || save == "" {
			continue
		}
		t.restore, t.save = restore, save
		version, err := t.run(ctx, restore, nil, "--version")
		if err != nil {
			return nil, err
		}
		if !strings.Contains(string(version), "nf_tables") {
			return t, nil
		}
	}
	return nil, &conntrack.NotSupportedError{Feature: name + "-restore and " + name + "-save of the kind called legacy, in " + strings.Join(dirs, ", ")}
}

func find(name string) string {
	for _, dir := range dirs {
		p := filepath.Join(dir, name)
		if s, err := os.Stat(p); err == nil && s.Mode().IsRegular() && s.Mode()&0o111 != 0 {
			return p
		}
	}
	return ""
}

// Change is a transaction on one table, as iptables-restore(8) has it between the
// name of the table and COMMIT.
type Change struct{ Table, Text string }

// String returns the change as iptables-restore(8) reads it.
func (c Change) String() string { return "*" + c.Table + "\n" + c.Text + "COMMIT\n" }

// Restore applies changes in their order, each as a whole or not at all: an error
// leaves those in force that came before. Chains that they do not name stay. It
// waits for the lock of other programs until the context ends.
//
// Needs CAP_NET_ADMIN and CAP_NET_RAW.
func (t *Tools) Restore(ctx context.Context, changes ...Change) error {
	var text strings.Builder
	for _, c := range changes {
		text.WriteString(c.String())
	}
	args := []string{"--noflush", "-w"}
	if until, ok := ctx.Deadline(); ok {
		args = append(args, strconv.Itoa(max(1, int(math.Ceil(time.Until(until).Seconds())))))
	}
	_, err := t.run(ctx, t.restore, strings.NewReader(text.String()), args...)
	return err
}

// Tables returns the tables that the namespace has as iptables-save(8) writes
// them, with counters, by name.
//
// Needs CAP_NET_ADMIN and CAP_NET_RAW, and to be root, or CAP_DAC_READ_SEARCH,
// for their names.
func (t *Tools) Tables(ctx context.Context) (map[string]string, error) {
	out, err := t.run(ctx, t.save, nil, "-c")
	if err != nil {
		return nil, err
	}
	parts, name := map[string]*strings.Builder{}, ""
	for line := range strings.Lines(string(out)) {
		if table, ok := strings.CutPrefix(line, "*"); ok {
			name = strings.TrimSpace(table)
		}
		b, ok := parts[name]
		if !ok {
			b = new(strings.Builder)
			parts[name] = b
		}
		b.WriteString(line)
	}
	delete(parts, "") // comments before the first
	tables := make(map[string]string, len(parts))
	for name, b := range parts {
		tables[name] = b.String()
	}
	return tables, nil
}

// Save returns one table as iptables-save(8) writes it, with counters. A
// namespace that has not had it has it from then on.
//
// Needs CAP_NET_ADMIN and CAP_NET_RAW.
func (t *Tools) Save(ctx context.Context, table string) (string, error) {
	out, err := t.run(ctx, t.save, nil, "-c", "-t", table)
	return string(out), err
}

// run runs a program in the namespace, with the two capabilities that it needs
// and no environment, and returns what it prints.
func (t *Tools) run(ctx context.Context, path string, in io.Reader, args ...string) (out []byte, err error) {
	const patience = time.Second // after it was told to end
	var errs bytes.Buffer
	run := func() (err error) {
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.Env = []string{}
		cmd.Stdin, cmd.Stderr = in, &errs
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = patience
		cmd.SysProcAttr = &syscall.SysProcAttr{
			AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW},
			Setpgid:     true, // a terminal's signals are for us: what they end we have to lift
		}
		out, err = cmd.Output()
		return err
	}
	err = netns.DoFd(t.netNS, run)
	if err == nil {
		return out, nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s: %w", path, context.Cause(ctx))
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, &Error{Program: path, Code: exit.ExitCode(), Said: strings.Join(strings.Fields(errs.String()), " ")}
	}
	return nil, fmt.Errorf("%s: %w", path, err)
}

// Error is what a program of iptables says when it fails. It unwraps to an errno
// where its words tell one.
type Error struct {
	Program string
	Code    int
	Said    string
}

// Error returns what the program has said.
func (e *Error) Error() string { return fmt.Sprintf("%s: exit code %d: %s", e.Program, e.Code, e.Said) }

// Unwrap returns the errno of the kernel, as far as it can be told.
func (e *Error) Unwrap() error {
	switch {
	case strings.Contains(e.Said, "Permission denied"), strings.Contains(e.Said, "must be root"):
		return os.ErrPermission
	case strings.Contains(e.Said, "No such file"), strings.Contains(e.Said, "not supported"),
		strings.Contains(e.Said, "Couldn't load"), strings.Contains(e.Said, "can't initialize"),
		strings.Contains(e.Said, "No chain/target/match by that name"), strings.Contains(e.Said, "unknown option"):
		return errors.ErrUnsupported
	}
	return nil
}
