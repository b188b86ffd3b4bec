// Package netns opens network namespaces and runs functions inside them.
package netns

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// Dir is where named network namespaces are bound, as ip-netns(8) does it.
const Dir = "/run/netns"

// path returns the file that stands for a namespace: digits are a process,
// an absolute path is itself, anything else is a name below [Dir].
func path(which string) (string, error) {
	switch {
	case which == "":
		return "", errors.New("netns: empty name")
	case filepath.IsAbs(which):
		return which, nil
	case strings.Trim(which, "0123456789") == "":
		return "/proc/" + which + "/ns/net", nil
	case strings.ContainsRune(which, '/') || which == "." || which == "..":
		return "", fmt.Errorf("netns: %q is neither a name, an absolute path nor a process ID", which)
	}
	return filepath.Join(Dir, which), nil
}
