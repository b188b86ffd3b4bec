//go:build linux

package failover

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// settings are what differs between daemons; the zero value is what the
// primary-backup example of conntrackd has, and UDP.
type settings struct {
	Buffer int    // NetlinkBufferSize and its most, 0: 2 MiB and 8 MiB
	Mode   string // of the synchronisation, "": FTFW
	Inject bool   // what the other one says goes into the kernel's table at once
}

// daemon is a conntrackd inside a gateway.
type daemon struct {
	t    testing.TB
	dir  string
	host *lab.Host
	cmd  *exec.Cmd
	out  bytes.Buffer
}

var configuration = template.Must(template.New("conntrackd.conf").Parse(`
Sync {
	Mode {{.Mode}} {
{{- if .Inject}}
		DisableExternalCache yes
{{- end}}
	}
	Multicast {
		IPv4_address 225.0.0.50
		Group 3780
		IPv4_interface {{.Own}}
		Interface {{.Device}}
		SndSocketBuffer 1249280
		RcvSocketBuffer 1249280
		Checksum on
	}
}
General {
	HashSize 32768
	HashLimit 131072
	LogFile {{.Dir}}/log
	LockFile {{.Dir}}/lock
	UNIX {
		Path {{.Dir}}/ctl
	}
	NetlinkBufferSize {{.Buffer}}
	NetlinkBufferSizeMaxGrowth {{.Most}}
	Filter From Userspace {
		Protocol Accept {
			TCP
			UDP
		}
		Address Ignore {
			IPv4_address 127.0.0.1
			IPv4_address 203.0.113.1
			IPv4_address 192.168.1.1
			IPv4_address 10.0.0.1
			IPv4_address 10.0.0.2
			IPv6_address ::1
			IPv6_address 2001:db8:1::1
			IPv6_address fd00:1::1
		}
	}
}
`))

// start starts gateway n's daemon and waits until it answers.
func start(t testing.TB, p *lab.Pair, n int, s settings) *daemon {
	t.Helper()
	d := &daemon{t: t, dir: t.TempDir(), host: p.Gateways[n].Host}
	most := s.Buffer
	if s.Buffer == 0 {
		s.Buffer, most = 2<<20, 8<<20
	}
	if s.Mode == "" {
		s.Mode = "FTFW"
	}
	var text bytes.Buffer
	must(t, configuration.Execute(&text, struct {
		settings
		Most        int
		Dir, Device string
		Own         string
	}{s, most, d.dir, lab.SyncDevice, lab.SyncAddress(n).String()}))
	must(t, os.WriteFile(d.config(), text.Bytes(), 0o600))
	d.run()
	t.Cleanup(func() {
		d.kill()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(d.dir, "log"))
			t.Logf("%s: conntrackd said %s\n%s", d.host.Name, d.out.String(), log)
		}
	})
	return d
}

func (d *daemon) config() string { return filepath.Join(d.dir, "conf") }

// run starts the process.
func (d *daemon) run() {
	d.t.Helper()
	d.cmd = exec.Command("conntrackd", "-C", d.config())
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.out
	must(d.t, d.host.NS.Do(d.cmd.Start))
	labtest.Until(d.t, "conntrackd answers", func() bool {
		_, err := d.ask("-s")
		return err == nil
	})
}

// kill ends the process as a power failure does.
func (d *daemon) kill() {
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
	d.cmd = nil
	for _, name := range []string{"lock", "ctl"} {
		_ = os.Remove(filepath.Join(d.dir, name))
	}
}

// signal sends the process a signal.
func (d *daemon) signal(s unix.Signal) { must(d.t, d.cmd.Process.Signal(s)) }

// ask gives the daemon a command.
func (d *daemon) ask(args ...string) (string, error) {
	out, err := exec.Command("conntrackd", append([]string{"-C", d.config()}, args...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("conntrackd %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// order is ask, and fails the test.
func (d *daemon) order(args ...string) string {
	d.t.Helper()
	out, err := d.ask(args...)
	must(d.t, err)
	return out
}

// count counts the flows of a cache, -i or -e, whose lines have all words.
func (d *daemon) count(cache string, words ...string) (n int) {
	d.t.Helper()
next:
	for line := range strings.Lines(d.order(cache)) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		n++
	}
	return n
}

// known counts the flows of a cache, "internal" or "external", by the daemon's
// own account.
func (d *daemon) known(cache string) int {
	d.t.Helper()
	_, rest, _ := strings.Cut(d.order("-s"), "cache "+cache+":")
	_, rest, _ = strings.Cut(rest, "current active connections:")
	var n int
	_, err := fmt.Sscan(rest, &n)
	must(d.t, err)
	return n
}

// primary does what primary-backup.sh of conntrackd does when a gateway gets
// the addresses.
func (d *daemon) primary() {
	d.t.Helper()
	for _, command := range []string{"-c", "-f", "-R", "-B"} {
		d.order(command)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
