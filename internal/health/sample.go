// Package health tells how full a table of flows is, what its counters mean, and when
// it will be full.
package health

import (
	"context"
	"time"

	"flowcut/conntrack"
)

// Sample is how full a table was at a moment, and what had been counted by then.
type Sample struct {
	At time.Time
	conntrack.Limits
	CPUs []conntrack.CPUStats // one a CPU; each counter wraps around at 2^32
}

// Read takes a sample. It costs two short requests, whatever the size of the table.
// Needs CAP_NET_ADMIN.
func Read(ctx context.Context, c *conntrack.Client) (Sample, error) {
	s := Sample{At: time.Now()}
	var err error
	if s.Limits, err = c.Limits(ctx); err != nil {
		return Sample{}, err
	}
	s.CPUs, err = c.CPUStats(ctx)
	return s, err
}

// Total returns the sum of the counters of all CPUs; each wraps around at 2^32.
func (s *Sample) Total() conntrack.CPUStats {
	var sum conntrack.CPUStats
	for i := range s.CPUs {
		combine(&sum, &s.CPUs[i], func(a, b uint32) uint32 { return a + b })
	}
	return sum
}

// Since returns what was counted from another sample on, right also where a
// counter wrapped around once in between.
func (s *Sample) Since(earlier *Sample) conntrack.CPUStats {
	sum, before := s.Total(), earlier.Total()
	combine(&sum, &before, func(a, b uint32) uint32 { return a - b })
	return sum
}

// combine sets each counter of a to f of both.
func combine(a, b *conntrack.CPUStats, f func(a, b uint32) uint32) {
	for _, n := range [][2]*uint32{
		{&a.Found, &b.Found}, {&a.Invalid, &b.Invalid}, {&a.Insert, &b.Insert}, {&a.InsertFailed, &b.InsertFailed},
		{&a.Drop, &b.Drop}, {&a.EarlyDrop, &b.EarlyDrop}, {&a.Error, &b.Error}, {&a.SearchRestart, &b.SearchRestart},
		{&a.ClashResolve, &b.ClashResolve}, {&a.ChainTooLong, &b.ChainTooLong}, {&a.Searched, &b.Searched},
		{&a.New, &b.New}, {&a.Delete, &b.Delete}, {&a.DeleteList, &b.DeleteList}, {&a.Ignore, &b.Ignore},
	} {
		*n[0] = f(*n[0], *n[1])
	}
}
