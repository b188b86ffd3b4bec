package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"flowcut/cut"
	"flowcut/internal/receipts"
)

// A Unix socket has its mode from the beginning, a stale one is replaced, one that
// is in use is not, and it is gone in the end.
func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "serve.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	_ = stale.Close()
	ns := scratch(t)
	t.Run("serve", func(t *testing.T) {
		s := start(t, ns, func(cfg *Config) { cfg.Listen = "unix:" + path })
		s.url = "http://localhost"
		s.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}}
		if s.metric(t, "flowcut_table_entries", "", "") == 0 {
			t.Error("no entries")
		}
		if code, answer := s.ask(t, "/cut/plan", `{"selection":"-s 203.0.113.1"}`, nil); code != http.StatusOK || !strings.Contains(answer, "cannot be seen from here") {
			t.Errorf("a dry run: %d %s", code, answer)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		if _, err := New(Config{Listen: "unix:" + path, NetNS: ns.Fd(), Warn: func(string) {}}); err == nil || !strings.Contains(err.Error(), "in use") {
			t.Errorf("a second one: %v", err)
		}
		s.client.CloseIdleConnections()
	})
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
}

// Cuts are not offered to other hosts unless that is said.
func TestPublic(t *testing.T) {
	ns := scratch(t)
	cfg := Config{Listen: "0.0.0.0:0", NetNS: ns.Fd(), Token: secret, Warn: func(string) {}}
	if _, err := New(cfg); !errors.Is(err, ErrPublic) {
		t.Errorf("cuts for all: %v", err)
	}
	s := start(t, ns, func(c *Config) { c.Listen, c.Public = cfg.Listen, true })
	if !strings.Contains(s.said.String(), "without TLS") {
		t.Errorf("warned of %q", s.said)
	}
}

// The file of a token is for its owner alone, and what is in it is long.
func TestReadToken(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		name, content string
		mode          os.FileMode
		gid           int
		want          string // of the error; "" for none
	}{
		{"good", secret + "\n", 0o600, 0, ""},
		{"read-only", secret, 0o400, 0, ""},
		{"systemd's", secret, 0o440, 0, ""},
		{"a group's", secret, 0o440, 65534, "mode 0440"},
		{"everybody's", secret, 0o604, 0, "mode 0604"},
		{"writable", secret, 0o620, 0, "mode 0620"},
		{"short", "secret", 0o600, 0, "20 visible"},
		{"empty", "", 0o600, 0, "20 visible"},
		{"two words", secret + " " + secret, 0o600, 0, "20 visible"},
		{"long", secret + strings.Repeat(" ", 4096), 0o600, 0, "longer than 4096"},
		{"two lines", secret + "\n" + secret, 0o600, 0, "20 visible"},
	} {
		path := filepath.Join(dir, tt.name)
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, 0, tt.gid); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, tt.mode); err != nil {
			t.Fatal(err)
		}
		got, err := ReadToken(path)
		if tt.want == "" && (err != nil || got != secret) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
	if _, err := ReadToken(dir); err == nil {
		t.Error("a directory is no token")
	}
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(other, 1, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadToken(other); err == nil || !strings.Contains(err.Error(), "user 1") {
		t.Errorf("somebody else's: %v", err)
	}
}

// A panic in a handler is said with its place, and the connection ends.
func TestPanic(t *testing.T) {
	var said []string
	s := &Server{cfg: Config{Hosts: []string{"example.com"}, Warn: func(line string) { said = append(said, line) }}}
	defer func() {
		all := strings.Join(said, "\n")
		p, _ := recover().(error)
		if !errors.Is(p, http.ErrAbortHandler) || !strings.Contains(all, "GET /x: oh") || !strings.Contains(all, "door_linux_test.go") {
			t.Errorf("%v; said:\n%s", p, all)
		}
	}()
	s.door(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oh") })).ServeHTTP(
		httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/x", nil))
}

// What pages are told last is what is known last, whoever comes first.
func TestReceiptsInOrder(t *testing.T) {
	b := newBoard(nil, newHub())
	for round := range 200 {
		var g sync.WaitGroup
		for i := range 8 {
			g.Go(func() { b.receipt(receipts.NewNote(fmt.Sprint(round, i), new(cut.Receipt))) })
		}
		g.Wait()
		list, err := json.Marshal(b.receipts)
		if err != nil {
			t.Fatal(err)
		}
		if told := b.hub.last["receipts"]; !bytes.Contains(told, list) {
			t.Fatalf("known is\n%s\ntold was\n%s", list, told)
		}
	}
}
