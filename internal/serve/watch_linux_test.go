package serve

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"flowcut/conntrack"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/netns"
	"flowcut/internal/sysctl"
)

// watching is a server that only counts events.
func watching(t *testing.T, ns *netns.NS, p pace) *Server {
	t.Helper()
	s, err := New(Config{Listen: "127.0.0.1:0", NetNS: ns.Fd(), Events: true, Warn: func(string) {}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	s.pace = p
	return s
}

// maker makes flows, each another.
func maker(t *testing.T, s *Server) (make func(n int)) {
	port := uint16(1000)
	return func(n int) {
		t.Helper()
		for range n {
			port++
			if err := s.ct.Create(t.Context(), one(port)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func one(port uint16) *conntrack.Flow {
	return &conntrack.Flow{
		Has: conntrack.AttrTimeout, Timeout: time.Hour,
		Orig: conntrack.Tuple{
			Proto: conntrack.ProtoUDP, Src: netip.MustParseAddr("203.0.113.9"), SrcPort: port,
			Dst: netip.MustParseAddr("198.51.100.9"), DstPort: 53,
		},
	}
}

// In a flood of events, and after some were lost, none are heard for a while.
func TestFlood(t *testing.T) {
	for _, lost := range []bool{false, true} {
		s := watching(t, scratch(t), pace{flood: 20, rest: time.Hour})
		if lost {
			l, err := s.ct.Listen(conntrack.EventConfig{SyncAtStart: true, RecvBuffer: 2048})
			if err != nil {
				t.Fatal(err)
			}
			s.flows, s.pace.flood = l, 1<<30
		}
		create := maker(t, s)
		create(30)
		end := begin(t, s)
		rests := func() bool { return testutil.ToFloat64(s.metrics.overruns) == 1 }
		labtest.Until(t, "it rests", rests)
		if err := s.flows.Close(); !errors.Is(err, conntrack.ErrClosed) {
			t.Errorf("lost %v: it listens on: %v", lost, err)
		}
		end()
	}
}

// After the rest, all that is new counts again.
func TestAfterFlood(t *testing.T) {
	s := watching(t, scratch(t), pace{flood: 20, rest: 50 * time.Millisecond})
	create := maker(t, s)
	create(20)
	end := begin(t, s)
	created := s.metrics.eventKinds.WithLabelValues(conntrack.EventNew.String())
	labtest.Until(t, "it rests", func() bool { return testutil.ToFloat64(s.metrics.overruns) == 1 })
	before := testutil.ToFloat64(created)
	if before != 20 {
		t.Errorf("%v were counted", before)
	}
	labtest.Until(t, "it hears again", func() bool { create(1); return testutil.ToFloat64(created) > before })
	end()
}

// Where the kernel tells of nothing, that is said, and no zeros are shown.
func TestNoEvents(t *testing.T) {
	ns := scratch(t)
	if err := ns.Do(func() error { return sysctl.Set("net.netfilter.nf_conntrack_events", 0) }); err != nil {
		t.Fatal(err)
	}
	s := start(t, ns, nil)
	if !strings.Contains(s.said.String(), "nf_conntrack_events is 0") {
		t.Errorf("warned of %q", s.said)
	}
	for _, name := range []string{"flowcut_events_total", "flowcut_returned_flows_total"} {
		if s.has(t, name) {
			t.Errorf("%s is there", name)
		}
	}
}
