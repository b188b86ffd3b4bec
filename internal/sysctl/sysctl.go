// Package sysctl reads and sets the kernel's settings of a network namespace: that of
// the calling thread, so call it within netns.NS.Do where another one is meant.
package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"flowcut/internal/netns"
)

// Absent is the value of a setting that the kernel does not have.
const Absent = -1

// Get reads a number, such as "net.netfilter.nf_conntrack_acct". It is [Absent],
// without an error, where the kernel has no such setting.
func Get(key string) (int, error) {
	b, err := netns.Proc(file(key))
	if errors.Is(err, fs.ErrNotExist) {
		return Absent, nil
	}
	if err != nil {
		return Absent, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return Absent, fmt.Errorf("%s: %w", key, err)
	}
	return n, nil
}

// Set writes a number. It needs CAP_NET_ADMIN in the user namespace of the network
// namespace, and for most settings root's user ID or CAP_DAC_OVERRIDE.
func Set(key string, value int) error {
	if err := os.WriteFile(file(key), strconv.AppendInt(nil, int64(value), 10), 0); err != nil {
		return fmt.Errorf("sysctl %s=%d: %w", key, value, err)
	}
	return nil
}

// Settable tells whether a setting can be set in this namespace at all: some are
// those of the whole host, and are only shown in other namespaces than the first.
func Settable(key string) bool {
	info, err := os.Stat(file(key))
	return err == nil && info.Mode()&0o200 != 0
}

func file(key string) string { return "/proc/sys/" + strings.ReplaceAll(key, ".", "/") }
