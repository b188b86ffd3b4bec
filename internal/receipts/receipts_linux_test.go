package receipts

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/internal/netns"
)

// shout makes another process, as another user, of the test: it sends a word.
func TestMain(m *testing.M) {
	if path := os.Getenv("SHOUT"); path != "" {
		c, err := net.Dial("unixgram", path)
		if err == nil {
			_, err = c.Write([]byte(os.Getenv("WORD")))
		}
		if err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func shout(t *testing.T, path, word string, user uint32) error {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"SHOUT=" + path, "WORD=" + word}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	return cmd.Run()
}

func begin(t *testing.T, dir string) *Listener {
	t.Helper()
	l, err := listen(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func soon() time.Time { return time.Now().Add(10 * time.Second) }

// A receipt arrives as it was sent, but for its flows; a long one is cut short.
func TestSend(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "flowcut")
	l := begin(t, dir)
	r := &cut.Receipt{Version: 1, Selector: "-s 192.0.2.1", Proven: true, ElapsedMS: cut.Millis(time.Second)}
	r.Flows.Deleted = 3
	r.Flow = make([]cut.FlowReport, 1)
	r.Flow[0].Flow = new(conntrack.Flow)
	send(dir, 0, "me", r, soon())
	n, err := l.Next()
	if err != nil || n.By != "me" || n.Receipt.Selector != r.Selector || n.Receipt.Flows != r.Flows || n.Receipt.ElapsedMS != r.ElapsedMS || n.Receipt.Flow != nil || !strings.HasPrefix(n.Words, "proven: nothing matched, in 1s") {
		t.Errorf("%+v, %v", n, err)
	}
	r.Reason, r.Fence.Detours = strings.Repeat("\x01", 1<<20), []string{strings.Repeat("x", 1<<20)}
	send(dir, 0, "me", r, soon())
	if n, err := l.Next(); err != nil || len(n.Receipt.Reason) < 1000 || n.Receipt.Flows != r.Flows {
		t.Errorf("a long one: %v", err)
	}
	if r.Flow == nil || len(r.Fence.Detours) == 0 {
		t.Error("the sender's receipt was changed")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory stays: %v", err)
	}
	send(dir, 0, "me", r, soon()) // nobody listens
}

// What is no receipt, and what others send, is refused; what follows is not.
func TestRefused(t *testing.T) {
	dir := t.TempDir() // which others may enter, unlike that of Listen
	for p := dir; p != "/" && p != os.TempDir(); p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l := begin(t, dir)
	good, err := encode(NewNote("me", &cut.Receipt{Version: 1}))
	if err != nil {
		t.Fatal(err)
	}
	negative, err := encode(NewNote("me", &cut.Receipt{Flows: cut.FlowCounts{Deleted: -1}}))
	if err != nil {
		t.Fatal(err)
	}
	other, err := json.Marshal(Note{Version: 2, Receipt: &cut.Receipt{}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		word string
		user uint32
		want string // of the error, "" for none
	}{
		{string(good), 0, ""},
		{string(good), 65534, "from user 65534"},
		{"", 0, "0 bytes"},
		{"{", 0, "1 bytes"},
		{`{"version":1}`, 0, "with a receipt"},
		{string(other), 0, "version 2"},
		{string(negative), 0, "below zero"},
		{strings.Repeat("x", 2*most+1), 0, "longer than"},
		{string(good), 0, ""},
	} {
		if err := shout(t, l.path, tt.word, tt.user); err != nil {
			t.Fatal(err)
		}
		_, err := l.Next()
		if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%.30q of %d: %v, want %q", tt.word, tt.user, err, tt.want)
		}
	}
	if _, err := listen(dir, 0); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a second listener: %v", err)
	}
}

// Each namespace has its own; one that takes no more costs the patience, no more.
func TestNamespaces(t *testing.T) {
	dir := t.TempDir()
	l := begin(t, dir)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	there, err := listen(dir, ns.Fd())
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	send(dir, ns.Fd(), "there", new(cut.Receipt), soon())
	send(dir, 0, "here", new(cut.Receipt), soon())
	if n, err := l.Next(); err != nil || n.By != "here" {
		t.Errorf("%+v, %v", n, err)
	}
	if n, err := there.Next(); err != nil || n.By != "there" {
		t.Errorf("%+v, %v", n, err)
	}
	err = ns.Do(func() error { send(dir, 0, "inside", new(cut.Receipt), soon()); return nil })
	if n, _ := there.Next(); err != nil || n == nil || n.By != "inside" {
		t.Errorf("%+v, %v", n, err)
	}
	const patience = 50 * time.Millisecond
	began, sent := time.Now(), 0
	for ; time.Since(began) < patience; sent++ { // the queue of datagrams is short
		began = time.Now()
		send(dir, 0, "here", new(cut.Receipt), began.Add(patience))
	}
	if took := time.Since(began); took > 20*patience || sent < 2 {
		t.Errorf("the one that was not taken took %v, %d were", took, sent-1)
	}
}

// One that ends leaves the socket of the one that has waited for its place.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	for range 100 {
		l := begin(t, dir)
		next := make(chan *Listener)
		go func() {
			for {
				if l, err := listen(dir, 0); err == nil {
					next <- l
					return
				}
			}
		}()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = <-next
		if _, err := os.Stat(l.path); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
