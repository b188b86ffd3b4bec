package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/fence"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// run runs a program inside a host and returns what it prints.
func run(t *testing.T, h *lab.Host, args ...string) string {
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

// What SIGKILL leaves of a fence of iptables stops what it has stopped, is found
// while the process is gone and not before, and can be removed: then all is as it
// was, and the host's own rules have not been touched.
func TestKilledOnIPTables(t *testing.T) {
	net, to := gateway(t)
	ends := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: to, Count: 3})
	save := func() string {
		t.Helper()
		var out string
		for _, program := range []string{"iptables-legacy-save", "ip6tables-legacy-save"} {
			for line := range strings.Lines(run(t, net.Gateway.Host, program)) {
				if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ":") { // dates and counters
					out += line
				}
			}
		}
		return out
	}
	run(t, net.Gateway.Host, "iptables-legacy", "-w", "-A", "FORWARD", "-p", "udp", "--dport", "9", "-m", "comment", "--comment", "flowcut-like", "-j", "DROP")
	for _, table := range []string{"raw", "mangle", "filter"} { // they come into being by that
		run(t, net.Gateway.Host, "iptables-legacy", "-w", "-t", table, "-L")
		run(t, net.Gateway.Host, "ip6tables-legacy", "-w", "-t", table, "-L")
	}
	before := save()
	c := begin(t, net, "-g", "-r", net.Servers[0].Addr4.String(), "--fence", "iptables", "--settle", "20s")
	labtest.Until(t, "the guard stands", func() bool { return ends.Told(nil) == 0 && strings.Contains(save(), "FLOWCUT-") })
	leftovers := func() []fence.Leftover {
		t.Helper()
		left, err := fence.Leftovers(t.Context(), net.Gateway.NS.Fd())
		if err != nil {
			t.Fatal(err)
		}
		return left
	}
	if left := leftovers(); len(left) != 0 {
		t.Fatalf("leftovers of a process that lives: %v", left)
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if code := c.wait(t); code != 128+int(unix.SIGKILL) {
		t.Fatalf("exit code %d", code)
	}
	if !strings.Contains(save(), "FLOWCUT-") {
		t.Fatal("nothing is left behind: the test does not test")
	}
	left := leftovers()
	var tables []string
	for _, l := range left {
		tables = append(tables, l.Table)
		if end := time.Until(l.Until); l.Pid != c.Process.Pid || end < time.Minute || end > 2*time.Minute {
			t.Errorf("leftover %s, over in %v; the process was %d", l, end, c.Process.Pid)
		}
	}
	if slices.Sort(tables); !slices.Equal(tables, []string{"filter", "mangle", "raw"}) {
		t.Errorf("leftovers in the tables %v", tables)
	}
	for _, l := range left {
		if err := l.Remove(t.Context()); err != nil {
			t.Error(err)
		}
		if err := l.Remove(t.Context()); err != nil {
			t.Errorf("once more: %v", err)
		}
	}
	if after := save(); after != before {
		t.Errorf("rules before:\n%s\nafter:\n%s", before, after)
	}
}

// A signal takes the chains away.
func TestInterruptedOnIPTables(t *testing.T) {
	net, to := gateway(t)
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: to, Count: 3})
	c := begin(t, net, "-g", "--fence", "iptables", "--settle", "20s")
	labtest.Until(t, "the fence stands in all tables", func() bool { return idle.Told(nil) == 0 })
	if !strings.Contains(run(t, net.Gateway.Host, "iptables-legacy-save"), "FLOWCUT-") {
		t.Fatal("no chain of ours stands")
	}
	if err := c.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := c.wait(t); code != 128+int(unix.SIGINT) {
		t.Errorf("exit code %d\n%s", code, &c.stderr)
	}
	if r := c.receipt(t); r.Proven || r.Reason == "" || r.Fence.Backend != "iptables" {
		t.Errorf("receipt %s", &c.stdout)
	}
	for _, program := range []string{"iptables-legacy-save", "ip6tables-legacy-save"} {
		if text := run(t, net.Gateway.Host, program); strings.Contains(text, "FLOWCUT") {
			t.Errorf("left behind:\n%s", text)
		}
	}
}
