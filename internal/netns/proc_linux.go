package netns

import (
	"errors"
	"fmt"
	"os"
)

// Proc reads a file of /proc that tells of the calling thread's namespace, by its
// whole path.
//
// The error wraps [os.ErrNotExist] only when the kernel has no such file. Where
// /proc is not mounted, or has other processes than ours, that cannot be told.
func Proc(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if _, hidden := os.Stat("/proc/thread-self/net"); hidden != nil {
			return nil, fmt.Errorf("netns: read %s: /proc is not mounted here", path)
		}
	}
	return b, err
}
