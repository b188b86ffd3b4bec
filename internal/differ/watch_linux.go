package differ

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"flowcut/conntrack"

	"golang.org/x/sys/unix"
)

// watch runs a program that prints events: once it listens, things happen;
// once it has dealt with them, it is interrupted.
func (s *side) watch(ctx context.Context, w *world, words []string) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, patience/4)
	defer cancel()
	var stdout, stderr bytes.Buffer
	var cmd *exec.Cmd
	err := s.do(func() (err error) {
		cmd, err = start(ctx, s.program, words, "", &stdout, &stderr)
		return err
	})
	if err != nil {
		return outcome{}, err
	}
	var gone atomic.Bool
	done := make(chan error, 1)
	go func() {
		done <- cmd.Wait()
		gone.Store(true)
	}()
	v := viewer{side: s, pid: cmd.Process.Pid, gone: &gone}
	err = v.perform(ctx, w)
	_ = cmd.Process.Signal(unix.SIGINT) // it may have ended by itself
	if wait := <-done; err == nil {
		if exit := (*exec.ExitError)(nil); wait != nil && !errors.As(wait, &exit) {
			err = wait
		}
	}
	s.dirty = true
	return outcome{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String(), made: v.made}, err
}

// viewer is a program that watches events.
type viewer struct {
	*side
	pid  int
	gone *atomic.Bool
	made bool // things happen
}

// perform waits until the program listens, makes things happen, and waits
// until it has nothing left to do. It returns early when the program ends.
func (v *viewer) perform(ctx context.Context, w *world) error {
	if err := v.until(ctx, func(waiting int) bool { return waiting == 0 }); err != nil || v.gone.Load() || ctx.Err() != nil {
		return err
	}
	if err := v.happen(ctx, w); err != nil {
		return err
	}
	calm := 0
	return v.until(ctx, func(waiting int) bool {
		if waiting != 0 || !v.asleep() {
			calm = 0
			return false
		}
		calm++
		return calm == 10
	})
}

// happen makes flows, changes one and removes one.
func (v *viewer) happen(ctx context.Context, w *world) error {
	v.made = true
	if _, err := v.client.CreateAll(ctx, slices.Values(w.extra)); err != nil {
		return fmt.Errorf("make something happen: %w", err)
	}
	u := w.extra[0].Clone()
	u.Has = conntrack.AttrOrig | u.Has&(conntrack.AttrZone|conntrack.AttrOrigZone) | conntrack.AttrMark
	u.Mark = 4711
	if err := v.client.Update(ctx, u); err != nil {
		return fmt.Errorf("make something happen: %w", err)
	}
	x := w.extra[1].Key()
	f, err := v.client.Get(ctx, x.Orig, x.Zone)
	if err != nil {
		return fmt.Errorf("make something happen: %w", err)
	}
	_, err = v.client.Delete(ctx, []conntrack.Key{f.Key()}, nil)
	return err
}

// until asks every so often how many bytes wait in the program's socket; -1:
// it does not listen.
func (v *viewer) until(ctx context.Context, cond func(waiting int) bool) error {
	for !v.gone.Load() {
		n, err := v.waiting()
		if err != nil {
			return err
		}
		if cond(n) {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil // its exit code will tell that it was killed
		case <-time.After(time.Millisecond): // time itself is meant: /proc tells of no change, so it is asked again
		}
	}
	return nil
}

// waiting reads the kernel's list of netlink sockets.
func (v *viewer) waiting() (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/netlink", v.pid))
	if err != nil {
		return -1, nil // it has ended
	}
	for line := range strings.Lines(string(b)) {
		const protocol, groups, memory = 1, 3, 4 // columns
		col := strings.Fields(line)
		if len(col) <= memory || col[protocol] != strconv.Itoa(unix.NETLINK_NETFILTER) || strings.Trim(col[groups], "0") == "" {
			continue
		}
		n, err := strconv.Atoi(col[memory])
		if err != nil {
			return 0, fmt.Errorf("read /proc/net/netlink: %w", err)
		}
		return n, nil
	}
	return -1, nil
}

// asleep tells whether all threads of the program sleep.
func (v *viewer) asleep() bool {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", v.pid))
	if err != nil {
		return false
	}
	for _, t := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stat", v.pid, t.Name()))
		if err != nil {
			return false
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		if !strings.HasPrefix(rest, "S") {
			return false
		}
	}
	return true
}
