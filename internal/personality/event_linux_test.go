package personality

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/lab/tabletest"
)

// watching is a run of -E.
type watching struct {
	*exec.Cmd
	stderr bytes.Buffer
	lines  atomic.Int64
	last   atomic.Value // string
	done   chan struct{}
}

// watch starts -E with a buffer of a size and waits until it listens.
func watch(t *testing.T, tt *tableUnderTest, buffer int, args ...string) *watching {
	t.Helper()
	w := &watching{done: make(chan struct{})}
	w.Cmd = exec.Command(labtest.Build(t), append([]string{"conntrack", "-E", "-b", strconv.Itoa(buffer)}, args...)...)
	r, err := w.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	notice, err := w.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tt.ns.Do(w.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Process.Kill() })
	go func() {
		defer close(w.done)
		for s := bufio.NewScanner(r); s.Scan(); {
			w.last.Store(s.Text())
			w.lines.Add(1)
		}
	}()
	first := bufio.NewReader(notice)
	text, err := first.ReadString('\n')
	if err != nil || !strings.Contains(text, "socket buffer size has been set to "+strconv.Itoa(2*buffer)) {
		t.Fatalf("%q, %v", text, err)
	}
	go func() { _, _ = io.Copy(&w.stderr, first) }()
	return w
}

// end ends it with a signal and returns what it said.
func (w *watching) end(t *testing.T, s os.Signal) string {
	t.Helper()
	if err := w.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	<-w.done
	if err := w.Wait(); err != nil {
		t.Fatal(err)
	}
	return w.stderr.String()
}

// setting returns a number of the environment, for longer runs by hand.
func setting(t *testing.T, name string, usual int) int {
	t.Helper()
	v, ok := os.LookupEnv(name)
	if !ok {
		return usual
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// With room enough -E shows every one of many new flows. FLOWCUT_SECONDS and
// FLOWCUT_RATE make it longer and faster.
func TestEventsKeepUp(t *testing.T) {
	seconds, rate := setting(t, "FLOWCUT_SECONDS", 2), setting(t, "FLOWCUT_RATE", 20000)
	tt := newTable(t)
	w := watch(t, tt, 64<<20, "-e", "NEW", "-o", "timestamp,extended,id")
	begin := time.Now()
	const part = 20 * time.Millisecond
	n := rate / int(time.Second/part)
	var old []conntrack.Key
	made := 0
	for i := range seconds * int(time.Second/part) {
		flows := make([]*conntrack.Flow, n)
		for j := range flows {
			flows[j] = &conntrack.Flow{Timeout: time.Hour, Orig: tabletest.Tuple(made)}
			made++
		}
		if _, err := tt.client.CreateAll(t.Context(), values(flows)); err != nil {
			t.Fatal(err)
		}
		if made%rate == 0 {
			old = tt.deleteOld(t, old)
		}
		time.Sleep(time.Until(begin.Add(time.Duration(i+1) * part))) // the pace
	}
	took := time.Since(begin)
	labtest.Until(t, "all events are shown", func() bool { return w.lines.Load() >= int64(made) })
	said := w.end(t, syscall.SIGINT)
	if want := "): " + strconv.Itoa(made) + " flow events have been shown.\n"; !strings.HasSuffix(said, want) || strings.Contains(said, "ENOBUFS") {
		t.Errorf("%s, want %s", said, want)
	}
	usage := w.ProcessState
	t.Logf("%d new flows in %v, %.0f a second; %v of processor", made, took.Round(time.Millisecond),
		float64(made)/took.Seconds(), (usage.UserTime() + usage.SystemTime()).Round(time.Millisecond))
}

// deleteOld deletes the keys of last time and returns those of now.
func (tt *tableUnderTest) deleteOld(t *testing.T, old []conntrack.Key) []conntrack.Key {
	t.Helper()
	if _, err := tt.client.Delete(t.Context(), old, nil); err != nil {
		t.Fatal(err)
	}
	var now []conntrack.Key
	for f, err := range tt.client.Dump(t.Context(), conntrack.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		now = append(now, f.Key())
	}
	return now
}

func values(flows []*conntrack.Flow) func(func(*conntrack.Flow) bool) {
	return func(yield func(*conntrack.Flow) bool) {
		for _, f := range flows {
			if !yield(f) {
				return
			}
		}
	}
}

// Without room -E says so, goes on, and shows what happens then.
func TestEventsOverrun(t *testing.T) {
	tt := newTable(t)
	w := watch(t, tt, 4096)
	fill(t, tt.client, 50000, 1)
	last := &conntrack.Flow{Timeout: time.Hour, Orig: tabletest.Tuple(1 << 20)}
	labtest.Until(t, "events are shown again", func() bool {
		// Over and over: the events of one time may be lost.
		if f, err := tt.client.Get(t.Context(), last.Orig, 0); err == nil {
			if _, err := tt.client.Delete(t.Context(), []conntrack.Key{f.Key()}, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := tt.client.Create(t.Context(), last); err != nil {
			t.Fatal(err)
		}
		text, _ := w.last.Load().(string)
		return strings.Contains(text, " src="+last.Orig.Src.String()+" ") && strings.Contains(text, "sport=17 ")
	})
	said := w.end(t, syscall.SIGTERM)
	if !strings.HasPrefix(said, overrun) {
		t.Errorf("%s, want %s", said, overrun)
	}
	if !strings.HasSuffix(said, "): "+strconv.FormatInt(w.lines.Load(), 10)+" flow events have been shown.\n") {
		t.Errorf("%s, but %d lines", said, w.lines.Load())
	}
}
