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
	"flowcut/internal/example"
	"flowcut/selector"
)

// TestRenderersDoNotAllocate: a list of a million flows is a matter of seconds
// only as long as its lines cost nothing.
func TestRenderersDoNotAllocate(t *testing.T) {
	f := example.Flows()["both"]
	f.Has |= conntrack.AttrOrigCounters | conntrack.AttrStart | conntrack.AttrTimeout | conntrack.AttrUse
	for _, format := range []string{"text", "json", "conntrack"} {
		r := newRenderer(io.Discard, format, time.Now())
		if n := testing.AllocsPerRun(100, func() { _ = r.flow(f) }); n != 0 {
			t.Errorf("%s: %v allocations a flow", format, n)
		}
	}
}

func BenchmarkRender(b *testing.B) {
	f := example.Flows()["both"]
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
