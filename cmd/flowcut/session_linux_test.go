package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"flowcut/cut"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// server is a gateway with an SSH server that has processes, users and
// mounts of its own, so that the test's ancestors are none of its sessions'.
type server struct {
	net *lab.Topology
	to  netip.AddrPort // a server behind the gateway
	dir string
	ssh *exec.Cmd
}

// boot begins the SSH server. As process 1 it takes all of its sessions
// along, and what these left behind.
const redirected = 2222

const boot = `
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir /run/sshd
: >/run/utmp
for f in passwd shadow group sudoers; do mount --bind "$DIR/$f" "/etc/$f"; done
exec /usr/sbin/sshd -D -e -f "$DIR/sshd_config"
`

var serverFiles = map[string]string{
	"passwd":  "root:x:0:0::/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\nop:x:1000:1000::/:/bin/sh\nother:x:1001:1000::/:/bin/sh\n",
	"shadow":  "root:*:19000::::::\nsshd:*:19000::::::\nop:*:19000::::::\nother:*:19000::::::\n",
	"group":   "root:x:0:\nutmp:x:43:\nop:x:1000:\ntty:x:5:\n",
	"sudoers": "Defaults env_reset\nDefaults:op use_pty\nroot ALL=(ALL) NOPASSWD: ALL\nop ALL=(ALL) NOPASSWD: ALL\nother ALL=(root) NOPASSWD: /usr/bin/sleep\n",
	"sshd_config": "HostKey @DIR/host\nAuthorizedKeysFile @DIR/user.pub\nPidFile none\nUsePAM no\nPermitRootLogin yes\n" +
		"StrictModes no\nPrintMotd no\nPrintLastLog no\nUseDNS no\n",
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{dir: t.TempDir()}
	for _, dir := range []string{filepath.Dir(program), filepath.Dir(s.dir), s.dir} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range serverFiles {
		mode := os.FileMode(0o644)
		if name == "sudoers" {
			mode = 0o440
		}
		if err := os.WriteFile(s.file(name), []byte(strings.ReplaceAll(text, "@DIR", s.dir)), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"host", "user"} {
		out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", s.file(key)).CombinedOutput()
		if err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	s.net, s.to = gateway(t)
	if err := s.net.Gateway.Redirect(redirected, 22); err != nil {
		t.Fatal(err)
	}
	s.ssh = exec.Command("sh", "-c", boot)
	s.ssh.Env = append(os.Environ(), "DIR="+s.dir)
	s.ssh.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	var said bytes.Buffer
	s.ssh.Stdout, s.ssh.Stderr = &said, &said
	if err := s.net.Gateway.NS.Do(s.ssh.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.ssh.Process.Kill()
		_ = s.ssh.Wait()
		if t.Failed() {
			t.Logf("sshd: %s", &said)
		}
	})
	return s
}

func (s *server) file(name string) string { return filepath.Join(s.dir, name) }

// door is a way to reach the gateway: only from inside is its port open.
type door struct {
	from *lab.Station
	to   netip.AddrPort
}

func (s *server) inside4() door {
	from := s.net.Servers[1]
	return door{from, netip.AddrPortFrom(from.Via4, 22)}
}

func (s *server) inside6() door {
	from := s.net.Servers[1]
	return door{from, netip.AddrPortFrom(from.Via6, 22)}
}

// outside leads through a redirected port, so that the flow's own tuple is
// not that of the server's socket.
func (s *server) outside() door {
	return door{s.net.Clients[1], netip.AddrPortFrom(s.net.Gateway.Public4, redirected)}
}

// connect runs a command on the gateway through a connection of its own, with
// a terminal or without one.
func (s *server) connect(t *testing.T, user, terminal string, by door, command string) *session {
	t.Helper()
	c := &session{done: make(chan struct{})}
	c.Cmd = exec.Command("ssh", "-F", "none", "-i", s.file("user"), terminal,
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes",
		"-o", "ConnectionAttempts=20", "-o", "LogLevel=ERROR",
		"-p", strconv.Itoa(int(by.to.Port())), user+"@"+by.to.Addr().String(), command)
	c.Env = append(os.Environ(), "TERM=xterm")
	c.Stdout, c.Stderr = &c.said, &c.said
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.say = func(line string) {
		// A session that was cut takes no more; the caller looks for what comes of it.
		_, _ = stdin.Write([]byte(line + "\n"))
	}
	if err := by.from.NS.Do(c.Start); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.done)
		c.err = c.Wait()
	}()
	t.Cleanup(func() {
		_ = c.Process.Kill()
		<-c.done
		if t.Failed() {
			t.Logf("ssh: %v: %q", c.err, &c.said)
		}
	})
	return c
}

