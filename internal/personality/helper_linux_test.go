package personality

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"flowcut/conntrack"
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

// flowTuple returns the i-th of many tuples.
func flowTuple(i int) conntrack.Tuple {
	return conntrack.Tuple{
		Src: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), Dst: netip.AddrFrom4([4]byte{10, 2, 0, 1}),
		Proto: conntrack.ProtoUDP, SrcPort: uint16(1 + i>>16), DstPort: 53,
	}
}

func itoa(n int) string { return strconv.Itoa(n) }
