package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/cut"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

const port = 5201

// program is the built program.
var program string

func TestMain(m *testing.M) { labtest.Main(m, &program) }

// gateway is the standard network with a forwarded server.
func gateway(t *testing.T) (*lab.Topology, netip.AddrPort) {
	t.Helper()
	net := labtest.Standard(t, lab.Config{})
	labtest.Listen(t, net.Servers[0].Host, port)
	if err := net.Gateway.Forward(port, net.Servers[0]); err != nil {
		t.Fatal(err)
	}
	return net, netip.AddrPortFrom(net.Gateway.Public4, port)
}

// cutting is a run of "flowcut cut" on the gateway.
type cutting struct {
	*exec.Cmd
	stdout, stderr bytes.Buffer
	started        time.Time
}

func begin(t *testing.T, net *lab.Topology, args ...string) *cutting {
	t.Helper()
	c := &cutting{Cmd: exec.Command(program, append([]string{"cut", "--netns", net.Gateway.Name, "-o", "json"}, args...)...)}
	c.Stdout, c.Stderr = &c.stdout, &c.stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	c.started = birth(t, c.Process.Pid)
	return c
}

// birth is when the kernel made a process, up to 10 ms too early. The clock
// of a test that is itself busy with traffic would count its own delays.
func birth(t *testing.T, pid int) time.Time {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	// Fields count from behind the name, which may hold anything; the 22nd of
	// all is the time since boot in ticks of 10 ms.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	ticks, err := strconv.ParseInt(fields[22-3], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		t.Fatal(err)
	}
	return time.Now().Add(time.Duration(ticks)*10*time.Millisecond - time.Duration(now.Nano()))
}

// wait returns the exit code, 128 and the signal's number for one killed by it.
func (c *cutting) wait(t *testing.T) int {
	t.Helper()
	err := c.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if s := c.ProcessState.Sys().(syscall.WaitStatus); s.Signaled() {
		return 128 + int(s.Signal())
	}
	return c.ProcessState.ExitCode()
}

func (c *cutting) receipt(t *testing.T) *cut.Receipt {
	t.Helper()
	r := new(cut.Receipt)
	if err := json.Unmarshal(c.stdout.Bytes(), r); err != nil {
		t.Fatalf("receipt: %v\n%s%s", err, &c.stdout, &c.stderr)
	}
	return r
}

// The whole promise, by the ends' own clocks: a DMZ that was turned off is
// silent within 100 ms of the program's start, for good, and all are told.
//
// Ends, gateway and program share the processors, which other work may take
// from them for a while: so the time is given three tries, all else one, and to it
// is added what a start of the program takes just then.
func TestDMZOff(t *testing.T) {
	const tries = 3
	var last, limit time.Duration
	for range tries {
		began := time.Now()
		if err := exec.Command(program, "-V").Run(); err != nil {
			t.Fatal(err)
		}
		limit = 100*time.Millisecond + time.Since(began)
		if last = turnOff(t); last <= limit {
			return
		}
	}
	t.Errorf("last byte %v after the start of the process, want at most %v", last, limit)
}

// turnOff turns a DMZ off and returns how long after the program's start the
// last byte arrived.
func turnOff(t *testing.T) time.Duration {
	t.Helper()
	net, to := gateway(t)
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: to, Count: 200})
	busy := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Download, To: to, Count: 4})
	if err := busy.WaitReceived(labtest.Context(t), 64<<20); err != nil {
		t.Fatal(err)
	}
	if err := net.Gateway.Unforward(port); err != nil {
		t.Fatal(err)
	}
	before := labtest.Ruleset(t, net.Gateway.Host)
	c := begin(t, net, "-g", "-r", net.Servers[0].Addr4.String())
	if code := c.wait(t); code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, &c.stdout, &c.stderr)
	}
	exit := time.Now()
	r := c.receipt(t)
	ends := append(append(append(lab.Ends{}, idle...), idle.Peers()...), append(busy, busy.Peers()...)...)
	if !r.Proven || !r.Final || r.Flows.Matched != 204 || r.Flows.Deleted != 204 {
		t.Errorf("receipt %s", &c.stdout)
	}
	if n := ends.Told(unix.ECONNRESET); n != len(ends) {
		t.Errorf("%d of %d sockets got ECONNRESET", n, len(ends))
	}
	received := ends.Received()
	timer := time.NewTimer(10 * time.Second) // nothing must happen meanwhile
	<-timer.C
	if got := ends.Received() - received; got != 0 {
		t.Errorf("%d bytes in the 10 s after exit", got)
	}
	last := ends.LastReceived().Sub(c.started)
	if after := labtest.Ruleset(t, net.Gateway.Host); after != before {
		t.Errorf("ruleset before:\n%s\nafter:\n%s", before, after)
	}
	t.Logf("last byte %v after the start, fence up after %v by the receipt, exit after %v", last, r.Fence.RaisedAfterMS, exit.Sub(c.started))
	return last
}