// session is one SSH connection.
type session struct {
	*exec.Cmd
	said bytes.Buffer // to be read when done
	say  func(line string)
	done chan struct{}
	err  error
}

func (c *session) over() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// The scripts of a session: one cuts, the other shows that the session
// lives by writing down what it is told.
const (
	cutScript = `
%[1]s cut --all %[2]s --settle 0s --hold 0s -o json >"%[3]s.json" 2>"%[3]s.err"
echo $? >"%[3]s.part" && mv "%[3]s.part" "%[3]s.code"
`
	liveScript = `
read line && echo "$line" >"%[1]s.part" && mv "%[1]s.part" "%[1]s.said"
read line
`
)

// scene is a way to work on a gateway.
type scene struct {
	name     string
	user     string
	terminal string             // -T or -tt
	door     func(*server) door // (*server).inside4 if nil
	program  string             // the program and what runs it
	flags    string
	before   string // run by a connection that is over by then
	command  string // @CUT is the script that cuts, @LIVE the one that shows life, @BOTH has both
	waits    string // what has to hold before the cut

	other  string // run by somebody else's session from the same host, which is cut
	who    string // whose that is, user other if empty
	away   bool   // from another one
	forges string // run at the terminal before the cut
	ends   bool   // the session is meant to end
	says   string // what it says on its standard error
}

const (
	tmuxStarts  = `TMUX= tmux -S @DIR/tmux -f /dev/null new-session -d sh @BOTH`
	tmuxServes  = `[ "$(tmux list-clients)" ]`
	tmuxAttach  = `tmux -S @DIR/tmux attach`
	screenBegin = `SCREENDIR=@DIR/screen screen -dm -S cut sh @BOTH`
	// Nothing leads from the terminal that script(1) makes to the session.
	otherTerminal = "env -u SSH_CONNECTION setsid -f script -qc 'sh @CUT' /dev/null </dev/null >/dev/null 2>&1; sh @LIVE"
	stays         = `: >@DIR/there; read line`

	// Somebody who was given the terminal names his own connection there, and
	// a child of his holds another one under the name of who let the child in.
	ownClaim   = `echo "$SSH_CONNECTION" >@DIR/claim; ` + stays
	falseClaim = `
SSH_CONNECTION=$(cat @DIR/claim) setpriv --reuid other --clear-groups perl -MPOSIX=setsid -MIO::Socket::INET -e '
	fork or sleep(600), exit;
	setsid();
	our $held = IO::Socket::INET->new("@TO") or die;
	open(F, ">", "@DIR/forged");
	sleep 600' &
until [ -e @DIR/forged ]; do sleep 0.02; done
`
	// Somebody else takes the server's name, and the place of the parent of
	// what root runs for him.
	falseServer = `cp /usr/bin/perl @DIR/sshd
exec @DIR/sshd -MIO::Socket::INET -e '
	syscall(@PRCTL, @SUBREAPER, 1, 0, 0, 0) == 0 or die;
	our $held = IO::Socket::INET->new("@TO") or die;
	my $sudo = fork // die;
	exec "sudo", "-n", "/usr/bin/sleep", "600" if !$sudo;
	select(undef, undef, undef, 0.02) until qx(cat /proc/[0-9]*/comm 2>/dev/null) =~ /^sleep$/m;
	kill 9, $sudo;
	waitpid $sudo, 0;
	open(F, ">", "@DIR/there");
	sleep 600'`

	// systemd-logind, which does not run here, would write this.
	logindWrites = `sudo -n sh -c ': >/run/utmp; mkdir -p /run/systemd/sessions; ` +
		`printf "TTY=%s\nREMOTE_HOST=%s\n" "$0" "$1" >/run/systemd/sessions/7' "$(tty | cut -c 6-)" $SSH_CONNECTION; `
)

