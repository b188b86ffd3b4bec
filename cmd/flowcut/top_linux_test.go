package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/sysctl"
)

// screen is a terminal of tmux, with "flowcut top" in it and then a shell's last words.
type screen struct {
	t      *testing.T
	socket string
}

// watch starts "flowcut top" on a gateway, in an environment.
func watch(t *testing.T, net *lab.Topology, env string, args ...string) *screen {
	t.Helper()
	s := &screen{t, filepath.Join(t.TempDir(), "tmux")}
	line := fmt.Sprintf("before=$(stty -g); %s %s top --netns %s %s; echo code $?; [ \"$before\" = \"$(stty -g)\" ] && echo restored; exec cat",
		env, program, net.Gateway.Name, strings.Join(args, " "))
	s.tmux("new-session", "-d", "-x", "80", "-y", "24", line)
	t.Cleanup(func() { _ = exec.Command("tmux", "-S", s.socket, "kill-server").Run() })
	return s
}

func (s *screen) tmux(args ...string) string {
	s.t.Helper()
	out, err := exec.Command("tmux", append([]string{"-S", s.socket, "-f", "/dev/null"}, args...)...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("tmux %s: %v\n%s", args, err, out)
	}
	return string(out)
}

// keys types keys by the names that tmux has for them.
func (s *screen) keys(keys ...string) {
	s.t.Helper()
	for _, k := range keys {
		s.tmux("send-keys", k)
	}
}

// wait waits until the screen matches each pattern.
func (s *screen) wait(patterns ...string) string {
	s.t.Helper()
	var text string
	for _, p := range patterns {
		want := regexp.MustCompile(p)
		found := func() (bool, error) {
			text = s.tmux("capture-pane", "-p")
			return want.MatchString(text), nil
		}
		if err := lab.Until(labtest.Context(s.t), "the screen shows "+p, found); err != nil {
			s.t.Fatalf("%v:\n%s", err, text)
		}
	}
	return text
}

// A person looks at live connections, groups and filters them, marks two and cuts
// them: these end and no other, the receipt is shown, and the terminal is as before.
func TestTop(t *testing.T) {
	net, to := gateway(t)
	ends := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Talk, To: to, Count: 5})
	others := labtest.Dial(t, net.Clients[1].Host, lab.Streams{Kind: lab.Talk, To: to, Count: 3})
	s := watch(t, net, "")
	s.wait(`\[flows\]`, `203\.0\.113\.2:\d+ -> `, `8 of 8, whole table every`, `No rates and bytes`)

	s.keys("A")
	s.wait(`Switch on nf_conntrack_acct and _timestamp\?`)
	s.keys("y")
	labtest.Until(t, "the kernel counts", func() bool {
		var acct, timestamp int
		err := net.Gateway.NS.Do(func() (err error) {
			acct, _ = sysctl.Get("net.netfilter.nf_conntrack_acct")
			timestamp, err = sysctl.Get("net.netfilter.nf_conntrack_timestamp")
			return err
		})
		return err == nil && acct == 1 && timestamp == 1
	})
	more := labtest.Dial(t, net.Clients[1].Host, lab.Streams{Kind: lab.Download, To: to})
	s.wait(`>[ ]+[\d.]+ [KMG]iB/s +[\d.]+ [KMG]iB tcp +198\.51\.100\.2:\d+ -> `)

	s.keys("3", "c")
	s.wait(`\[client\]`, `>  +5 +0 .* 203\.0\.113\.2\n +4 +0 .* 198\.51\.100\.2\n`)
	s.keys("/")
	s.tmux("send-keys", "-l", "--", "-p tcp -s 203.0.113.2 --dpor")
	s.wait(`filter> -p tcp -s 203\.0\.113\.2 --dpor`, `unknown flag: --dpor`)
	s.tmux("send-keys", "-l", "--", "t "+strconv.Itoa(port))
	s.keys("Enter", "1")
	s.wait(`filter: -p tcp -s 203\.0\.113\.2 --dport \d+  5 flows`, `\[flows\]`, `5 of 5,`)

	s.keys("Space", "Space", "x")
	s.wait(`(?s)Dry run\n2 flows would be cut.*--orig-src 203\.0\.113\.2 .*y cut them`)
	if told := len(ends) - ends.Told(nil); told > 0 {
		t.Errorf("%d ends were told something by a dry run", told)
	}
	s.keys("y")
	text := s.wait(`(?s)Receipts: \d of 2 proven.*esc back`)
	if !strings.Contains(text, "Receipts: 2 of 2 proven") {
		t.Errorf("receipts:\n%s", text)
	}
	labtest.Until(t, "two ends are reset", func() bool { return ends.Told(unix.ECONNRESET) == 2 })
	s.keys("Escape")
	s.wait(`3 of 3,`)
	for i, all := range []lab.Ends{ends, others, more} {
		if left, want := all.Told(nil), []int{3, 3, 1}[i]; left != want {
			t.Errorf("%d ends of group %d live, want %d", left, i, want)
		}
	}

	s.tmux("resize-window", "-x", "60", "-y", "20")
	s.wait(`The terminal is 60x20`)
	s.tmux("resize-window", "-x", "120", "-y", "30")
	s.wait(`AGE PROTO  STATE +FLOW`)
	s.keys("q")
	s.wait(`code 0\nrestored`)
	if text := s.tmux("capture-pane", "-p"); strings.Contains(text, "whole table") {
		t.Errorf("the screen is left behind:\n%s", text)
	}
}

// Signals and Ctrl-C end it with their codes and restore the terminal, also on
// terminals that have no colours.
func TestTopEnds(t *testing.T) {
	net, to := gateway(t)
	labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: to})
	for _, c := range []struct {
		env  string
		end  func(s *screen, pid int)
		code int
	}{
		{"", func(s *screen, _ int) { s.keys("C-c") }, 0},
		{"NO_COLOR=1", func(_ *screen, pid int) { _ = unix.Kill(pid, unix.SIGTERM) }, 128 + int(unix.SIGTERM)},
		{"TERM=dumb", func(_ *screen, pid int) { _ = unix.Kill(pid, unix.SIGHUP) }, 128 + int(unix.SIGHUP)},
	} {
		s := watch(t, net, c.env, "--by", "server")
		s.wait(`>  +1 +0 +- +- 203\.0\.113\.1`)
		if styled := s.tmux("capture-pane", "-p", "-e"); (c.env == "") != strings.Contains(styled, "\x1b[36m") {
			t.Errorf("%q: colours: %q", c.env, styled)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(run(t, net.Gateway.Host, "pgrep", "-f", "^"+program+" top --netns "+net.Gateway.Name)))
		if err != nil {
			t.Fatal(err)
		}
		c.end(s, pid)
		s.wait(fmt.Sprintf(`code %d\nrestored`, c.code))
	}
}
