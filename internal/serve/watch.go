//go:build linux

package serve

import (
	"context"

	"flowcut/conntrack"
	"flowcut/internal/returns"
)

// watch counts what the kernel tells of flows: events, overruns, returns.
func (s *Server) watch(ctx context.Context) error {
	m, book := s.metrics, returns.New(nil, 0)
	kinds := map[conntrack.EventKind]interface{ Inc() }{}
	for _, k := range []conntrack.EventKind{conntrack.EventNew, conntrack.EventUpdate, conntrack.EventDestroy} {
		kinds[k] = m.eventKinds.WithLabelValues(k.String())
	}
	for e, err := range s.flows.Events(ctx) {
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
