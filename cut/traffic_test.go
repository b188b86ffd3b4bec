//go:build linux

package cut

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"flowcut/conntrack"
	"flowcut/internal/lab"
	"flowcut/selector"
)

// shell runs a program inside a host and returns what it says.
func shell(t testing.TB, h *lab.Host, args ...string) string {
	t.Helper()
	var out []byte
	err := h.NS.Do(func() (err error) {
		out, err = exec.Command(args[0], args[1:]...).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// rules adds rules inside a host, written for nft(8).
func rules(t testing.TB, h *lab.Host, text string) {
	t.Helper()
	shell(t, h, "nft", text)
}

// iptables adds a rule inside a host, given without -A.
func iptables(t testing.TB, h *lab.Host, table, chain, rule string) {
	t.Helper()
	shell(t, h, append([]string{"iptables", "-w", "-t", table, "-A", chain}, strings.Fields(rule)...)...)
}

// proc reads a file of /proc/net inside a host; "" if it does not exist.
func proc(t testing.TB, h *lab.Host, file string) string {
	t.Helper()
	var b []byte
	err := h.NS.Do(func() (err error) {
		b, err = os.ReadFile("/proc/thread-self/net/" + file)
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

// flows returns the gateway's entries that a selector means.
func flows(t testing.TB, net *lab.Topology, s selector.Selector) []*conntrack.Flow {
	t.Helper()
	return all(t, table(t, net), s)
}

// wantReason checks that the receipt says something in its reason.
func wantReason(t testing.TB, r *Receipt, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(r.Reason, w) {
			t.Errorf("reason %q, want %q in it", r.Reason, w)
		}
	}
}

// quick are options for a cut whose guard need not stand long.
func quick(o Options) Options {
	const moment = 200e6 // ns
	if o.Settle == 0 {
		o.Settle = moment
	}
	if o.Hold == 0 {
		o.Hold = 2 * moment
	}
	return o
}
