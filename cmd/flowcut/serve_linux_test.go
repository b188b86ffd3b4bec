package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/receipts"
)

// served is a run of "flowcut serve" for a gateway.
type served struct {
	*exec.Cmd
	url, token string
	stderr     bytes.Buffer
}

func serve(t *testing.T, site *lab.Topology, args ...string) *served {
	t.Helper()
	s := &served{Cmd: exec.Command(program, append([]string{"serve", "--netns", site.Gateway.Name, "--listen", "127.0.0.1:0"}, args...)...)}
	s.Stderr = &s.stderr
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Process.Kill() })
	for lines := bufio.NewScanner(out); s.url == ""; {
		if !lines.Scan() {
			t.Fatalf("it ended: %s", &s.stderr)
		}
		if v, ok := strings.CutPrefix(lines.Text(), "token: "); ok {
			s.token = v
		}
		if v, ok := strings.CutPrefix(lines.Text(), "listening on "); ok {
			s.url = v
		}
	}
	return s
}

// metric returns a line of the metrics without its name.
func (s *served) metric(t *testing.T, name string) string {
	t.Helper()
	r, err := http.Get(s.url + "metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("no %s in\n%s", name, b)
	}
	return string(m[1])
}

func (s *served) post(t *testing.T, path, body string) (code int, answer string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+s.token)
	got, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	b, err := io.ReadAll(got.Body)
	if err != nil {
		t.Fatal(err)
	}
	return got.StatusCode, string(b)
}

// Cuts by other processes, by hand and in batches, are counted and shown to pages
// that are open, and so is one from the page; in the end nothing is left.
func TestServe(t *testing.T) {
	site, to := gateway(t)
	s := serve(t, site, "--allow-cut")
	stream, err := http.Get(s.url + "events")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	events := bufio.NewScanner(stream.Body)
	wantShown := func(words ...string) {
		t.Helper()
		for events.Scan() {
			all := strings.HasPrefix(events.Text(), `data: [{"time":`)
			for _, w := range words {
				all = all && strings.Contains(events.Text(), w)
			}
			if all {
				return
			}
		}
		t.Errorf("the page was not told of %q: %v", words, events.Err())
	}
	wantMetrics := func(cuts, deleted, silences string) {
		t.Helper()
		for name, want := range map[string]string{
			`flowcut_cuts_total{proven="yes"}`: cuts, `flowcut_cuts_total{proven="no"}`: "0",
			`flowcut_cut_flows_total{outcome="deleted"}`: deleted, "flowcut_cut_silence_seconds_count": silences,
		} {
			if got := s.metric(t, name); got != want {
				t.Errorf("%s is %s, want %s", name, got, want)
			}
		}
	}
	labtest.Dial(t, site.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: to, Count: 3})
	c := begin(t, site, "-g", "--settle", "0s")
	if code := c.wait(t); code != 0 {
		t.Fatalf("exit code %d\n%s", code, &c.stderr)
	}
	wantShown("proven: 3 flows ended for good", "--dst-nat", `user=\"root\"`)
	wantMetrics("1", "3", "1")
	if got := s.metric(t, `flowcut_cut_ends_told_total{how="reset"}`); got != "6" {
		t.Errorf("%s ends were told, want 6", got)
	}
	batch := filepath.Join(t.TempDir(), "batch")
	if err := os.WriteFile(batch, []byte("-s 192.0.2.1\n-s 192.0.2.2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := begin(t, site, "--batch", batch, "--settle", "0s").wait(t); code != 0 {
		t.Fatalf("batch: exit code %d", code)
	}
	wantShown("192.0.2.1", "192.0.2.2")
	wantMetrics("3", "3", s.metric(t, "flowcut_cut_silence_seconds_count"))
	fromPage(t, s, site, to.String())
	wantShown("from 127.0.0.1", "proven: 2 flows ended for good")
	stopped(t, s)
}

// fromPage cuts as the page does.
func fromPage(t *testing.T, s *served, site *lab.Topology, to string) {
	t.Helper()
	idle := labtest.Dial(t, site.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: site.To(site.Clients[0], site.Servers[0], port, false), Count: 2})
	code, answer := s.post(t, "cut/plan", `{"selection":"-p tcp --dport 5201"}`)
	m := regexp.MustCompile(`"plan":"(\w+)"`).FindStringSubmatch(answer)
	if code != http.StatusOK || m == nil || !strings.Contains(answer, `"matched":2`) || !strings.Contains(answer, to) {
		t.Fatalf("dry run: %d %s", code, answer)
	}
	if n := idle.Told(unix.ECONNRESET); n != 0 {
		t.Errorf("the dry run has ended %d", n)
	}
	if code, answer := s.post(t, "cut", fmt.Sprintf(`{"plan":%q}`, m[1])); code != http.StatusOK || !strings.Contains(answer, "proven: 2 flows") {
		t.Fatalf("cut: %d %s", code, answer)
	}
	wantTold(t, idle)
}