// Whoever cuts everything over SSH keeps the connection to the gateway.
func TestSession(t *testing.T) {
	s := newServer(t)
	limited := s.limited(t)
	for _, c := range []scene{
		// Nothing at all leads to it, nor to a terminal of that number: so it comes first.
		{name: "hidden", user: "op", terminal: "-T", program: limited, command: strings.Replace(otherTerminal, "sh @LIVE", "exec env -i sh @LIVE", 1), ends: true, says: "CAP_SYS_PTRACE"},
		{name: "plain", user: "root", terminal: "-T", program: program, command: "sh @BOTH"},
		{name: "redirected", user: "root", terminal: "-T", door: (*server).outside, program: program, command: "sh @BOTH"},
		{name: "include-self", user: "root", terminal: "-T", program: program, flags: "--include-self", command: "sh @BOTH", ends: true},
		// Only what ancestors hold tells: the variable is nowhere.
		{name: "stripped", user: "root", terminal: "-T", door: (*server).inside6, program: program, command: "exec env -u SSH_CONNECTION sh @BOTH"},
		{name: "sudo", user: "op", terminal: "-tt", program: "sudo -n " + program, command: "sh @BOTH"},
		// The variable names a connection that is over, and the server of
		// tmux is a child of process 1.
		{name: "tmux", user: "root", terminal: "-tt", program: program, before: tmuxStarts, command: tmuxAttach, waits: tmuxServes,
			other: stays, who: "root"},
		{name: "sudo in tmux", user: "op", terminal: "-tt", door: (*server).inside6, program: "sudo -n " + program, before: tmuxStarts, command: tmuxAttach, waits: tmuxServes},
		{name: "screen", user: "root", terminal: "-tt", program: program, before: screenBegin,
			command: "SCREENDIR=@DIR/screen screen -r cut", waits: `screen -ls | grep -q Attached`},
		{name: "forged", user: "root", terminal: "-tt", program: program, before: tmuxStarts, command: tmuxAttach, waits: tmuxServes,
			other: ownClaim, forges: falseClaim},
		// Nothing leads to the session but the user.
		{name: "other terminal", user: "root", terminal: "-T", program: program, other: stays, command: otherTerminal},
		{name: "forged server", user: "root", terminal: "-T", program: program, other: falseServer, command: otherTerminal},
		// Others' processes are closed to it, and without a terminal there is no record.
		{name: "variable", user: "op", terminal: "-T", program: limited, command: "sh @BOTH"},
		// The variable is gone; the login record is not.
		{name: "login record", user: "op", terminal: "-tt", program: limited, other: stays, away: true, command: "exec env -i sh @BOTH"},
		{name: "session file", user: "op", terminal: "-tt", program: limited, command: logindWrites + "exec env -i sh @BOTH"},
	} {
		t.Run(c.name, func(t *testing.T) { s.play(t, c) })
	}
}

