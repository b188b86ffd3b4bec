//go:build linux

package serve

import (
	"context"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"flowcut/conntrack"
	"flowcut/cut"
)

// metrics are what /metrics has. All names begin with "flowcut_"; labels have few
// values, or one a processor: nothing that is on the wire gets into one.
type metrics struct {
	registry *prometheus.Registry

	cuts       *prometheus.CounterVec // by proven
	flows      *prometheus.CounterVec // by outcome
	told       *prometheus.CounterVec // by how
	dead, mute prometheus.Counter
	leaked     prometheus.Counter
	silence    prometheus.Histogram
	duration   prometheus.Histogram
	refused    prometheus.Counter
	eventKinds *prometheus.CounterVec // by kind
	returned   prometheus.Counter
	overruns   prometheus.Counter
}

const prefix = "flowcut_"

// Values of labels.
const (
	yes = "yes"
	no  = "no"

	outcomeDeleted   = string(cut.Deleted)
	outcomeVanished  = string(cut.Vanished)
	outcomeRemaining = string(cut.Remaining)
	outcomeSpared    = string(cut.Spared)

	byReset       = "reset"
	byUnreachable = "unreachable"
)

func newMetrics(ct *conntrack.Client, cfg Config, h *hub) *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
		m.registry.MustRegister(c)
		return c
	}
	vector := func(name, help, label string, values ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, []string{label})
		for _, v := range values {
			c.WithLabelValues(v) // zero from the beginning, so that the first one is seen to rise
		}
		m.registry.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets ...float64) prometheus.Histogram {
		c := prometheus.NewHistogram(prometheus.HistogramOpts{Name: prefix + name, Help: help, Buckets: buckets})
		m.registry.MustRegister(c)
		return c
	}
	m.cuts = vector("cuts_total", "Cuts whose receipt was seen since this process began.", "proven", yes, no)
	m.flows = vector("cut_flows_total", "Flows that cuts meant, by what became of them.", "outcome",
		outcomeDeleted, outcomeVanished, outcomeRemaining, outcomeSpared)
	m.told = vector("cut_ends_told_total", "Ends of cut flows that were told, by a TCP reset or by an ICMP port unreachable.", "how", byReset, byUnreachable)
	m.dead = counter("cut_ends_dead_total", "Ends of cut flows that answered that they have no such connection.")
	m.mute = counter("cut_ends_silent_total", "Ends of cut open TCP flows that did not answer.")
	m.leaked = counter("cut_leaked_packets_total", "Packets of selected flows that were seen behind the fence of a cut.")
	m.silence = histogram("cut_silence_seconds", "Time from the start of a cut to the last packet of its flows behind the fence, or to the fence.",
		.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10)
	m.duration = histogram("cut_duration_seconds", "Time that a cut took, with the guard.", .05, .1, .25, .5, 1, 2.5, 5, 10, 30)
	m.refused = counter("receipts_refused_total", "Datagrams that were no receipts, or not from root or the own user.")
	if cfg.Events {
		m.eventKinds = vector("events_total", "Events of flows that the kernel told and that were heard: after a flood none are for a while.", "kind",
			conntrack.EventNew.String(), conntrack.EventUpdate.String(), conntrack.EventDestroy.String())
		m.returned = counter("returned_flows_total", "Flows that came back picked up after their entry had ended; in a flood of events some are missed.")
		m.overruns = counter("event_overruns_total", "Times that events were too many, or lost as they came faster than they were read: then none are heard for 10 seconds or more.")
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: prefix + "build_info", Help: "The program.", ConstLabels: prometheus.Labels{"version": cfg.Version, "goversion": runtime.Version()},
	})
	info.Set(1)
	m.registry.MustRegister(info, &table{ct}, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{Namespace: "flowcut"}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: prefix + "page_streams", Help: "Pages that are open."},
			func() float64 { return float64(h.len()) }))
	return m
}

// handler answers to Prometheus. What cannot be read is an error, not a gap.
func (m *metrics) handler() http.Handler {
	const most, patience = 4, 10 * time.Second
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: most, Timeout: patience})
}

