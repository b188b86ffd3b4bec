//go:build linux

// Command guest is init of the machines that package kernels boots: it runs
// what plan.json says, reports on the second serial port, and stops the machine.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"flowcut/internal/kernels/plan"

	"golang.org/x/sys/unix"
)

func main() {
	err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err) // the console
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		fmt.Fprintln(os.Stderr, "guest: stop the machine:", err)
	}
}

// mounts are what programs expect to be there.
var mounts = []struct {
	on, kind string
}{
	{"/proc", "proc"}, {"/sys", "sysfs"}, {"/dev", "devtmpfs"}, {"/run", "tmpfs"}, {"/tmp", "tmpfs"},
}

func run() error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.on, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.on, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.on, err)
		}
	}
	out, err := os.OpenFile("/dev/ttyS1", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer out.Close()
	text, err := os.ReadFile("/plan.json")
	if err != nil {
		return err
	}
	var p plan.Plan
	if err := json.Unmarshal(text, &p); err != nil {
		return fmt.Errorf("plan.json: %w", err)
	}
	for _, m := range p.Modules {
		if status := one(out, p.Env, plan.Run{Dir: "/", Args: []string{"/sbin/modprobe", m}}); status != 0 {
			return fmt.Errorf("load module %s: exit code %d", m, status)
		}
	}
	for _, r := range p.Runs {
		fmt.Fprintf(out, "%s%s\n", plan.Begin, r.Name)
		began := time.Now()
		status := one(out, p.Env, r)
		fmt.Fprintf(out, "%s%s %d %.1f\n", plan.End, r.Name, status, time.Since(began).Seconds())
	}
	fmt.Fprintln(out, plan.Done)
	return drain(out)
}

// one runs a program and returns its exit code, -1 where it had none.
func one(out *os.File, env []string, r plan.Run) int {
	cmd := exec.Command(r.Args[0], r.Args[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = r.Dir, env, out, out
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(out, "guest:", err)
		return -1
	}
	return 0
}

// drain waits until the serial port has sent all.
func drain(out *os.File) error {
	if err := unix.IoctlSetInt(int(out.Fd()), unix.TCSBRK, 1); err != nil {
		return fmt.Errorf("drain the serial port: %w", err)
	}
	return nil
}
