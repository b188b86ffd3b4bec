package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/netns"
)

// two are the capabilities that a cut needs.
var two = []string{"CAP_NET_ADMIN", "CAP_NET_RAW"}

// No thread of the program can do more than it has a use for, nor gain it by
// running something. The demo builds networks and keeps what it has.
func TestRights(t *testing.T) {
	const used = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_SYS_ADMIN |
		1<<unix.CAP_SYS_PTRACE | 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_SYS_NICE
	for _, command := range []string{"cut", "list", "conntrack"} {
		c := &cutting{Cmd: exec.Command(program, command, "--host", "@-")}
		if command == "conntrack" {
			c.Args = []string{program, command, "-R", "-"}
		}
		stdin, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		var status []byte
		held := regexp.MustCompile(`Cap(?:Prm|Eff):\s+([0-9a-f]+)`)
		labtest.Until(t, "rights are given up", func() bool {
			status = threads(t, c.Process.Pid)
			for _, m := range held.FindAllSubmatch(status, -1) {
				var caps uint64
				if _, err := fmt.Sscanf(string(m[1]), "%x", &caps); err != nil || caps&^used != 0 || caps&used == 0 {
					return false
				}
			}
			return len(status) > 0 && !bytes.Contains(status, []byte("NoNewPrivs:\t0"))
		})
		_ = stdin.Close()
		_ = c.Process.Kill()
		c.wait(t)
	}
}

// threads returns what /proc says of all threads of a process.
func threads(t *testing.T, pid int) []byte {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, f := range files {
		b, _ := os.ReadFile(f) // a thread may have ended
		all = append(all, b...)
	}
	return all
}

// Somebody with the two capabilities and no other right cuts, and proves it. In
// queues he cannot look: where there are any, he claims nothing.
func TestTwoCapabilities(t *testing.T) {
	for _, queue := range []bool{false, true} {
		net, to := gateway(t)
		idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: to, Count: 3})
		want := 0
		if queue {
			q, err := net.Gateway.Queue(40000)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(q.Close)
			want = 1
		}
		if err := os.Chmod(filepath.Dir(program), 0o755); err != nil {
			t.Fatal(err)
		}
		run := func(args ...string) (c *cutting, code int) {
			c = &cutting{Cmd: exec.Command(program, args...)}
			c.Stdout, c.Stderr = &c.stdout, &c.stderr
			c.SysProcAttr = &syscall.SysProcAttr{
				Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW},
			}
			if err := net.Gateway.NS.Do(c.Start); err != nil {
				t.Fatal(err)
			}
			return c, c.wait(t)
		}
		told, code := run("doctor")
		wantSaid := map[bool]string{false: "a cut can be proven here", true: "not permitted to look at all that decides"}[queue]
		if code != 3*want || !strings.Contains(told.stdout.String(), wantSaid) || queue != strings.Contains(told.stdout.String(), "there are some, seen by root alone") {
			t.Errorf("queue %v: doctor's exit code %d, stdout %q, stderr %q", queue, code, &told.stdout, &told.stderr)
		}
		c, code := run("cut", "-g", "-p", "tcp", "--settle", "0s")
		if code != want || queue != bytes.Contains(c.stdout.Bytes(), []byte("CAP_DAC_READ_SEARCH")) {
			t.Errorf("queue %v: exit code %d, stdout %q, stderr %q", queue, code, &c.stdout, &c.stderr)
		}
		wantTold(t, idle)
	}
}

// Without /proc a cut does not take queues that it cannot see for none.
func TestWithoutProc(t *testing.T) {
	net, to := gateway(t)
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: to})
	q, err := net.Gateway.Queue(40000)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.Close)
	c := &cutting{Cmd: exec.Command("unshare", "--mount", "sh", "-c", `umount -l /proc && exec "$0" cut -g -p tcp --settle 0s`, program)}
	c.Stdout, c.Stderr = &c.stdout, &c.stderr
	if err := net.Gateway.NS.Do(c.Start); err != nil {
		t.Fatal(err)
	}
	if code := c.wait(t); code != 1 || !strings.Contains(c.stdout.String(), "programs listen to NFQUEUEs") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, &c.stdout, &c.stderr)
	}
	wantTold(t, idle)
}