// stopped ends the server and looks for what it has left.
func stopped(t *testing.T, s *served) {
	t.Helper()
	mine, err := filepath.Glob(receipts.Dir + "/*")
	if err != nil || len(mine) == 0 {
		t.Errorf("no socket for receipts: %v", err)
	}
	open, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.Process.Pid))
	if err != nil || len(open) == 0 {
		t.Errorf("nothing is open: %v", err)
	}
	if err := s.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(); err != nil {
		t.Errorf("%v: %s", err, &s.stderr)
	}
	now, err := filepath.Glob(receipts.Dir + "/*")
	if err != nil || len(now) >= len(mine) {
		t.Errorf("sockets before the end %q, after it %q", mine, now)
	}
	if s.stderr.Len() > 0 {
		t.Errorf("it said %s", &s.stderr)
	}
}

// What serves alone keeps no right that a cut needs.
func TestServeRights(t *testing.T) {
	site, _ := gateway(t)
	for allow, want := range map[string]uint64{
		"--no-events": 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_SYS_ADMIN, // the latter for --netns
		"--allow-cut": 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_SYS_ADMIN |
			1<<unix.CAP_SYS_PTRACE | 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_SYS_NICE,
	} {
		s := serve(t, site, allow)
		for _, m := range regexp.MustCompile(`Cap(?:Prm|Eff):\s+([0-9a-f]+)`).FindAllSubmatch(threads(t, s.Process.Pid), -1) {
			var caps uint64
			if _, err := fmt.Sscanf(string(m[1]), "%x", &caps); err != nil || caps != want {
				t.Errorf("%s: capabilities %#x, want %#x", allow, caps, want)
			}
		}
		stopped(t, s)
	}
}

// As the unit runs it, a user with one capability serves from a directory of his own:
// systemd hears when it is ready, and root's cuts are shown.
func TestServeAsService(t *testing.T) {
	site, _ := gateway(t)
	dir, err := os.MkdirTemp("", "serve")
	if err == nil {
		err = errors.Join(os.Chmod(dir, 0o777), os.Chmod(filepath.Dir(program), 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err == nil {
		err = os.Chmod(filepath.Join(dir, "notify"), 0o777)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	const start = `set -e
		mount --make-rprivate /
		mount -t tmpfs -o mode=755 tmpfs /run
		install -d -o 65534 -g 65534 -m 750 /run/flowcut
		exec setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs --inh-caps -all,+net_admin \
			--ambient-caps -all,+net_admin --bounding-set -all,+net_admin "$0" serve --listen unix:/run/flowcut/serve.sock`
	c := &cutting{Cmd: exec.Command("unshare", "--mount", "sh", "-c", start, program)}
	c.Stderr, c.Env = &c.stderr, append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(dir, "notify"))
	if err := site.Gateway.NS.Do(c.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill() })
	word := make([]byte, 100)
	for _, want := range []string{"READY=1", "STOPPING=1"} {
		if err := ready.SetReadDeadline(time.Now().Add(time.Duration(labtest.Slow()) * 20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if n, err := ready.Read(word); err != nil || string(word[:n]) != want {
			t.Fatalf("systemd was told %q, want %s: %v\n%s", word[:n], want, err, &c.stderr)
		}
		if want == "READY=1" {
			service(t, c.Process.Pid)
			if err := c.Process.Signal(unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
	}
	if code := c.wait(t); code != 0 || c.stderr.Len() > 0 {
		t.Errorf("exit code %d: %s", code, &c.stderr)
	}
}

// service holds a running service to what root sees of it from where it is.
func service(t *testing.T, pid int) {
	t.Helper()
	inside := func(args ...string) *exec.Cmd {
		return exec.Command("nsenter", append([]string{"--target", strconv.Itoa(pid), "--mount", "--net"}, args...)...)
	}
	if out, err := inside(program, "cut", "-s", "192.0.2.1").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	socket := fmt.Sprintf("/proc/%d/root/run/flowcut/serve.sock", pid)
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	labtest.Until(t, "the cut is counted", func() bool {
		r, err := client.Get("http://localhost/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		return err == nil && bytes.Contains(b, []byte(`flowcut_cuts_total{proven="yes"} 1`))
	})
	client.CloseIdleConnections()
	for _, m := range regexp.MustCompile(`Cap\w+:\s+([0-9a-f]+)`).FindAllSubmatch(threads(t, pid), -1) {
		if string(m[1]) != fmt.Sprintf("%016x", 1<<unix.CAP_NET_ADMIN) {
			t.Errorf("a set of capabilities is %s", m[0])
		}
	}
}
