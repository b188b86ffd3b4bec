package personality

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// build builds the program.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "flowcut")
	cmd := exec.Command("go", "build", "-o", program, "flowcut/cmd/flowcut")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return program
}

func itoa(n int) string { return strconv.Itoa(n) }
