//go:build linux

package lab_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// childVariable makes the test binary a program that builds a lab, says so
// and waits to be killed.
const childVariable = "FLOWCUT_LAB_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		if _, err := lab.Standard(context.Background(), lab.Config{}); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ready")
		select {}
	}
	os.Exit(m.Run())
}

// namespaces returns the names of the namespaces of a process's labs.
func namespaces(t *testing.T, pid int) []string {
	t.Helper()
	names, err := filepath.Glob(fmt.Sprintf("/run/netns/fclab-%d-*", pid))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestLeftoversOfCrash(t *testing.T) {
	cmd := exec.CommandContext(labtest.Context(t), "/proc/self/exe")
	cmd.Env = append(os.Environ(), childVariable+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		t.Fatalf("child said %q, %v", line, err)
	}
	// While the child lives nobody may take its hosts away.
	if err := lab.Sweep(); err != nil {
		t.Fatal(err)
	}
	if got := len(namespaces(t, cmd.Process.Pid)); got != 5 {
		t.Fatalf("living child has %d namespaces, want 5", got)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // says that it was killed
	if got := len(namespaces(t, cmd.Process.Pid)); got != 5 {
		t.Fatalf("killed child has left %d namespaces, want 5", got)
	}
	l, err := lab.New()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := namespaces(t, cmd.Process.Pid); len(got) != 0 {
		t.Fatalf("a new lab has left %v", got)
	}
}

// descriptors returns what the process's descriptors stand for, but for the
// runtime's own and the listing itself.
func descriptors(t *testing.T) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		if name, err := os.Readlink(l); err == nil && !strings.HasPrefix(name, "anon_inode:") {
			names = append(names, name)
		}
	}
	return names
}

// Everything at once, closed in the middle of it: no descriptor, goroutine or
// name may be left.
func TestCloseLeavesNothing(t *testing.T) {
	warm, err := lab.Standard(labtest.Context(t), lab.Config{}) // the runtime's own comes first
	if err != nil {
		t.Fatal(err)
	}
	if err := warm.Close(); err != nil {
		t.Fatal(err)
	}
	goroutines, files := runtime.NumGoroutine(), descriptors(t)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	net, err := lab.Standard(ctx, lab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	busy(t, ctx, net)
	begin := time.Now()
	if err := net.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("Close took %v", took)
	}
	if got := namespaces(t, os.Getpid()); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
	labtest.Until(t, "goroutines have ended", func() bool { return runtime.NumGoroutine() <= goroutines })
	if got := descriptors(t); len(got) > len(files) {
		t.Errorf("descriptors before: %d, after: %d\n%s", len(files), len(got), strings.Join(got, "\n"))
	}
}

// busy starts every kind of traffic and returns while it is going on.
func busy(t *testing.T, ctx context.Context, net *lab.Topology) {
	t.Helper()
	if _, err := net.Servers[0].Listen(port); err != nil {
		t.Fatal(err)
	}
	if err := net.Gateway.Forward(port, net.Servers[0]); err != nil {
		t.Fatal(err)
	}
	to := publics(net)[0]
	for _, kind := range []lab.Kind{lab.Download, lab.Upload, lab.Idle, lab.Speak, lab.Talk} {
		if _, err := net.Clients[0].Dial(ctx, lab.Streams{Kind: kind, To: to, Count: 10}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := net.Clients[1].Exchange(ctx, lab.Datagrams{To: to, Count: 5, Up: 100, Down: 100}); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Servers[0].Ping(ctx, net.Clients[0].Addr4, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	net.Clients[1].Reconnect(lab.Reconnects{To: to, Rate: 200})
	var zero uint64
	net.Sample(time.Millisecond, func() uint64 { return zero })
}
