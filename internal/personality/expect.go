package personality

import (
	"errors"
	"os"

	"flowcut/conntrack"
)

// listExpectations is -L expect.
func (s *session) listExpectations(l *line) error {
	c, err := s.dial()
	if err != nil {
		return err
	}
	if err := s.begin(&l.out, documentExpect); err != nil {
		return err
	}
	for e, err := range c.DumpExpectations(s.ctx, l.family) {
		if err != nil {
			return operation('l', err)
		}
		if err := s.print(l.out.AppendExpectation(s.buf[:0], e)); err != nil {
			return err
		}
		s.shown++
	}
	return nil
}

// getExpectation is -G expect.
func (s *session) getExpectation(l *line) error {
	c, err := s.dial()
	if err != nil {
		return err
	}
	e, err := c.GetExpectation(s.ctx, l.orig, 0)
	if err != nil {
		return operation('g', err)
	}
	e.Zone = 0 // the kernel does not tell, so conntrack(8) never shows it
	return s.print(l.out.AppendExpectation(s.buf[:0], &e))
}

// deleteExpectation is -D expect. It counts nothing and so ends with code 1
// even after success, which scripts have learned to live with.
func (s *session) deleteExpectation(l *line) error {
	c, err := s.dial()
	if err != nil {
		return err
	}
	deleted, err := c.DeleteExpectations(s.ctx, []conntrack.ExpectationKey{{Tuple: l.orig}}, nil)
	if err == nil && deleted == 0 {
		err = os.ErrNotExist
	}
	if errors.Is(err, os.ErrNotExist) {
		return failure("Operation failed: No such file or directory")
	}
	return operation('d', err)
}

// createExpectation is -I expect.
func (s *session) createExpectation(l *line) error {
	c, err := s.dial()
	if err != nil {
		return err
	}
	e := &conntrack.Expectation{Master: l.orig, Tuple: l.expected, Mask: l.mask, Timeout: l.timeout}
	e.Tuple.Proto, e.Mask.Proto = l.orig.Proto, l.orig.Proto
	return operation('i', c.CreateExpectation(s.ctx, e))
}

// flushExpectations is -F expect.
func (s *session) flushExpectations(*line) error {
	defer s.message("expectation table has been emptied.")
	c, err := s.dial()
	if err != nil {
		return err
	}
	return operation('f', c.FlushExpectations(s.ctx))
}
