//go:build linux

package serve

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/netns"
	"flowcut/internal/returns"
	"flowcut/internal/sysctl"
)

// heard is what is listened to. After an overrun no listing follows at once: see watch.
var heard = conntrack.EventConfig{SyncAtStart: true}

// pace says how much of the processor events may take.
type pace struct {
	flood int           // so many events in less than the period are too many
	rest  time.Duration // the period, and the least time that nothing is heard after a flood
}

// usual is what a cut of 100,000 flows, or 15,000 events each second, stay below.
var usual = pace{flood: 150_000, rest: 10 * time.Second}

// errFlood ends the listening for a while.
var errFlood = errors.New("too many events")

// watch counts what the kernel tells of flows: events, overruns, returns. In a flood
// it hears nothing for a while, and begins again with a listing of the table: so a
// gateway that is attacked has its processors for itself.
func (s *Server) watch(ctx context.Context) error {
	book := returns.New(nil, 0)
	for l := s.flows; ; {
		listed, err := s.count(ctx, l, book)
		if ctx.Err() != nil || !errors.Is(err, errFlood) {
			return err
		}
		if err := l.Close(); err != nil {
			return err
		}
		s.metrics.overruns.Inc()
		select { // time itself is meant
		case <-ctx.Done():
			return nil
		case <-time.After(max(s.pace.rest, pauseFactor*listed)): // time itself is meant: a rest from too many events
		}
		if l, err = s.ct.Listen(heard); err != nil {
			return err
		}
	}
}

// count counts events until ctx ends, or there are too many. It returns how long the
// listing of the table took.
func (s *Server) count(ctx context.Context, l *conntrack.Listener, book *returns.Book) (listed time.Duration, err error) {
	m := s.metrics
	kinds := map[conntrack.EventKind]interface{ Inc() }{}
	for _, k := range []conntrack.EventKind{conntrack.EventNew, conntrack.EventUpdate, conntrack.EventDestroy} {
		kinds[k] = m.eventKinds.WithLabelValues(k.String())
	}
	began, since, n := time.Now(), time.Now(), 0
	for e, err := range l.Events(ctx) {
		if err != nil {
			return listed, err
		}
		if book.Apply(e).First {
			m.returned.Inc()
		}
		switch c := kinds[e.Kind]; {
		case e.Kind == conntrack.EventSynced:
			listed = time.Since(began)
		case e.Kind == conntrack.EventOverrun:
			n = s.pace.flood
		case c != nil:
			c.Inc()
			n++
		}
		if n < s.pace.flood {
			continue
		}
		if e.Kind == conntrack.EventOverrun || time.Since(since) < s.pace.rest {
			if listed == 0 { // it was under way
				listed = time.Since(began)
			}
			return listed, errFlood
		}
		since, n = time.Now(), 0
	}
	return listed, nil
}

// silent says why the kernel tells of no events in a namespace; "" if it does, or if
// that is not known.
func silent(netNS int) (why string) {
	const events = "net.netfilter.nf_conntrack_events"
	n := 0
	err := netns.DoFd(netNS, func() (err error) { n, err = sysctl.Get(events); return err })
	switch {
	case err != nil: // /proc is not there: perhaps it does
	case n == 0:
		return fmt.Sprintf("%s is 0: no metrics of events and returns; \"sysctl -w %s=2\", then start again", events, events)
	case n == sysctl.Absent:
		return "the kernel is built without CONFIG_NF_CONNTRACK_EVENTS: no metrics of events and returns"
	}
	return ""
}
