//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"flowcut/internal/lab"
	"flowcut/internal/nft"

	"golang.org/x/sys/unix"
)

const (
	churnEntries = 10_000          // that are cut, and nobody has a socket of
	churnIdle    = 80              // connections that are cut, too
	churnTalks   = 20              // the same, with a word now and then
	churnRoom    = 1_000_000       // flows in the table, at most
	churnAlone   = 3 * time.Second // without a cut, to compare with
	quietFor     = 200 * time.Millisecond
)

// churnRates are new flows a second.
var churnRates = []int{0, 5_000, 20_000, 50_000}

// Values of part churn.
const (
	newFlows     = "new flows a second"
	newAlone     = "the same without a cut"
	newDuring    = "of them during the cut"
	lostAlone    = "lost in 3 s without a cut"
	lostDuring   = "lost during the cut"
	survivors    = "matching entries left"
	cutTime      = "cut, ms"
	cutCPU       = "CPU time, ms"
	cutMemory    = "peak memory, MB"
	provenRounds = "proven"
)

var (
	fakeClients  = netip.MustParsePrefix("10.0.0.0/8")    // of the flows that are loaded
	fakeStarters = netip.MustParsePrefix("198.18.0.0/15") // of the new flows
)

// runChurn cuts while flows begin that do not match.
func runChurn(ctx context.Context, b *bench) ([]*table, error) {
	t := &table{
		Work: "churn", Title: fmt.Sprintf("Cut %s flows to one server while flows to another one begin", thousands(churnEntries+churnIdle+churnTalks)),
		Env: b.env, Columns: []string{newFlows, newAlone, newDuring, lostAlone, lostDuring, survivors, cutTime, cutCPU, cutMemory, provenRounds},
	}
	for _, rate := range churnRates {
		t.Rows = append(t.Rows, row{Name: thousands(rate) + " wanted", Who: us})
	}
	if ok, err := b.room(churnRoom); err != nil || !ok {
		return nil, err
	}
	for i := range b.rounds {
		for j, rate := range churnRates {
			say("churn, %s new flows a second: round %d of %d", thousands(rate), i+1, b.rounds)
			m, err := b.churning(ctx, rate)
			if err != nil {
				return nil, fmt.Errorf("cut while %d flows a second begin: %w", rate, err)
			}
			t.Rows[j].Rounds = append(t.Rows[j].Rounds, m)
		}
	}
	return []*table{t}, nil
}

// beginners are flows that begin at a rate, and are counted where they arrive.
type beginners struct {
	net     *network
	counter *counter
	rate    int
	flood   *lab.Flood
	began   time.Time
	before  int // that had arrived
}

// begins is what became of beginners.
type begins struct {
	sent, lost int
	rate       float64 // a second
}

// churning is one round, on a network of its own.
func (b *bench) churning(ctx context.Context, rate int) (m measure, err error) {
	limit, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	net, err := newNetwork(limit, lab.Config{Sysctls: map[string]string{"net.netfilter.nf_conntrack_udp_timeout": "1"}})
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, net.close()) }()
	ends, flows, err := net.churn(limit, rate)
	if err != nil {
		return m, err
	}
	defer flows.counter.close() //nolint:errcheck // only read
	alone, err := flows.alone(limit)
	if err != nil {
		return m, err
	}
	if err := flows.start(limit); err != nil {
		return m, err
	}
	server := net.Servers[0].Addr4
	m, _, r, err := b.cut(limit, net.Gateway.NS, churnEntries+churnIdle+churnTalks, "-g", "-r", server.String())
	if err != nil {
		return m, err
	}
	during, err := flows.stop(limit)
	if err != nil {
		return m, err
	}
	left, err := net.left(limit, server)
	if err == nil && left != 0 {
		err = fmt.Errorf("%d entries of %v are left, want none", left, server)
	}
	if err := errors.Join(err, told(limit, ends)); err != nil {
		return m, err
	}
	m.Values = map[string]float64{
		newFlows: during.rate, newAlone: alone.rate, newDuring: float64(during.sent),
		lostAlone: float64(alone.lost), lostDuring: float64(during.lost), survivors: float64(left),
		cutTime: milliseconds(m.Wall), cutCPU: milliseconds(m.CPU), cutMemory: float64(m.Memory) / 1e6, provenRounds: truth(r.Proven),
	}
	return m, nil
}

