package conntrack

import (
	"context"
	"encoding/binary"
	"errors"
	"iter"
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// churn makes new flows at a rate and deletes each again when keep others were
// made after it. The last ones stay.
type churn struct {
	rate, keep int
	flows      int  // in all
	update     bool // change the mark of each
}

// run makes the flows; it returns how many were made and how many deleted.
func (g churn) run(ctx context.Context, c *Client) (made, deleted int, err error) {
	const tick = 5 * time.Millisecond
	n := max(1, g.rate*int(tick)/int(time.Second))
	begin := time.Now()
	for i := 0; made < g.flows; i++ {
		if ahead := time.Until(begin.Add(time.Duration(i) * tick)); ahead > 0 {
			select {
			case <-ctx.Done():
				return made, deleted, ctx.Err()
			case <-time.After(ahead):
			}
		}
		k, err := c.CreateAll(ctx, churnFlows(made, n))
		made += k
		if err != nil {
			return made, deleted, err
		}
		if g.update {
			if err := c.updateAll(ctx, churnFlows(made-k, k)); err != nil {
				return made, deleted, err
			}
		}
		for made-deleted > g.keep {
			keys := make([]Key, 0, n)
			for f := range churnFlows(deleted, min(n, made-deleted-g.keep)) {
				keys = append(keys, Key{Orig: f.Orig})
			}
			k, err := c.deleteAny(ctx, keys)
			deleted += k
			if err != nil {
				return made, deleted, err
			}
		}
	}
	return made, deleted, nil
}

// updateAll changes the mark of flows.
func (c *Client) updateAll(ctx context.Context, flows iter.Seq[*Flow]) error {
	return c.with("update", func(s *conn) error {
		b := newBatch(s, "update")
		var refused refusals
		b.refused = func(_ int, a answer) { refused.add(newError("update", "", a)) }
		for f := range flows {
			out, start := beginMessage(s.out, b.begin(msgNew, 0), f.Orig.Family(), versionPlain)
			out = appendTuple(out, attrTupleOrig, &f.Orig, 0, false)
			out = appendUint32(out, attrMark, 1)
			if err := b.add(endMessage(out, start), nil); err != nil {
				return err
			}
			if b.full() {
				if err := b.send(ctx); err != nil {
					return err
				}
				b.reset()
			}
		}
		return errors.Join(b.send(ctx), refused.err())
	})
}

// deleteAny deletes entries by their tuples alone.
func (c *Client) deleteAny(ctx context.Context, keys []Key) (int, error) {
	n := 0
	err := c.with("delete", func(s *conn) error {
		b := newBatch(s, "delete")
		b.refused = func(int, answer) { n-- }
		for i := range keys {
			h := b.begin(msgDelete, 0)
			out, start := beginMessage(s.out, h, keys[i].Orig.Family(), versionPlain)
			out = appendTuple(out, attrTupleOrig, &keys[i].Orig, 0, false)
			if err := b.add(endMessage(out, start), nil); err != nil {
				return err
			}
			n++
			if b.full() || i == len(keys)-1 {
				if err := b.send(ctx); err != nil {
					return err
				}
				b.reset()
			}
		}
		return nil
	})
	return n, err
}

// churnFlows yields n flows from the one numbered first on.
func churnFlows(first, n int) iter.Seq[*Flow] {
	return func(yield func(*Flow) bool) {
		var f Flow
		for i := first; i < first+n; i++ {
			var a [4]byte
			binary.BigEndian.PutUint32(a[:], 0x0a000001+uint32(i/50_000))
			f = Flow{
				Orig: Tuple{
					Src: netip.AddrFrom4(a), Dst: netip.AddrFrom4([4]byte{203, 0, 113, 1}),
					Proto: ProtoUDP, SrcPort: uint16(1024 + i%50_000), DstPort: 53,
				},
				Timeout: time.Hour,
			}
			if !yield(&f) {
				return
			}
		}
	}
}

// BenchmarkEvents hears FLOWCUT_RATE new flows a second (50,000) for
// FLOWCUT_SECONDS (2), each of which is changed at once and deleted a second
// later, and keeps a picture of them. cpu is the reader's.
func BenchmarkEvents(b *testing.B) {
	rate, seconds := benchEnv(b, "FLOWCUT_RATE", 50_000), benchEnv(b, "FLOWCUT_SECONDS", 2)
	c := dialTest(b)
	var made, deleted, lost int
	var heard atomic.Int64
	var busy, took time.Duration
	for b.Loop() {
		if err := c.Flush(b.Context(), FamilyBoth); err != nil {
			b.Fatal(err)
		}
		l, err := c.Listen(EventConfig{RecvBuffer: 64 << 20})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		var g errgroup.Group
		g.Go(func() error {
			defer cancel()
			var err error
			begin := time.Now()
			made, deleted, err = churn{rate: rate, keep: rate, flows: rate * seconds, update: true}.run(ctx, c)
			took = time.Since(begin)
			untilQuiet(b, l, &heard)
			return err
		})
		heard.Store(0)
		lost = 0
		p := NewPicture(func(m *Mark, f *Flow) { *m = f.Mark })
		before := threadCPU(b)
		for e, err := range l.Events(ctx) {
			if errors.Is(err, context.Canceled) {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			p.Apply(e)
			heard.Add(1)
			if e.Kind == EventOverrun {
				lost++
			}
		}
		busy = threadCPU(b) - before
		if err := g.Wait(); err != nil {
			b.Fatal(err)
		}
		_ = l.Close()
	}
	b.ReportMetric(float64(made), "made")
	b.ReportMetric(float64(2*made+deleted-int(heard.Load())), "missing")
	b.ReportMetric(float64(lost), "overruns")
	b.ReportMetric(float64(busy)/float64(heard.Load()), "cpu-ns/event")
	b.ReportMetric(100*busy.Seconds()/took.Seconds(), "cpu-%")
	b.ReportMetric(float64(made)/took.Seconds(), "flows/s")
}

// untilQuiet waits until all that is queued was read and heard counts no more.
func untilQuiet(t testing.TB, l *Listener, heard *atomic.Int64) {
	for before := int64(-1); ; {
		time.Sleep(300 * time.Millisecond)
		now := heard.Load()
		if now == before && queued(t, l.q.conn) == 0 {
			return
		}
		before = now
	}
}

// threadCPU returns the processor time of the calling thread, which is locked.
func threadCPU(b *testing.B) time.Duration {
	var u syscall.Rusage
	const thread = 1 // RUSAGE_THREAD
	if err := syscall.Getrusage(thread, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchEnv returns a number of the environment.
func benchEnv(b *testing.B, name string, other int) int {
	s := os.Getenv(name)
	if s == "" {
		return other
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// BenchmarkEventsBacklog reads 50,000 events that are waiting.
func BenchmarkEventsBacklog(b *testing.B) {
	const n = 50_000
	c := dialTest(b)
	b.ReportAllocs()
	var room int
	for b.Loop() {
		b.StopTimer()
		if err := c.Flush(b.Context(), FamilyBoth); err != nil {
			b.Fatal(err)
		}
		l, err := c.Listen(EventConfig{RecvBuffer: 64 << 20})
		if err != nil {
			b.Fatal(err)
		}
		if made, err := c.CreateAll(b.Context(), churnFlows(0, n)); made != n || err != nil {
			b.Fatal(made, err)
		}
		room = queued(b, l.q.conn)
		b.StartTimer()
		heard := 0
		for e, err := range l.Events(b.Context()) {
			if err != nil || e.Kind != EventNew {
				b.Fatal(e, err)
			}
			if heard++; heard == n {
				break
			}
		}
		b.StopTimer()
		_ = l.Close()
		b.StartTimer()
	}
	b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(b.N)/n, "ns/event")
	b.ReportMetric(float64(room)/n, "queue-B/event")
}

// queued returns how much the kernel charges for what waits on a socket.
func queued(t testing.TB, s *conn) int {
	var info [9]uint32 // SK_MEMINFO_VARS
	err := errors.New("not run")
	if cerr := s.raw.Control(func(fd uintptr) {
		size := uint32(unsafe.Sizeof(info))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		err = nil
		if errno != 0 {
			err = errno
		}
	}); cerr != nil || err != nil {
		t.Errorf("memory of a socket: %v, %v", cerr, err)
	}
	return int(info[0]) // SK_MEMINFO_RMEM_ALLOC
}
