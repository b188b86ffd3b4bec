//go:build linux

package serve

import (
	"context"
	"errors"

	"flowcut/conntrack"
	"flowcut/internal/returns"
)

// watch counts what the kernel tells of flows: events, overruns, returns.
func (s *Server) watch(ctx context.Context) (err error) {
	l, err := s.ct.Listen(conntrack.EventConfig{SyncAtStart: true, SyncAfterOverrun: true})
	if err != nil {
		return err
	}
	defer func() {
		if closed := l.Close(); !errors.Is(closed, conntrack.ErrClosed) {
			err = errors.Join(err, closed)
		}
	}()
	m, book := s.metrics, returns.New(nil, 0)
	kinds := map[conntrack.EventKind]interface{ Inc() }{}
	for _, k := range []conntrack.EventKind{conntrack.EventNew, conntrack.EventUpdate, conntrack.EventDestroy} {
		kinds[k] = m.eventKinds.WithLabelValues(k.String())
	}
	for e, err := range l.Events(ctx) {
		if err != nil {
			return err
		}
		if book.Apply(e).First {
			m.returned.Inc()
		}
		if e.Kind == conntrack.EventOverrun {
			m.overruns.Inc()
		} else if c := kinds[e.Kind]; c != nil {
			c.Inc()
		}
	}
	return nil
}
