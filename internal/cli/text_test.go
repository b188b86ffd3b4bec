package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/selector"
)

func TestAppendBytes(t *testing.T) {
	tests := map[uint64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB", 1 << 20: "1.0 MiB",
		1023 << 10: "1023.0 KiB", 12_900_000: "12.3 MiB", 1 << 40: "1.0 TiB", 1<<64 - 1: "16.0 EiB",
	}
	for n, want := range tests {
		if got := string(appendBytes(nil, n)); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

func TestAppendDuration(t *testing.T) {
	tests := map[time.Duration]string{
		0: "0s", 999 * time.Millisecond: "0s", 59 * time.Second: "59s", time.Minute: "1m", 61 * time.Second: "1m1s",
		time.Hour: "1h", time.Hour + time.Second: "1h", time.Hour + 61*time.Second: "1h1m",
		5 * 24 * time.Hour: "5d", 5*24*time.Hour - time.Second: "4d23h", 1000 * 24 * time.Hour: "1000d",
	}
	for d, want := range tests {
		if got := string(appendDuration(nil, d)); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}

// TestAppendRow holds what a real table does not show reliably: counters,
// ages, offloaded flows, changed ids and keys, names of helpers.
func TestAppendRow(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	counted := conntrack.AttrOrigCounters | conntrack.AttrReplyCounters | conntrack.AttrStart | conntrack.AttrTimeout
	flow := conntrack.Flow{
		Has:          conntrack.AttrTCP | counted,
		Orig:         portTuple(conntrack.ProtoTCP, "203.0.113.2:1", "203.0.113.1:2"),
		OrigCounters: conntrack.Counters{Packets: 1, Bytes: 1 << 20}, ReplyCounters: conntrack.Counters{Bytes: 1 << 30},
		Start: now.Add(-90 * time.Second), Timeout: 30 * time.Second, Status: conntrack.StatusSeenReply,
		TCP: conntrack.TCP{State: conntrack.TCPCloseWait}, Helper: "ftp", ReplyZone: 3,
	}
	flow.Reply = flow.Orig.Invert()
	tests := []struct {
		change func(*conntrack.Flow)
		want   string
	}{
		{func(*conntrack.Flow) {}, "tcp      CLOSE_WAIT   -             1.0 GiB   1m30s      30s  203.0.113.2:1 -> 203.0.113.1:2  reply-zone 3  helper ftp"},
		{func(f *conntrack.Flow) { f.Status |= conntrack.StatusOffload; f.Has &^= conntrack.AttrTimeout },
			"tcp      OFFLOAD      -             1.0 GiB   1m30s        -  203.0.113.2:1 -> 203.0.113.1:2  reply-zone 3  helper ftp"},
		{func(f *conntrack.Flow) {
			f.Status |= conntrack.StatusOffload | conntrack.StatusHWOffload
			f.Start = now.Add(time.Hour)
		},
			"tcp      HW_OFFLOAD   -             1.0 GiB      0s      30s  203.0.113.2:1 -> 203.0.113.1:2  reply-zone 3  helper ftp"},
		{func(f *conntrack.Flow) {
			f.Reply.SrcPort = 9
			f.OrigCounters.Bytes = 1023 << 40
			f.TCP.OrigFlags, f.TCP.ReplyFlags = 0x0a, 0x2a
		},
			"tcp      CLOSE_WAIT   yes        1023.0 TiB   1m30s      30s  203.0.113.2:1 -> 203.0.113.1:2 => 203.0.113.1:9  reply-zone 3  helper ftp"},
		{func(f *conntrack.Flow) {
			f.Orig, f.Has, f.Helper = icmpTuple(conntrack.ProtoICMP, "10.0.0.1", "10.0.0.2", 13), 0, ""
			f.Reply = f.Orig.Invert()
			f.Reply.ICMPID = 78
			f.Status |= conntrack.StatusAssured
		}, "icmp     ASSURED      -                   -       -        -  10.0.0.1 -> 10.0.0.2 type 13 code 0 id 77 => 78  reply-zone 3"},
		{func(f *conntrack.Flow) {
			f.Orig, f.Has, f.Helper, f.Status = portTuple(conntrack.ProtoGRE, "10.0.0.1:1", "10.0.0.2:2"), 0, "", 0
			f.Reply = f.Orig.Invert()
			f.Reply.DstPort = 255
		}, "gre      UNREPLIED    -                   -       -        -  10.0.0.1 -> 10.0.0.2 keys 0x1 => 0xff -> 0x2  reply-zone 3"},
	}
	for _, tt := range tests {
		f := flow
		tt.change(&f)
		if got := string(appendRow(nil, &f, now)); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

// TestRenderersDoNotAllocate: a list of a million flows is a matter of seconds
// only as long as its lines cost nothing.
func TestRenderersDoNotAllocate(t *testing.T) {
	f := exampleFlows()["both"]
	f.Has |= conntrack.AttrOrigCounters | conntrack.AttrStart | conntrack.AttrTimeout | conntrack.AttrUse
	for _, format := range []string{"text", "json", "conntrack"} {
		r := newRenderer(io.Discard, format, time.Now())
		if n := testing.AllocsPerRun(100, func() { _ = r.flow(f) }); n != 0 {
			t.Errorf("%s: %v allocations a flow", format, n)
		}
	}
}

func BenchmarkRender(b *testing.B) {
	f := exampleFlows()["both"]
	f.Has |= conntrack.AttrOrigCounters | conntrack.AttrStart | conntrack.AttrTimeout | conntrack.AttrUse
	for _, format := range []string{"text", "json", "conntrack"} {
		b.Run(format, func(b *testing.B) {
			var out bytes.Buffer
			r := newRenderer(&out, format, time.Now())
			b.ReportAllocs()
			for b.Loop() {
				out.Reset()
				_ = r.flow(f)
			}
			b.SetBytes(int64(out.Len()))
		})
	}
}

func TestExitCode(t *testing.T) {
	ctx := context.Background()
	interrupted, cancel := context.WithCancelCause(ctx)
	cancel(Signal{syscall.SIGTERM})
	_, stray := selector.Parse([]string{"stray"})
	_, secret := selector.Parse([]string{"-s", "@/proc/1/mem/x"})
	tests := []struct {
		ctx  context.Context
		err  error
		want int
	}{
		{ctx, nil, 0},
		{ctx, errors.New("failed"), 1},
		{ctx, &exitError{code: 1}, 1},
		{ctx, errors.Join(&exitError{code: 1}, errClosedPipe), 1},
		{ctx, errClosedPipe, 0},
		{ctx, usage("hint", "what"), 2},
		{ctx, stray, 2},
		{ctx, secret, 2},
		{ctx, &selector.Error{Err: fs.ErrPermission}, 2},
		{ctx, fmt.Errorf("dump: %w", syscall.EPERM), 3},
		{ctx, &conntrack.Error{Op: "dump", Errno: syscall.EACCES}, 3},
		{ctx, &conntrack.NotSupportedError{Feature: "x"}, 3},
		{ctx, syscall.EPROTONOSUPPORT, 3},
		{interrupted, context.Canceled, 128 + 15},
		{interrupted, &exitError{code: 1}, 128 + 15},
		{interrupted, nil, 0},
	}
	for _, tt := range tests {
		var stderr strings.Builder
		if got := report(tt.ctx, &stderr, tt.err); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.err, got, tt.want)
		}
		silent := tt.err == nil || tt.want > 3 || errors.Is(tt.err, errClosedPipe)
		if e, ok := errors.AsType[*exitError](tt.err); ok && e.err == nil {
			silent = true
		}
		if silent != (stderr.Len() == 0) || strings.Count(stderr.String(), "\n") > 2 {
			t.Errorf("%v: said %q", tt.err, stderr.String())
		}
	}
}

func TestNeedNarrow(t *testing.T) {
	for line, ok := range map[string]bool{"": false, "-p tcp -f ipv4": false, "-s 0.0.0.0/0": false, "! -s @/dev/null": false, "-g": true, "-s @/dev/null": true} {
		s, err := selector.Parse(strings.Fields(line))
		if err != nil {
			t.Fatal(err)
		}
		if err := needNarrow(s, false); (err == nil) != ok || err != nil && !isUsage(err) {
			t.Errorf("%s: %v", line, err)
		}
		if err := needNarrow(s, true); err != nil {
			t.Errorf("%s with --all: %v", line, err)
		}
	}
}

func TestDurationFlag(t *testing.T) {
	d := duration{words: map[string]time.Duration{"quiet": -2}}
	for in, want := range map[string]time.Duration{"5s": 5 * time.Second, "0": 0, "250ms": 250 * time.Millisecond, "quiet": -2} {
		if err := d.Set(in); err != nil || d.value != want {
			t.Errorf("%s: %v, %v", in, d.value, err)
		}
	}
	for _, in := range []string{"", "-1s", "5", "loud", "1x", "-0.5h"} {
		if err := d.Set(in); err == nil {
			t.Errorf("%q is not refused", in)
		}
	}
}
