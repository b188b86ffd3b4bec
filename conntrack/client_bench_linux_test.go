package conntrack

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// benchSize is how many flows the benchmarks make; FLOWCUT_FLOWS overrides it.
func benchSize(b *testing.B) int {
	s := os.Getenv("FLOWCUT_FLOWS")
	if s == "" {
		return 50_000
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// manyFlows yields n established TCP flows, a tenth of them to one server by
// a reply tuple that looks translated.
func manyFlows(n int) iter.Seq[*Flow] {
	return func(yield func(*Flow) bool) {
		for i := range n {
			var a [4]byte
			binary.BigEndian.PutUint32(a[:], 0x0a000001+uint32(i/50_000))
			f := Flow{
				Has: AttrStatus | AttrTCP | AttrReply,
				Orig: Tuple{
					Src: netip.AddrFrom4(a), Dst: netip.AddrFrom4([4]byte{203, 0, 113, 1}),
					Proto: ProtoTCP, SrcPort: uint16(1024 + i%50_000), DstPort: 5201,
				},
				Timeout: time.Hour, Status: StatusSeenReply | StatusAssured,
				TCP: TCP{State: TCPEstablished, OrigFlags: TCPWindowScale, ReplyFlags: TCPWindowScale},
			}
			f.Reply = f.Orig.Invert()
			if i%10 == 0 {
				f.Reply.Src = netip.AddrFrom4([4]byte{192, 168, 1, 100})
			}
			if !yield(&f) {
				return
			}
		}
	}
}

// dialFull returns a client whose table holds n flows.
func dialFull(b *testing.B, n int) *Client {
	c := dialTest(b)
	made, err := c.CreateAll(b.Context(), manyFlows(n))
	if err != nil || made != n {
		b.Fatalf("made %d of %d flows: %v", made, n, err)
	}
	return c
}

func BenchmarkDump(b *testing.B) {
	n := benchSize(b)
	c := dialFull(b, n)
	b.Run(fmt.Sprint("flows=", n), func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			got := 0
			for _, err := range c.Dump(context.Background(), Filter{}) {
				if err != nil {
					b.Fatal(err)
				}
				got++
			}
			if got != n {
				b.Fatalf("dumped %d of %d", got, n)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/flow")
	})
}

// BenchmarkAgainstConntrack times both programs on the same table, by turns.
// Needs conntrack(8).
func BenchmarkAgainstConntrack(b *testing.B) {
	n := benchSize(b)
	c := dialFull(b, n)
	var ours, theirs time.Duration
	for b.Loop() {
		begin := time.Now()
		got := 0
		for _, err := range c.Dump(context.Background(), Filter{}) {
			if err != nil {
				b.Fatal(err)
			}
			got++
		}
		ours += time.Since(begin)
		begin = time.Now()
		cmd := exec.Command("conntrack", "-L") // in the namespace of this thread
		var msg strings.Builder
		cmd.Stderr = &msg
		if err := cmd.Run(); err != nil {
			b.Fatalf("conntrack -L: %v: %s", err, msg.String())
		}
		theirs += time.Since(begin)
		if got != n || !strings.Contains(msg.String(), fmt.Sprint(n)) {
			b.Fatalf("dumped %d of %d; conntrack says %s", got, n, msg.String())
		}
	}
	b.ReportMetric(ours.Seconds()/float64(b.N), "ours-s")
	b.ReportMetric(theirs.Seconds()/float64(b.N), "conntrack-s")
	b.ReportMetric(ours.Seconds()/theirs.Seconds(), "ours/conntrack")
}

// BenchmarkDelete deletes a tenth of the table, exactly, as a cut does. Each
// round finds the entries by a dump of their server and makes them again.
func BenchmarkDelete(b *testing.B) {
	n := benchSize(b)
	c := dialFull(b, n)
	x := Filter{Reply: Tuple{Src: netip.AddrFrom4([4]byte{192, 168, 1, 100})}, ReplyFields: FieldSrc}
	var dump, del time.Duration
	for b.Loop() {
		begin := time.Now()
		var keys []Key
		for f, err := range c.Dump(context.Background(), x) {
			if err != nil {
				b.Fatal(err)
			}
			keys = append(keys, f.Key())
		}
		dump += time.Since(begin)
		begin = time.Now()
		deleted, err := c.Delete(context.Background(), keys, nil)
		if err != nil || deleted != n/10 {
			b.Fatalf("deleted %d of %d: %v", deleted, n/10, err)
		}
		del += time.Since(begin)
		if _, err := c.CreateAll(context.Background(), func(yield func(*Flow) bool) {
			for f := range manyFlows(n) {
				if f.Reply.Src == x.Reply.Src && !yield(f) {
					return
				}
			}
		}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(dump.Seconds()/float64(b.N), "dump-s")
	b.ReportMetric(del.Seconds()/float64(b.N), "delete-s")
}
