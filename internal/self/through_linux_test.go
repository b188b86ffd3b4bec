package self

import (
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestMain makes another process of the test where it is told to: one that connects
// to addresses and stays until nobody writes to it any more.
func TestMain(m *testing.M) {
	to := os.Getenv("CONNECT")
	if to == "" {
		os.Exit(m.Run())
	}
	for _, a := range strings.Fields(to) {
		if _, err := net.Dial("tcp", a); err != nil {
			os.Exit(1)
		}
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// Who looks through a port that an SSH server forwards works through that server's
// other connections, but not through those of a proxy.
func TestThrough(t *testing.T) {
	for name, want := range map[string]bool{"sshd-session": true, "proxy": false} {
		session, forward := accept(t), accept(t)
		program := filepath.Join(t.TempDir(), name) // which is what it is called
		b, err := os.ReadFile("/proc/self/exe")
		if err == nil {
			err = os.WriteFile(program, b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program)
		cmd.Env = []string{"CONNECT=" + session.Addr().String() + " " + forward.Addr().String()}
		stdin, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		own := connection(t, session)
		page := connection(t, forward)
		list, hidden := Through(page.peer, page.local)
		if !slices.Contains(list, tuple(page.peer, page.local)) || hidden == want {
			t.Errorf("%s: %v lacks the connection itself, hidden %v", name, list, hidden)
		}
		if got := slices.Contains(list, tuple(own.local, own.peer)); got != want {
			t.Errorf("%s: its other connection is in the list: %v, want %v; %v", name, got, want, list)
		}
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	far := netip.MustParseAddrPort("192.0.2.1:1")
	here := netip.MustParseAddrPort("192.0.2.2:9190")
	if list, hidden := Through(far, here); hidden || !slices.Equal(list, append(list[:0:0], tuple(far, here))) {
		t.Errorf("from elsewhere: %v, hidden %v", list, hidden)
	}
}

func accept(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// connection waits for one.
func connection(t *testing.T, l net.Listener) socket {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return socket{local: c.LocalAddr().(*net.TCPAddr).AddrPort(), peer: c.RemoteAddr().(*net.TCPAddr).AddrPort()}
}