// wantTold holds that both ends of all streams were reset.
func wantTold(t *testing.T, list lab.Ends) {
	t.Helper()
	ends := append(slices.Clone(list), list.Peers()...)
	if err := ends.WaitTold(labtest.Context(t)); err != nil || ends.Told(unix.ECONNRESET) != len(ends) {
		t.Errorf("%d of %d ends were told, %v", ends.Told(unix.ECONNRESET), len(ends), err)
	}
}

// In a container with nothing but the program and the two capabilities, on the
// gateway's network, a cut is proven. Where a filter of system calls such as
// Docker's keeps bpf(2) from it, it says what it could not look for.
func TestContainer(t *testing.T) {
	for _, c := range []struct {
		name     string
		uid      int
		filtered bool
		flags    []string
		code     int
		says     string
	}{
		{name: "as root", says: "proven"},
		{name: "as a user", uid: 65534, says: "proven"},
		{name: "filtered", uid: 65534, filtered: true, code: 1, says: "--cap-add BPF"},
		{name: "filtered, on trust", filtered: true, flags: []string{"--accept-detours"}, says: "proven"},
	} {
		t.Run(c.name, func(t *testing.T) {
			net, to := gateway(t)
			idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: to, Count: 3})
			other := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: to, Count: 1})
			spare := fmt.Sprintf("--orig-port-src=%d", other[0].Local.Port())
			before := labtest.Ruleset(t, net.Gateway.Host)
			run := contain(t, net.Gateway.Host, c.uid, c.filtered, append([]string{"/flowcut", "cut", "-g", "!", spare}, c.flags...))
			if code := run.wait(t); code != c.code || !strings.Contains(run.stdout.String(), c.says) {
				t.Errorf("exit code %d, want %d and %q; stdout:\n%s\nstderr:\n%s", code, c.code, c.says, &run.stdout, &run.stderr)
			}
			wantTold(t, idle)
			if n := append(other, other.Peers()...).Told(nil); n != 2 {
				t.Errorf("%d of 2 ends of another flow were left alone", n)
			}
			if after := labtest.Ruleset(t, net.Gateway.Host); after != before {
				t.Errorf("ruleset before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

// contain starts the program in a container of runc(8): a file system with the
// program alone, read-only, and the two capabilities.
func contain(t *testing.T, on *lab.Host, uid int, filtered bool, args []string) *cutting {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(program)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "rootfs", "flowcut"), b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("runc", "spec", "--bundle", dir).CombinedOutput(); err != nil {
		t.Fatalf("runc spec: %v\n%s", err, out)
	}
	configure(t, filepath.Join(dir, "config.json"), on, uid, filtered, args)
	c := &cutting{Cmd: exec.Command("runc", "run", "--bundle", dir, filepath.Base(filepath.Dir(dir))+filepath.Base(dir))}
	c.Stdout, c.Stderr = &c.stdout, &c.stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// configure makes the container that contain says out of runc's usual one.
func configure(t *testing.T, file string, on *lab.Host, uid int, filtered bool, args []string) {
	t.Helper()
	b, err := os.ReadFile(file)
	var spec struct {
		Process map[string]any `json:"process"`
		Linux   map[string]any `json:"linux"`
	}
	var all map[string]any
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err == nil {
		err = json.Unmarshal(b, &spec)
	}
	if err != nil {
		t.Fatal(err)
	}
	caps := map[string]any{}
	for _, set := range []string{"bounding", "effective", "permitted", "inheritable", "ambient"} {
		caps[set] = two
	}
	spec.Process["terminal"], spec.Process["args"], spec.Process["capabilities"] = false, args, caps
	spec.Process["user"] = map[string]int{"uid": uid, "gid": uid}
	for _, ns := range spec.Linux["namespaces"].([]any) {
		if ns := ns.(map[string]any); ns["type"] == "network" {
			ns["path"] = filepath.Join(netns.Dir, on.Name)
		}
	}
	if filtered {
		// What Docker's profile refuses to those without CAP_SYS_ADMIN, of what we call.
		spec.Linux["seccomp"] = map[string]any{
			"defaultAction": "SCMP_ACT_ALLOW",
			"syscalls":      []any{map[string]any{"names": []string{"bpf", "setns", "unshare"}, "action": "SCMP_ACT_ERRNO"}},
		}
	}
	all["process"], all["linux"] = spec.Process, spec.Linux
	b, err = json.Marshal(all)
	if err == nil {
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
