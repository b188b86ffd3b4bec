package watch

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"flowcut/conntrack"
	"flowcut/internal/example"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/netns"
)

// place is a network namespace and its table.
func place(t testing.TB) (*netns.NS, *conntrack.Client) {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	c, err := conntrack.Dial(conntrack.Config{NetNS: ns.Fd()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return ns, c
}

// sink is written and read at once. While it is held, writers wait.
type sink struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *sink) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *sink) has(t *testing.T, what string) {
	t.Helper()
	if err := lab.Until(labtest.Context(t), what, func() (bool, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return strings.Contains(s.b.String(), what), nil
	}); err != nil {
		t.Fatalf("%v\n%s", err, s.b.String())
	}
}

// While nobody reads, events are lost. That is said, and what has come back
// meanwhile is found, by text and by JSON.
func TestOverrun(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) { testOverrun(t, format) })
	}
}

func testOverrun(t *testing.T, format string) {
	ns, c := place(t)
	dnat := example.Flows()["dnat"]
	dnat.Timeout = time.Hour
	back := dnat.Clone()
	back.Orig, back.Reply, back.TCP, back.Status = dnat.Reply, dnat.Orig, example.Flows()["zombie"].TCP, 0
	ctx, cancel := context.WithCancel(labtest.Context(t))
	defer cancel()
	var out, errs sink
	var g errgroup.Group
	g.Go(func() error {
		return Run(ctx, Options{NetNS: ns.Fd(), Format: format, Out: &out, Err: &errs, room: 1 << 16}, nil)
	})
	errs.has(t, "watching")
	if err := c.Create(ctx, dnat); err != nil {
		t.Fatal(err)
	}
	out.has(t, "203.0.113.2")

	out.mu.Lock() // nobody reads
	const some = 5000
	if _, err := c.CreateAll(ctx, many(0, some)); err != nil {
		t.Fatal(err)
	}
	f, err := c.Get(ctx, dnat.Orig, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Delete(ctx, []conntrack.Key{f.Key()}, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Create(ctx, back); err != nil {
		t.Fatal(err)
	}
	out.mu.Unlock()

	errs.has(t, "has been listed again")
	cancel()
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	said, mark := strings.Count(errs.b.String(), "events were lost"), "RETURNED, its entry had gone"
	if format == "json" {
		said, mark = strings.Count(out.b.String(), `{"event":"overrun","time":`), `"returned":true`
	}
	if said == 0 || strings.Count(out.b.String(), mark) != 1 || !strings.Contains(errs.b.String(), " 1 return\n") {
		t.Errorf("overruns said %d times, %d returns\n%s", said, strings.Count(out.b.String(), mark), &errs.b)
	}
}

// many yields flows with an hour to live.
func many(first, n int) iter.Seq[*conntrack.Flow] {
	return func(yield func(*conntrack.Flow) bool) {
		for i := first; i < first+n; i++ {
			f := conntrack.Flow{
				Orig: conntrack.Tuple{
					Src: netip.AddrFrom4([4]byte{10, byte(i >> 24), byte(i >> 16), byte(i >> 8)}), Dst: netip.AddrFrom4([4]byte{203, 0, 113, 1}),
					Proto: conntrack.ProtoUDP, SrcPort: 1024 + uint16(i&255), DstPort: 53,
				},
				Timeout: time.Hour,
			}
			if !yield(&f) {
				return
			}
		}
	}
}

// For and Count end a watch, and what had happened before the end of a context
// is printed.
func TestEnds(t *testing.T) {
	ns, c := place(t)
	run := func(ctx context.Context, o Options) (lines int, errs string) {
		t.Helper()
		var out, said sink
		o.NetNS, o.Format, o.Out, o.Err = ns.Fd(), "json", &out, &said
		var g errgroup.Group
		g.Go(func() error { return Run(ctx, o, nil) })
		if o.For == 0 {
			said.has(t, "watching")
			if _, err := c.CreateAll(t.Context(), many(0, 20)); err != nil {
				t.Fatal(err)
			}
			if o.Count == 0 {
				ctx.Value(stopKey{}).(context.CancelFunc)()
			}
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if err := c.Flush(t.Context(), conntrack.FamilyBoth); err != nil {
			t.Fatal(err)
		}
		return strings.Count(out.b.String(), "\n"), said.b.String()
	}
	if n, errs := run(t.Context(), Options{Count: 7}); n != 7 || !strings.Contains(errs, "7 events, 0 returns") {
		t.Errorf("--count 7: %d lines, %s", n, errs)
	}
	begin := time.Now()
	if n, errs := run(t.Context(), Options{For: 50 * time.Millisecond}); n != 0 || time.Since(begin) < 50*time.Millisecond {
		t.Errorf("--for: %d lines, %s, after %v", n, errs, time.Since(begin))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if n, errs := run(context.WithValue(ctx, stopKey{}, cancel), Options{}); n != 20 {
		t.Errorf("%d lines of 20: %s", n, errs)
	}
}

type stopKey struct{}

// BenchmarkChurn lets the built program watch FLOWCUT_RATE (20,000) new flows a
// second and as many that end, for FLOWCUT_SECONDS (5), with FLOWCUT_FLOWS
// (100,000) more in the table, and reports what it has missed and taken.
func BenchmarkChurn(b *testing.B) {
	rate, seconds, others := number(b, "FLOWCUT_RATE", 20_000), number(b, "FLOWCUT_SECONDS", 5), number(b, "FLOWCUT_FLOWS", 100_000)
	program := labtest.Build(b)
	for _, format := range []string{"text", "json", "conntrack"} {
		b.Run(format, func(b *testing.B) {
			for b.Loop() {
				churn(b, program, format, rate, seconds, others)
			}
		})
	}
}

func number(b *testing.B, name string, otherwise int) int {
	n, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		return otherwise
	}
	return n
}

// churn is one run.
func churn(b *testing.B, program, format string, rate, seconds, others int) {
	ns, c := place(b)
	ctx := b.Context()
	if _, err := c.CreateAll(ctx, many(1<<28, others)); err != nil {
		b.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	var errs sink
	cmd := exec.CommandContext(ctx, program, "watch", "-o", format, "--netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()))
	cmd.Stdout, cmd.Stderr = null, &errs
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	if err := lab.Until(ctx, "watching", func() (bool, error) {
		errs.mu.Lock()
		defer errs.mu.Unlock()
		return strings.Contains(errs.b.String(), "watching"), nil
	}); err != nil {
		b.Fatal(err)
	}
	l, err := c.Listen(conntrack.EventConfig{Flows: conntrack.EventNew, RecvBuffer: 128 << 20})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	heard := make(chan int, 1)
	go func() { heard <- deleteAll(ctx, b, c, l, rate*seconds) }()
	const tick = 20 * time.Millisecond
	made, begin := 0, time.Now()
	for i := 1; made < rate*seconds; i++ {
		time.Sleep(time.Until(begin.Add(time.Duration(i) * tick)))
		n := min(rate*int(tick)/int(time.Second), rate*seconds-made)
		if n, err = c.CreateAll(ctx, many(made, n)); err != nil {
			b.Fatal(err)
		}
		made += n
	}
	took, deleted := time.Since(begin), <-heard
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		b.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		b.Fatalf("%v: %s", err, &errs.b)
	}
	var events int
	_, said, _ := strings.Cut(errs.b.String(), "there\n")
	for line := range strings.Lines(said) {
		if strings.Contains(line, " events, ") {
			_, _ = fmt.Sscanf(line, "flowcut: %d events", &events)
		}
	}
	use := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	b.ReportMetric(float64(made)/took.Seconds(), "flows/s")
	b.ReportMetric(float64(made+deleted-events), "missed")
	b.ReportMetric(float64(strings.Count(said, "events were lost")), "overruns")
	b.ReportMetric(100*use.Seconds()/took.Seconds(), "cpu-%")
	b.ReportMetric(float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)/1024, "MiB")
}

// deleteAll deletes n flows as it hears of them.
func deleteAll(ctx context.Context, b *testing.B, c *conntrack.Client, l *conntrack.Listener, n int) (deleted int) {
	var keys []conntrack.Key
	for e, err := range l.Events(ctx) {
		if err != nil || e.Flow == nil {
			b.Error(err, e)
			return deleted
		}
		if keys = append(keys, e.Flow.Key()); len(keys) < 200 && deleted+len(keys) < n {
			continue
		}
		gone, err := c.Delete(ctx, keys, nil)
		if err != nil {
			b.Error(err)
			return deleted
		}
		keys, deleted = keys[:0], deleted+gone
		if deleted >= n {
			break
		}
	}
	return deleted
}