// cut counts a receipt.
func (m *metrics) cut(r *cut.Receipt) {
	proven := no
	if r.Proven {
		proven = yes
	}
	m.cuts.WithLabelValues(proven).Inc()
	for outcome, n := range map[string]int{
		outcomeDeleted: r.Flows.Deleted, outcomeVanished: r.Flows.Vanished,
		outcomeRemaining: r.Flows.Remaining, outcomeSpared: r.Flows.Spared,
	} {
		m.flows.WithLabelValues(outcome).Add(float64(n))
	}
	m.told.WithLabelValues(byReset).Add(float64(r.Endpoints.Reset))
	m.told.WithLabelValues(byUnreachable).Add(float64(r.Endpoints.Unreachable))
	m.dead.Add(float64(r.Endpoints.Dead))
	m.mute.Add(float64(r.Endpoints.Silent))
	m.duration.Observe(time.Duration(r.ElapsedMS).Seconds())
	if r.Fence.Backend != "" {
		m.leaked.Add(float64(r.Fence.LeakedPackets))
		m.silence.Observe(time.Duration(r.Fence.SilentAfterMS).Seconds())
	}
}

// table asks the kernel at each scrape.
type table struct{ ct *conntrack.Client }

var (
	entries = prometheus.NewDesc(prefix+"table_entries", "Entries of the connection tracking table.", nil, nil)
	limit   = prometheus.NewDesc(prefix+"table_max_entries", "Most entries that the table may have, nf_conntrack_max.", nil, nil)
	buckets = prometheus.NewDesc(prefix+"table_buckets", "Buckets of the hash table, which all network namespaces share.", nil, nil)
)

// perCPU are the counters of each processor, which the kernel keeps in 32 bits.
var perCPU = []struct {
	desc *prometheus.Desc
	of   func(*conntrack.CPUStats) uint32
}{
	perCPUCounter("found", "Lookups that found an entry where none was expected", func(s *conntrack.CPUStats) uint32 { return s.Found }),
	perCPUCounter("invalid", "Packets that no entry could be made of or that did not fit theirs", func(s *conntrack.CPUStats) uint32 { return s.Invalid }),
	perCPUCounter("insert", "Entries made by a program", func(s *conntrack.CPUStats) uint32 { return s.Insert }),
	perCPUCounter("insert_failed", "Entries not made, as another with the tuple was there first", func(s *conntrack.CPUStats) uint32 { return s.InsertFailed }),
	perCPUCounter("drop", "Packets dropped as no entry could be made, such as when the table is full", func(s *conntrack.CPUStats) uint32 { return s.Drop }),
	perCPUCounter("early_drop", "Entries dropped before their time, to make room in a full table", func(s *conntrack.CPUStats) uint32 { return s.EarlyDrop }),
	perCPUCounter("error", "Packets refused before an entry was looked for", func(s *conntrack.CPUStats) uint32 { return s.Error }),
	perCPUCounter("search_restart", "Lookups begun again, as the table changed meanwhile", func(s *conntrack.CPUStats) uint32 { return s.SearchRestart }),
	perCPUCounter("clash_resolve", "Packets that lost a race for their entry and were let pass", func(s *conntrack.CPUStats) uint32 { return s.ClashResolve }),
	perCPUCounter("chain_too_long", "Entries not made, as their hash bucket was full", func(s *conntrack.CPUStats) uint32 { return s.ChainTooLong }),
}

func perCPUCounter(name, help string, of func(*conntrack.CPUStats) uint32) (c struct {
	desc *prometheus.Desc
	of   func(*conntrack.CPUStats) uint32
}) {
	c.desc = prometheus.NewDesc(prefix+"cpu_"+name+"_total", help+"; begins again at 2^32.", []string{"cpu"}, nil)
	c.of = of
	return c
}

// Describe implements prometheus.Collector.
func (t *table) Describe(out chan<- *prometheus.Desc) {
	out <- entries
	out <- limit
	out <- buckets
	for _, c := range perCPU {
		out <- c.desc
	}
}

// Collect implements prometheus.Collector.
func (t *table) Collect(out chan<- prometheus.Metric) {
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l, err := t.ct.Limits(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(entries, err)
		return
	}
	cpus, err := t.ct.CPUStats(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(perCPU[0].desc, err)
		return
	}
	out <- prometheus.MustNewConstMetric(entries, prometheus.GaugeValue, float64(l.Count))
	out <- prometheus.MustNewConstMetric(limit, prometheus.GaugeValue, float64(l.Max))
	out <- prometheus.MustNewConstMetric(buckets, prometheus.GaugeValue, float64(l.Buckets))
	for i := range cpus {
		cpu := strconv.Itoa(int(cpus[i].CPU))
		for _, c := range perCPU {
			out <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, float64(c.of(&cpus[i])), cpu)
		}
	}
}