// churn makes what is cut, and the way that new flows take.
func (n *network) churn(ctx context.Context, rate int) (lab.Ends, *beginners, error) {
	if _, err := n.Servers[0].Listen(servicePort); err != nil {
		return nil, nil, err
	}
	err := errors.Join(
		n.Gateway.Forward(servicePort, n.Servers[0]), n.Gateway.Forward(otherPort, n.Servers[1]),
		n.Gateway.Route(fakeStarters, n.Clients[0].Addr4), n.Gateway.Route(fakeClients, n.Clients[0].Addr4),
		answerFor(n.Clients[0].Host, fakeClients), n.load(ctx, churnEntries, 10))
	if err != nil {
		return nil, nil, err
	}
	idle, err := n.Clients[1].Dial(ctx, lab.Streams{Kind: lab.Idle, To: n.service(), Count: churnIdle})
	if err != nil {
		return nil, nil, err
	}
	talks, err := n.Clients[1].Dial(ctx, lab.Streams{Kind: lab.Talk, To: n.service(), Count: churnTalks})
	if err != nil {
		return nil, nil, err
	}
	// Counted and dropped at once: a socket would take time from what is measured.
	c, err := count(n.Servers[1].Host, nft.NewRule("new", nft.Equal(nft.MetaL4Proto, []byte{unix.IPPROTO_UDP}),
		nft.Equal(nft.DstPort, nft.Port(otherPort)), nft.Counter, nft.Drop))
	if err != nil {
		return nil, nil, err
	}
	return bothEnds(slices.Concat(idle, talks)), &beginners{net: n, counter: c, rate: rate}, nil
}

// start returns when flows have begun to begin.
func (f *beginners) start(ctx context.Context) (err error) {
	f.began = time.Now()
	if f.rate == 0 {
		return nil
	}
	if f.before, err = f.arrived(); err != nil {
		return err
	}
	f.flood, err = f.net.Clients[0].Flood(lab.Floods{
		To: netip.AddrPortFrom(f.net.Gateway.Public4, otherPort), Sources: fakeStarters, UDP: true, Rate: f.rate,
	})
	if err != nil {
		return err
	}
	return lab.Until(ctx, "new flows arrive", func() (bool, error) {
		n, err := f.arrived()
		return n > f.before+f.rate/10, err
	})
}

// stop lets no more begin and counts.
func (f *beginners) stop(ctx context.Context) (begins, error) {
	if f.rate == 0 {
		return begins{}, nil
	}
	if err := f.flood.Stop(); err != nil {
		return begins{}, err
	}
	took, sent := time.Since(f.began), int(f.flood.Sent())
	got, last := -1, time.Now()
	err := lab.Until(ctx, "no new flow is under way", func() (bool, error) {
		n, err := f.arrived()
		if n -= f.before; n != got {
			got, last = n, time.Now()
		}
		return got == sent || time.Since(last) > quietFor, err
	})
	return begins{sent, sent - got, float64(sent) / took.Seconds()}, err
}

// alone lets flows begin while nothing is cut.
func (f *beginners) alone(ctx context.Context) (begins, error) {
	if err := f.start(ctx); err != nil || f.rate == 0 {
		return begins{}, err
	}
	timer := time.NewTimer(churnAlone) // the time itself is meant
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return f.stop(ctx)
}

// arrived counts the new flows that have reached their server.
func (f *beginners) arrived() (int, error) {
	n, err := f.counter.packets()
	return n["new"], err
}
