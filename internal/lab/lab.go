//go:build linux

// Package lab builds small networks out of network namespaces, and traffic
// that counts what happens to it. Tests, benchmarks and the demo stand on it.
//
// A [Lab] owns [Host]s joined by veth pairs; [Standard] builds clients, a
// gateway that translates and filters, and servers. The ends of connections
// ([End]) live inside the hosts, and every reading of theirs is on the clock
// of the calling program.
//
// No external program is run. All of it needs root.
package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// made counts the labs of this process, for their names alone.
var made atomic.Uint32

// Lab is a set of hosts and the traffic between them.
//
// Its methods may be called at once. Close ends and removes everything.
type Lab struct {
	seq   uint32
	epoch time.Time // every recorded instant is an offset from it
	ctx   context.Context
	stop  context.CancelFunc
	tasks sync.WaitGroup // every goroutine of the lab

	mu      sync.Mutex
	hosts   []*Host
	links   int // veth ends made so far
	sockets map[aborter]struct{}
	ends    map[uint64]*End // accepted ends, by the number the dialler chose
	lastID  uint64
}

// aborter is a socket that can be closed without a farewell.
type aborter interface{ abort() }

// New makes a lab without hosts, and removes what labs of dead processes
// have left behind.
func New() (*Lab, error) {
	if err := Sweep(); err != nil {
		return nil, err
	}
	l := &Lab{
		seq:     made.Add(1),
		epoch:   time.Now(),
		sockets: make(map[aborter]struct{}),
		ends:    make(map[uint64]*End),
	}
	l.ctx, l.stop = context.WithCancel(context.Background())
	return l, nil
}

// Host adds a host whose loopback device is up; role is the last part of its
// namespace's name and must be unique in the lab.
func (l *Lab) Host(role string) (*Host, error) {
	h, err := newHost(l, fmt.Sprintf("%s%d-%d-%s", prefix, os.Getpid(), l.seq, role))
	if err != nil {
		return nil, fmt.Errorf("lab: make host %s: %w", role, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hosts = append(l.hosts, h)
	return h, nil
}

// Close aborts all sockets, waits for every goroutine of the lab, and removes
// the hosts. Connections end without a farewell.
func (l *Lab) Close() error {
	l.stop()
	l.mu.Lock()
	open := make([]aborter, 0, len(l.sockets))
	for s := range l.sockets {
		open = append(open, s)
	}
	hosts := l.hosts
	l.hosts = nil
	l.mu.Unlock()
	for _, s := range open {
		s.abort()
	}
	l.tasks.Wait()
	var errs []error
	for _, h := range hosts {
		errs = append(errs, h.close())
	}
	return errors.Join(errs...)
}

// hold keeps s to be aborted by Close; false when the lab is closed already.
func (l *Lab) hold(s aborter) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return false
	}
	l.sockets[s] = struct{}{}
	return true
}

// release undoes hold.
func (l *Lab) release(s aborter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sockets, s)
}

// number returns a number that no other connection of the lab has.
func (l *Lab) number() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastID++
	return l.lastID
}

// accepted notes the server's end of connection id.
func (l *Lab) accepted(id uint64, e *End) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ends[id] = e
}

// peer returns the server's end of connection id, nil if there is none.
func (l *Lab) peer(id uint64) *End {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ends[id]
}

// since returns the present instant as an offset from the lab's start, never 0.
func (l *Lab) since() int64 { return max(1, int64(time.Since(l.epoch))) }

// at turns an offset into an instant; 0 is the zero time.
func (l *Lab) at(offset int64) time.Time {
	if offset == 0 {
		return time.Time{}
	}
	return l.epoch.Add(time.Duration(offset))
}

// Until waits for cond to hold, asking every millisecond. what names the
// condition in the error that is returned when ctx ends first.
func Until(ctx context.Context, what string, cond func() (bool, error)) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := cond()
		if err != nil {
			return fmt.Errorf("lab: wait until %s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lab: wait until %s: %w", what, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
