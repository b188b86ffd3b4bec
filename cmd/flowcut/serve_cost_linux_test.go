package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab/labtest"
	"flowcut/internal/lab/tabletest"
)

var (
	entries = flag.Int("entries", 20_000, "of the table whose serving is measured")
	watched = flag.Duration("watched", 2*time.Second, "for how long each")
)

// What serving a table costs, with and without an open page and events, the listing that
// these begin with included: less than a quarter of a processor, and next to nothing while
// nobody looks and no events are heard. For a large table: -args -entries N -watched 60s.
func TestServeCost(t *testing.T) {
	tabletest.FillOwn(t, *entries)
	for _, tt := range []struct {
		name   string
		events bool
		page   bool
	}{{"alone, no events", false, false}, {"alone", true, false}, {"page, no events", false, true}, {"page", true, true}} {
		socket := filepath.Join(t.TempDir(), "serve.sock")
		c := &cutting{Cmd: exec.Command(program, "serve", "--listen", "unix:"+socket)}
		if !tt.events {
			c.Args = append(c.Args, "--no-events")
		}
		c.Stdout, c.Stderr = &c.stdout, &c.stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}}}
		labtest.Until(t, "it listens", func() bool { _, err := os.Stat(socket); return err == nil })
		if tt.page {
			r, err := client.Get("http://localhost/events")
			if err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = io.Copy(io.Discard, r.Body) }() // ends with the server
		}
		before, began := cpu(t, c.Process.Pid), time.Now()
		timer := time.NewTimer(*watched) // time itself is meant
		<-timer.C
		used, took := cpu(t, c.Process.Pid)-before, time.Since(began)
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		peak := regexp.MustCompile(`VmHWM:\s+(\d+)`).FindSubmatch(status)[1]
		t.Logf("%d entries, %s: %.1f %% of a processor, %s KiB at most", *entries, tt.name, 100*used.Seconds()/took.Seconds(), peak)
		if used > took/4 || !tt.page && !tt.events && used > took/50 {
			t.Errorf("%s: %v in %v", tt.name, used, took)
		}
		if err := c.Process.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code := c.wait(t); code != 0 {
			t.Errorf("exit code %d: %s", code, &c.stderr)
		}
	}
}

// cpu is what a process has used, in ticks of 10 ms.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	total := 0
	for _, f := range fields[14-3 : 16-3] {
		n, err := strconv.Atoi(string(f))
		if err != nil {
			t.Fatal(err)
		}
		total += n
	}
	return time.Duration(total) * 10 * time.Millisecond
}
