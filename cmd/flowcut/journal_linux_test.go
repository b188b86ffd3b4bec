package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// ownDevices gives the program a /dev of its own, in which log is what the
// test listens to or nothing, and becomes the program.
const ownDevices = `
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$DIR/dev"
: >"$DIR/dev/null"
mount --bind /dev/null "$DIR/dev/null"
[ ! -e "$DIR/log" ] || ln -s "$DIR/log" "$DIR/dev/log"
mount --move "$DIR/dev" /dev
exec "$@"
`

// logged is a gateway and a system log of the test's own.
type logged struct {
	net *lab.Topology
	dir string
	log *net.UnixConn // nil: none
}

func newLogged(t *testing.T) *logged {
	t.Helper()
	l := &logged{dir: t.TempDir()}
	l.net, _ = gateway(t)
	if err := os.Mkdir(filepath.Join(l.dir, "dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *logged) listen(t *testing.T) {
	t.Helper()
	var err error
	l.log, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(l.dir, "log"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.log.Close() })
}

// cut starts the program with the log.
func (l *logged) cut(t *testing.T, args ...string) *cutting {
	t.Helper()
	args = append([]string{"-c", ownDevices, "sh", program, "cut", "--netns", l.net.Gateway.Name, "-o", "json", "--settle", "0s"}, args...)
	c := &cutting{Cmd: exec.Command("sh", args...)}
	c.Env = append(os.Environ(), "DIR="+l.dir, "SUDO_USER=op\nJan  1 00:00:00 \x1b[31mforged")
	c.Stdout, c.Stderr = &c.stdout, &c.stderr
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// lines returns what the log was told. What a process sent before it ended is
// there to be read.
func (l *logged) lines(t *testing.T) []string {
	t.Helper()
	var out []string
	buf := make([]byte, 64<<10)
	for {
		if err := l.log.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, err := l.log.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(buf[:n]))
	}
}

// fill makes the table hold two flows whose ends nobody can ask.
func (l *logged) fill(t *testing.T) {
	t.Helper()
	err := l.net.Gateway.NS.Do(func() error {
		const entry = "conntrack -I -p tcp -d 203.0.113.78 --sport 1 --dport 2 --state ESTABLISHED -t 600 -u SEEN_REPLY,ASSURED -s "
		return exec.Command("sh", "-ec", "conntrack -F; "+entry+"203.0.113.76; "+entry+"203.0.113.77").Run()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Each cut leaves one line in the system log, whatever came of it.
func TestJournal(t *testing.T) {
	l := newLogged(t)
	l.listen(t)
	// LOG_AUTH with LOG_NOTICE is 37, with LOG_WARNING 36.
	const head = `>\w{3} [ \d]\d \d\d:\d\d:\d\d flowcut\[\d+\]: cut user="root" uid=0 sudo_user="op\\nJan  1 00:00:00 \\x1b\[31mforged" `
	where := ` netns="` + l.net.Gateway.Name + `" `
	words := strings.Fields
	for _, c := range []struct {
		name string
		args []string
		code int
		want string // "" for no line
	}{
		{"nothing matches", words("-s 192.0.2.1"), 0,
			`^<37` + head + `selector="--orig-src 192.0.2.1"` + where + `matched=0 deleted=0 spared=0 proven=yes elapsed=[\d.]+m?s\n$`},
		{"dry run", words("--all --dry-run"), 0, ""},
		{"usage", nil, 2, ""},
		{"too many", words("--all --max 1"), 1, ""},
		{"not proven", append(words("--all --hold 0s --spare"), "-s 203.0.113.76"), 1,
			`^<36` + head + `selector="--all"` + where + `matched=2 deleted=1 spared=1 proven=no reason=".+" elapsed=[\d.]+m?s\n$`},
	} {
		t.Run(c.name, func(t *testing.T) {
			l.fill(t)
			run := l.cut(t, c.args...)
			if code := run.wait(t); code != c.code {
				t.Fatalf("exit code %d, want %d\n%s%s", code, c.code, &run.stdout, &run.stderr)
			}
			checkLines(t, l.lines(t), c.want)
		})
	}
	t.Run("interrupted", func(t *testing.T) {
		before := labtest.Ruleset(t, l.net.Gateway.Host)
		l.fill(t)
		run := l.cut(t, "--all", "--no-kick", "--settle", "20s")
		labtest.Until(t, "the fence stands", func() bool { return labtest.Ruleset(t, l.net.Gateway.Host) != before })
		if err := run.Process.Signal(unix.SIGINT); err != nil {
			t.Fatal(err)
		}
		run.wait(t)
		checkLines(t, l.lines(t), `^<36`+head+`.* proven=no reason="interrupt ended it at .+" elapsed=`)
	})
}

func checkLines(t *testing.T, got []string, want string) {
	t.Helper()
	if want == "" {
		if len(got) > 0 {
			t.Errorf("the log was told %q", got)
		}
		return
	}
	if len(got) != 1 || !regexp.MustCompile(want).MatchString(got[0]) {
		t.Errorf("the log was told %q, want one line like %s", got, want)
	}
}

// A log that takes nothing, or that is not there, costs no time and no error.
func TestJournalAbsent(t *testing.T) {
	for _, full := range []bool{false, true} {
		l := newLogged(t)
		if full {
			l.listen(t)
			l.stuff(t)
		}
		run := l.cut(t, "-s", "192.0.2.1")
		stuck := time.AfterFunc(10*time.Second, func() { _ = run.Process.Kill() })
		if code := run.wait(t); code != 0 || run.stderr.Len() > 0 {
			t.Errorf("full %v: exit code %d\n%s", full, code, &run.stderr)
		}
		stuck.Stop()
	}
}

// stuff writes to the log until there is no room.
func (l *logged) stuff(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	to := &unix.SockaddrUnix{Name: filepath.Join(l.dir, "log")}
	for err == nil {
		err = unix.Sendto(fd, []byte("x"), 0, to)
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
}
