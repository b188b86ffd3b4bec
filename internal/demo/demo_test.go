//go:build linux

package demo

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The whole demo, with less time to watch: the old methods fail, each in its
// own way, and flowcut holds.
func TestMethods(t *testing.T) {
	o := Options{Before: 300 * time.Millisecond, After: 2500 * time.Millisecond}.normal()
	results, err := measure(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 4 {
		t.Fatalf("%d results, want 4", len(results))
	}
	for _, r := range results[:3] {
		if r.silent || r.rate < 1e8 || r.idleOpen != idles || r.clientsTold+r.serversTold != 0 || r.entries < streams {
			t.Errorf("%s: silent %v, %s, idle open %d, told %d and %d, entries %d; it should have failed",
				r.name, r.silent, gbit(r.rate), r.idleOpen, r.clientsTold, r.serversTold, r.entries)
		}
	}
	r := results[3]
	const all = streams + idles
	if !r.silent || r.idleOpen != 0 || r.clientsTold != all || r.serversTold != all || r.entries != 0 {
		t.Errorf("%s: silent %v, idle open %d, told %d and %d, entries %d",
			r.name, r.silent, r.idleOpen, r.clientsTold, r.serversTold, r.entries)
	}
	if r.broken != 0 || r.lost != 0 || r.datagrams == 0 {
		t.Errorf("%s hurt bystanders: %d connections, %d of %d datagrams", r.name, r.broken, r.lost, r.datagrams)
	}
}

// An end of the context ends the demo at once and leaves no picture.
func TestRunInterrupted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "demo.svg")
	stop := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(300*time.Millisecond, func() { cancel(stop) })
	begin := time.Now()
	if err := Run(ctx, Options{SVG: file}); !errors.Is(err, stop) {
		t.Errorf("error %v, want %v", err, stop)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("picture: %v", err)
	}
}
