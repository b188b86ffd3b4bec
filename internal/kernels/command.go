//go:build linux

package kernels

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// command is how to run a program of the host.
type command struct {
	dir string   // "": ours
	env []string // besides ours
}

// output runs the program and returns what it writes to standard output.
func (c command) output(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = c.dir, append(os.Environ(), c.env...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, errs.String())
	}
	return string(out), nil
}
