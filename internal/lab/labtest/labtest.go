//go:build linux

// Package labtest gives tests a lab that is closed when they end.
package labtest

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"flowcut/internal/lab"
)

// Slow is how many times slower than usual the machine is, by FLOWCUT_SLOW: as
// much more time tests have.
func Slow() int {
	n, err := strconv.Atoi(os.Getenv("FLOWCUT_SLOW"))
	if err != nil || n < 1 {
		return 1
	}
	return n
}

// Context is done when the test ends or has taken a minute, or more; see Slow.
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(Slow())*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// Standard builds the standard network and closes it after the test.
func Standard(t testing.TB, cfg lab.Config) *lab.Topology {
	t.Helper()
	net, err := lab.Standard(Context(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := net.Close(); err != nil {
			t.Error(err)
		}
	})
	return net
}

// Listen starts a server on a port of the host.
func Listen(t testing.TB, h *lab.Host, port uint16) *lab.Server {
	t.Helper()
	s, err := h.Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Dial makes connections and fails the test when one cannot be made.
func Dial(t testing.TB, h *lab.Host, s lab.Streams) lab.Ends {
	t.Helper()
	ends, err := h.Dial(Context(t), s)
	if err != nil {
		t.Fatal(err)
	}
	return ends
}

// Exchange starts UDP flows and fails the test when one cannot be started.
func Exchange(t testing.TB, h *lab.Host, d lab.Datagrams) lab.Ends {
	t.Helper()
	ends, err := h.Exchange(Context(t), d)
	if err != nil {
		t.Fatal(err)
	}
	return ends
}

// Until waits for cond and fails the test when it does not hold in time.
func Until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	err := lab.Until(Context(t), what, func() (bool, error) { return cond(), nil })
	if err != nil {
		t.Fatal(err)
	}
}

// Ruleset is what nft(8) lists in a host, without what rules have counted.
func Ruleset(t testing.TB, h *lab.Host) string {
	t.Helper()
	var out []byte
	err := h.NS.Do(func() (err error) {
		out, err = exec.Command("nft", "--stateless", "list", "ruleset").CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("nft list ruleset: %v\n%s", err, out)
	}
	return string(out)
}
