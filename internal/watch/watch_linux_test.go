package watch

import (
	"bytes"
	"context"
	"errors"
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
	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/example"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/netns"
	"flowcut/internal/sysctl"
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
	_, said, _ := strings.Cut(errs.b.String(), "there\n")
	lines := strings.Split(strings.TrimSpace(said), "\n")
	var events int
	_, _ = fmt.Sscanf(lines[len(lines)-1], "flowcut: %d events", &events)
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

// Who begins anew on the same tuples, after a reset, an end or a timeout, has not
// returned: connections, and datagrams.
func TestBystanders(t *testing.T) {
	const port, tries = 7000, 100
	ctx := labtest.Context(t)
	net := labtest.Standard(t, lab.Config{})
	client, server, gateway := net.Clients[0], net.Servers[0], net.Gateway
	labtest.Listen(t, server.Host, port)
	if err := gateway.Forward(port, server); err != nil {
		t.Fatal(err)
	}
	if err := gateway.NS.Do(func() error { return sysctl.Set("net.netfilter.nf_conntrack_udp_timeout", 1) }); err != nil {
		t.Fatal(err)
	}
	var out, errs sink
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	var g errgroup.Group
	g.Go(func() error {
		return Run(running, Options{NetNS: gateway.NS.Fd(), Format: "json", Out: &out, Err: &errs}, nil)
	})
	errs.has(t, "watching")
	if err := client.NS.Do(func() error {
		for i := range tries {
			if err := connect(client.Addr4, uint16(20000+i%5), gateway.Public4, port, true); err != nil {
				return fmt.Errorf("connection %d: %w", i, err)
			}
			if err := connect(client.Addr4, uint16(30000+i), gateway.Public4, port, false); err != nil {
				return fmt.Errorf("connection %d: %w", i, err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for begun := range 2 {
		if err := client.NS.Do(func() error { return send(client.Addr4, 40000, gateway.Public4, port) }); err != nil {
			t.Fatal(err)
		}
		if err := lab.Until(ctx, "expired", func() (bool, error) {
			out.mu.Lock()
			defer out.mu.Unlock()
			return ends(out.b.String(), `"proto":"udp","sport":40000`) > begun, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.b.String(), `"event":"new"`); n < 2*tries+2 {
		t.Errorf("%d flows, want %d", n, 2*tries+2)
	}
	if n := ends(out.b.String(), `"sport":2000`); n < tries-5 {
		t.Errorf("%d of %d connections were begun anew", n, tries)
	}
	if i := strings.Index(out.b.String(), `"returned":true`); i >= 0 {
		t.Errorf("marked: %s", out.b.String()[i:])
	}
}

// ends counts the ends of flows whose line has some words.
func ends(out, words string) (n int) {
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, `{"event":"destroy"`) && strings.Contains(line, words) {
			n++
		}
	}
	return n
}

// connect makes a connection from a port and ends it, with a reset or without.
func connect(from netip.Addr, port uint16, to netip.Addr, toPort uint16, reset bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: map[bool]int32{true: 1}[reset]}),
	)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(port), Addr: from.As4()})
	}
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(toPort), Addr: to.As4()})
	}
	return errors.Join(err, unix.Close(fd))
}

// send sends a datagram from a port.
func send(from netip.Addr, port uint16, to netip.Addr, toPort uint16) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(port), Addr: from.As4()}); err == nil {
		err = unix.Sendto(fd, []byte("hello"), 0, &unix.SockaddrInet4{Port: int(toPort), Addr: to.As4()})
	}
	return errors.Join(err, unix.Close(fd))
}
