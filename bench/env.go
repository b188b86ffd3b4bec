//go:build linux

package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// env is what a run was measured on.
type env struct {
	Date      string `json:"date"`
	Kernel    string `json:"kernel"`
	CPU       string `json:"cpu"`
	Cores     int    `json:"cores"`
	Memory    int64  `json:"memory"` // bytes
	Go        string `json:"go"`
	Conntrack string `json:"conntrack"` // version of conntrack(8)
	Flowcut   string `json:"flowcut"`   // commit
	Command   string `json:"command"`
}

// readEnv finds out what this machine is.
func readEnv(conntrack, command string) (env, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return env{}, err
	}
	total, err := field("/proc/meminfo", "MemTotal")
	if err != nil {
		return env{}, err
	}
	var kib int64
	if _, err := fmt.Sscan(total, &kib); err != nil {
		return env{}, fmt.Errorf("memory of this machine: %q: %w", total, err)
	}
	model, err := field("/proc/cpuinfo", "model name")
	if err != nil {
		model = runtime.GOARCH // such as on ARM
	}
	version, err := exec.Command(conntrack, "-V").Output()
	if err != nil {
		return env{}, fmt.Errorf("%s -V: %w", conntrack, err)
	}
	commit, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		commit = []byte("unknown") // not a clone
	}
	return env{
		Date: time.Now().Format(time.DateOnly), Kernel: unix.ByteSliceToString(u.Release[:]), CPU: model,
		Cores: runtime.NumCPU(), Memory: kib << 10, Go: runtime.Version(), Conntrack: strings.TrimSpace(string(version)),
		Flowcut: strings.TrimSpace(string(commit)), Command: command,
	}, nil
}

// field finds a line "name: value" in a file below /proc.
func field(path, name string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	for s := bufio.NewScanner(f); s.Scan(); {
		if key, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("%s has no %q", path, name)
}

// available returns how much memory programs can still get, in bytes.
func available() (int64, error) {
	text, err := field("/proc/meminfo", "MemAvailable")
	if err != nil {
		return 0, err
	}
	var kib int64
	if _, err := fmt.Sscan(text, &kib); err != nil {
		return 0, fmt.Errorf("free memory: %q: %w", text, err)
	}
	return kib << 10, nil
}
