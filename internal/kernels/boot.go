//go:build linux

package kernels

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
)

// machine is what a kernel is booted on.
type machine struct {
	cpus   int
	memory int // MiB
	accel  string
}

// boot runs a kernel until it stops. What it prints goes into the file console,
// what init and the tests print into the file output.
func (m machine) boot(ctx context.Context, k *Kernel, initrd, console, output string) error {
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-accel", m.accel, "-cpu", "max", "-smp", strconv.Itoa(m.cpus), "-m", strconv.Itoa(m.memory),
		"-nodefaults", "-nographic", "-no-reboot",
		"-kernel", k.Image, "-initrd", initrd,
		// Nobody attacks this kernel, and what guards against it costs most without KVM.
		"-append", "console=ttyS0 loglevel=5 panic=-1 mitigations=off nokaslr rdinit=/init",
		"-serial", "file:"+console, "-serial", "file:"+output)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("kernels: boot %s: %w; see %s", k.Release, err, console)
	}
	return ctx.Err()
}