// limited makes a copy of the program with just the rights that a cut needs.
func (s *server) limited(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.file("flowcut"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	const revision2, effective = 0x02000000, 1 // VFS_CAP_REVISION_2, VFS_CAP_FLAGS_EFFECTIVE
	capability := make([]byte, 20)             // struct vfs_cap_data: both flags, then permitted and inheritable, twice
	binary.LittleEndian.PutUint32(capability, revision2|effective)
	binary.LittleEndian.PutUint32(capability[4:], 1<<unix.CAP_NET_ADMIN|1<<unix.CAP_NET_RAW)
	if err := unix.Setxattr(s.file("flowcut"), "security.capability", capability, 0); err != nil {
		t.Fatalf("give rights to %s: %v", s.file("flowcut"), err)
	}
	return s.file("flowcut")
}

func (s *server) play(t *testing.T, c scene) {
	dir := filepath.Join(s.dir, strings.ReplaceAll(c.name, " ", "-"))
	names := s.scripts(t, dir, c)
	by := s.inside4()
	if c.door != nil {
		by = c.door(s)
	}
	idle := labtest.Dial(t, s.net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: s.to, Count: 5})
	defer idle.Close()
	var other *session
	if c.other != "" {
		from := by
		if c.away {
			from = s.outside()
		}
		other = s.connect(t, cmp.Or(c.who, "other"), "-T", from, names.Replace(c.other))
		labtest.Until(t, "somebody else is there", func() bool { return exists(filepath.Join(dir, "there")) })
	}
	if c.before != "" {
		first := s.connect(t, c.user, "-T", by, names.Replace(c.before))
		labtest.Until(t, "the first connection is over", first.over)
		if first.err != nil {
			t.Fatal(first.err)
		}
	}
	own := s.connect(t, c.user, c.terminal, by, names.Replace(c.command))
	labtest.Until(t, "the cut is over", func() bool { return exists(filepath.Join(dir, "out.code")) || own.over() && !c.ends })
	s.check(t, dir, c, own)
	ends := append(slices.Clone(idle), idle.Peers()...)
	if err := ends.WaitTold(labtest.Context(t)); err != nil {
		t.Error(err)
	}
	if n := ends.Told(unix.ECONNRESET); n != len(ends) {
		t.Errorf("%d of %d other sockets got ECONNRESET", n, len(ends))
	}
	if other != nil {
		labtest.Until(t, "somebody else's session is over", other.over)
	}
}

// check looks at the receipt, and whether the session lives.
func (s *server) check(t *testing.T, dir string, c scene, own *session) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "out.json"))
	if err != nil {
		t.Fatal(err)
	}
	said, _ := os.ReadFile(filepath.Join(dir, "out.err"))
	var r cut.Receipt
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatalf("receipt: %v\n%s%s", err, b, said)
	}
	if !strings.Contains(string(said), c.says) || c.says == "" && len(said) != 0 {
		t.Errorf("it says %q, want %q", said, c.says)
	}
	if c.ends {
		if r.Flows.Spared != 0 {
			t.Errorf("receipt %s", b)
		}
		labtest.Until(t, "the session is over", own.over)
		return
	}
	if r.Flows.Spared != 1 || !r.Proven {
		t.Errorf("want one spared, the rest proven: receipt %s%s", b, said)
	}
	own.say("still here")
	labtest.Until(t, "the session answers or is over", func() bool { return exists(filepath.Join(dir, "out.said")) || own.over() })
	if got, _ := os.ReadFile(filepath.Join(dir, "out.said")); string(got) != "still here\n" {
		t.Errorf("the session says %q", got)
	}
}

// scripts writes the scene's scripts and returns what puts their names into a command.
func (s *server) scripts(t *testing.T, dir string, c scene) *strings.Replacer {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil { // users of the gateway write there
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "screen"), 0o700); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	script := c.forges + fmt.Sprintf(cutScript, c.program, c.flags, out)
	if c.waits != "" {
		script = "until " + c.waits + "; do sleep 0.02; done\n" + script
	}
	live := fmt.Sprintf(liveScript, out)
	to := netip.AddrPortFrom(s.net.Servers[0].Addr4, port)
	places := []string{"@DIR", dir, "@TO", to.String(),
		"@PRCTL", strconv.Itoa(unix.SYS_PRCTL), "@SUBREAPER", strconv.Itoa(unix.PR_SET_CHILD_SUBREAPER)}
	path := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(strings.NewReplacer(places...).Replace(text)), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	return strings.NewReplacer(append(places,
		"@CUT", path("cut.sh", script), "@LIVE", path("live.sh", live), "@BOTH", path("both.sh", script+live))...)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, os.ErrNotExist)
}
