package personality

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// countFile has the number of entries for those who may not ask by netlink.
const countFile = "/proc/sys/net/netfilter/nf_conntrack_count"

// count is -C.
func (s *session) count(*line) error {
	c, err := s.dial()
	if err != nil {
		return err
	}
	n, err := c.Count(s.ctx)
	if errors.Is(err, os.ErrPermission) {
		b, err := os.ReadFile(countFile)
		if err != nil {
			return failure("Can't open %s", countFile)
		}
		return s.print([]byte(strings.TrimSpace(string(b))))
	}
	if err != nil {
		return operation('C', err)
	}
	return s.print(fmt.Appendf(nil, "%d", n))
}

// countExpectations is -C expect.
func (s *session) countExpectations(l *line) error {
	c, err := s.dial()
	if err != nil {
		return err
	}
	n := 0
	for _, err := range c.DumpExpectations(s.ctx, l.family) {
		if err != nil {
			return operation('c', err)
		}
		n++
	}
	return s.print(fmt.Appendf(nil, "%d", n))
}

// stats is -S.
func (s *session) stats(*line) error {
	c, err := s.dial()
	if err != nil {
		return err
	}
	all, err := c.CPUStats(s.ctx)
	if err != nil {
		return s.statsFailed(err)
	}
	for _, cpu := range all {
		err = errors.Join(err, s.print(fmt.Appendf(nil,
			"cpu=%-4d\tfound=%d invalid=%d insert=%d insert_failed=%d drop=%d early_drop=%d error=%d search_restart=%d clash_resolve=%d chaintoolong=%d ",
			cpu.CPU, cpu.Found, cpu.Invalid, cpu.Insert, cpu.InsertFailed, cpu.Drop, cpu.EarlyDrop,
			cpu.Error, cpu.SearchRestart, cpu.ClashResolve, cpu.ChainTooLong)))
	}
	return err
}

// expectationStats is -S expect.
func (s *session) expectationStats(*line) error {
	c, err := s.dial()
	if err != nil {
		return err
	}
	all, err := c.ExpectCPUStats(s.ctx)
	if err != nil {
		return s.statsFailed(err)
	}
	for _, cpu := range all {
		err = errors.Join(err, s.print(fmt.Appendf(nil, "cpu=%-4d\texpect_new=%d expect_create=%d expect_delete=%d ",
			cpu.CPU, cpu.New, cpu.Create, cpu.Delete)))
	}
	return err
}

// statsFile has the counters for those who may not ask by netlink: a line of
// names, and for each processor a line of hexadecimal numbers.
const statsFile = "/proc/net/stat/nf_conntrack"

// statsFailed says why counters could not be had. Who lacks the permission is
// shown those of statsFile before.
func (s *session) statsFailed(refused error) error {
	if !errors.Is(refused, os.ErrPermission) {
		return operation('S', refused)
	}
	text, err := os.ReadFile(statsFile)
	if err != nil {
		return failure("Can't open /proc interface")
	}
	names, rows, _ := strings.Cut(string(text), "\n")
	cpu := 0
	for row := range strings.Lines(rows) {
		b := fmt.Appendf(nil, "cpu=%-4d\t", cpu)
		values := strings.Fields(row)
		for i, name := range strings.Fields(names) {
			if i < len(values) {
				n, _ := strconv.ParseUint(values[i], 16, 32)
				b = fmt.Appendf(b, "%s=%d ", name, n)
			}
		}
		if err := s.print(b); err != nil {
			return err
		}
		cpu++
	}
	return operation('S', refused)
}
