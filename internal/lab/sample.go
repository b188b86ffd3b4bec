//go:build linux

package lab

import (
	"sync"
	"time"
)

// Sample is a reading and when it was taken.
type Sample struct {
	At    time.Time
	Value uint64
}

// Sampler takes readings until it is stopped.
type Sampler struct {
	once    sync.Once
	quit    chan struct{}
	done    chan struct{}
	samples []Sample
}

// Sample calls read every so often; read must not block. An interval that the
// machine missed is left out: the instants tell.
func (l *Lab) Sample(every time.Duration, read func() uint64) *Sampler {
	s := &Sampler{quit: make(chan struct{}), done: make(chan struct{})}
	l.tasks.Go(func() {
		defer close(s.done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			s.samples = append(s.samples, Sample{At: time.Now(), Value: read()})
			select {
			case <-s.quit:
				return
			case <-l.ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return s
}

// Stop ends the sampling and returns what was read.
func (s *Sampler) Stop() []Sample {
	s.once.Do(func() { close(s.quit) })
	<-s.done
	return s.samples
}