// Whenever the process is killed, nothing stays behind.
func TestKilled(t *testing.T) {
	const kills = 25
	net, to := gateway(t)
	before := labtest.Ruleset(t, net.Gateway.Host)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	standing := 0
	for i := range time.Duration(kills) {
		ends := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: to, Count: 20})
		c := begin(t, net, "-g", "-r", net.Servers[0].Addr4.String(), "--settle", "1500ms")
		// A whole cut takes a little longer than it settles, and listing the
		// ruleset delays the kill.
		const slot = 1500 * time.Millisecond / kills
		at := i*slot + time.Duration(random.Int64N(int64(slot)))
		timer := time.NewTimer(at)
		<-timer.C
		if labtest.Ruleset(t, net.Gateway.Host) != before {
			standing++
		}
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if code := c.wait(t); code != 128+int(unix.SIGKILL) {
			t.Errorf("kill %d after %v: exit code %d", int(i), at, code)
		}
		labtest.Until(t, "the ruleset is as it was", func() bool { return labtest.Ruleset(t, net.Gateway.Host) == before })
		ends.Close()
	}
	// Of 25 moments spread over a cut, nearly all fall into the fence or the guard.
	if standing < kills/2 {
		t.Errorf("the fence stood at %d of %d kills: the test does not test", standing, kills)
	}
}

// A signal lifts the fence; the receipt is printed all the same.
func TestInterrupted(t *testing.T) {
	for _, s := range []syscall.Signal{unix.SIGINT, unix.SIGTERM} {
		t.Run(s.String(), func(t *testing.T) {
			net, to := gateway(t)
			labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: to, Count: 20})
			before := labtest.Ruleset(t, net.Gateway.Host)
			c := begin(t, net, "-g", "--settle", "20s")
			labtest.Until(t, "the fence stands", func() bool { return labtest.Ruleset(t, net.Gateway.Host) != before })
			for range 2 { // as timeout(1) does
				if err := c.Process.Signal(s); err != nil {
					t.Fatal(err)
				}
			}
			if code := c.wait(t); code != 128+int(s) {
				t.Errorf("exit code %d, want %d\n%s", code, 128+int(s), &c.stderr)
			}
			if r := c.receipt(t); r.Proven || r.Reason == "" {
				t.Errorf("receipt %s", &c.stdout)
			}
			if after := labtest.Ruleset(t, net.Gateway.Host); after != before {
				t.Errorf("ruleset before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

// A list that does not come does not keep a signal from ending the program.
func TestInterruptedWhileReading(t *testing.T) {
	for _, command := range []string{"cut", "list"} {
		c := &cutting{Cmd: exec.Command(program, command, "--host", "@-")}
		c.Stdout, c.Stderr = &c.stdout, &c.stderr
		r, stdin, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		c.Stdin = r
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := stdin.Write([]byte("192.0.2.1\n")); err != nil {
			t.Fatal(err)
		}
		labtest.Until(t, "it has read that", func() bool { return pending(t, r) == 0 })
		if err := c.Process.Signal(unix.SIGINT); err != nil {
			t.Fatal(err)
		}
		if code := c.wait(t); code != 130 || c.stdout.Len() != 0 {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", command, code, &c.stdout, &c.stderr)
		}
		_, _ = r.Close(), stdin.Close()
	}
}

// pending is how many bytes of a pipe nobody has read.
func pending(t *testing.T, pipe *os.File) int {
	t.Helper()
	n, err := unix.IoctlGetInt(int(pipe.Fd()), unix.TIOCINQ)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Without privilege nothing happens, and what is missing is named.
func TestNoPrivilege(t *testing.T) {
	c := &cutting{Cmd: exec.Command(program, "cut", "--host", "192.0.2.1")}
	c.Stdout, c.Stderr = &c.stdout, &c.stderr
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := os.Chmod(filepath.Dir(program), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if code := c.wait(t); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
	if !bytes.Contains(c.stderr.Bytes(), []byte("CAP_NET_ADMIN")) || c.stdout.Len() != 0 {
		t.Errorf("stdout %q, stderr %q", &c.stdout, &c.stderr)
	}
}
