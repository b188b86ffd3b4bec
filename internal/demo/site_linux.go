package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/lab"

	"golang.org/x/sys/unix"
)

const (
	port      = 5201 // forwarded to the server that is cut off
	otherPort = 5202 // forwarded to another one
	outPort   = 7000 // where a client listens
	speakRate = 1000 // datagrams a second of each bystander, in each direction
	talkPause = 10 * time.Millisecond
)

// site is a fresh network under load, with everything that is measured.
type site struct {
	net    *lab.Topology
	ct     *conntrack.Client
	server netip.Addr // inside, to be cut off
	peers  []netip.Addr

	downloads, idle lab.Ends
	talks, speeches lab.Ends // bystanders: TCP, UDP
}

// newSite builds the network.
func newSite(ctx context.Context) (_ *site, err error) {
	s := &site{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.net, err = lab.Standard(ctx, lab.Config{}); err != nil {
		return nil, err
	}
	if s.ct, err = conntrack.Dial(conntrack.Config{NetNS: s.net.Gateway.NS.Fd()}); err != nil {
		return nil, err
	}
	s.server, s.peers = s.net.Servers[0].Addr4, []netip.Addr{s.net.Clients[0].Addr4}
	return s, nil
}

// load starts the traffic.
func (s *site) load(ctx context.Context) (err error) {
	if err := s.serve(); err != nil {
		return err
	}
	// Bystanders first: they need no share of a loaded machine to begin.
	if err := s.bystanders(ctx); err != nil {
		return err
	}
	client, to := s.net.Clients[0], netip.AddrPortFrom(s.net.Gateway.Public4, port)
	if s.idle, err = client.Dial(ctx, lab.Streams{Kind: lab.Idle, To: to, Count: idles}); err != nil {
		return err
	}
	if s.downloads, err = client.Dial(ctx, lab.Streams{Kind: lab.Download, To: to, Count: streams}); err != nil {
		return err
	}
	const flowing = 32 << 20 // bytes of each, when slow start is over
	return s.downloads.WaitReceived(ctx, flowing)
}

// serve starts the servers and forwards to them.
func (s *site) serve() error {
	for _, l := range []struct {
		host *lab.Host
		port uint16
	}{
		{s.net.Servers[0].Host, port},
		{s.net.Servers[1].Host, otherPort},
		{s.net.Clients[1].Host, outPort},
	} {
		if _, err := l.host.Listen(l.port); err != nil {
			return err
		}
	}
	if err := s.net.Gateway.Forward(port, s.net.Servers[0]); err != nil {
		return err
	}
	return s.net.Gateway.Forward(otherPort, s.net.Servers[1])
}

// bystanders starts what must not be hurt: the cut client's traffic to
// another server, and the cut server's own to another client.
func (s *site) bystanders(ctx context.Context) error {
	for _, b := range []struct {
		from *lab.Host
		to   netip.AddrPort
	}{
		{s.net.Clients[0].Host, netip.AddrPortFrom(s.net.Gateway.Public4, otherPort)},
		{s.net.Servers[0].Host, netip.AddrPortFrom(s.net.Clients[1].Addr4, outPort)},
	} {
		talks, err := b.from.Dial(ctx, lab.Streams{Kind: lab.Talk, To: b.to, Interval: talkPause})
		if err != nil {
			return err
		}
		speeches, err := b.from.Exchange(ctx, lab.Datagrams{To: b.to, Up: speakRate, Down: speakRate})
		if err != nil {
			return err
		}
		s.talks, s.speeches = append(s.talks, talks...), append(s.speeches, speeches...)
	}
	return nil
}

func (s *site) close() error {
	var errs []error
	if s.ct != nil {
		errs = append(errs, s.ct.Close())
	}
	if s.net != nil {
		errs = append(errs, s.net.Close())
	}
	return errors.Join(errs...)
}

// try loads a fresh network, removes the forwarding rule, lets the method do
// its work, and watches what comes of it.
func try(ctx context.Context, m method, o Options) (_ result, err error) {
	s, err := newSite(ctx)
	if err != nil {
		return result{}, fmt.Errorf("demo: set up: %w", err)
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.load(ctx); err != nil {
		return result{}, fmt.Errorf("demo: set up: %w", err)
	}

	r := result{name: m.name, does: m.does}
	sampler := s.net.Sample(sampleEvery, s.downloads.Received)
	if err := pass(ctx, o.Before); err != nil {
		return result{}, err
	}
	removed, had := time.Now(), s.downloads.Received()
	if err := s.net.Gateway.Unforward(port); err != nil {
		return result{}, err
	}
	if r.deleted, err = m.run(ctx, s); err != nil {
		return result{}, fmt.Errorf("demo: %s: %w", m.name, err)
	}
	end := removed.Add(o.After)
	if err := s.watch(ctx, end, o.After/5, &r); err != nil {
		return result{}, err
	}
	samples := sampler.Stop()
	r.before, r.points = removed.Sub(samples[0].At), rates(samples)
	r.bytes = s.downloads.Received() - had
	r.last = max(0, s.downloads.LastReceived().Sub(removed))
	s.told(&r)
	if r.entries, err = s.entries(ctx); err != nil {
		return result{}, err
	}
	return r, s.hurt(ctx, &r)
}

// watch lets time pass until end. In the last part of it the downloads are
// measured once more, and the idle servers speak.
func (s *site) watch(ctx context.Context, end time.Time, part time.Duration, r *result) error {
	if err := pass(ctx, time.Until(end.Add(-part))); err != nil {
		return err
	}
	begin, had := time.Now(), s.downloads.Received()
	for _, e := range s.idle.Peers() {
		_ = e.Say() // one that was reset is told again, and is counted as such
	}
	if err := pass(ctx, time.Until(end)); err != nil {
		return err
	}
	got := s.downloads.Received() - had
	r.silent, r.rate = got == 0, float64(got)*8/time.Since(begin).Seconds()
	return nil
}

// told counts who knows that the connection has ended.
func (s *site) told(r *result) {
	all := slices.Concat(s.downloads, s.idle)
	r.clientsTold = all.Told(unix.ECONNRESET)
	r.serversTold = all.Peers().Told(unix.ECONNRESET)
	for _, e := range s.idle {
		if e.Received.Bytes() > 0 {
			r.idleOpen++
		}
	}
}

// entries counts what the table holds of connections to the server's port, in
// either direction: those that were adopted begin at the server.
func (s *site) entries(ctx context.Context) (int, error) {
	n := 0
	for f, err := range s.ct.Dump(ctx, conntrack.Filter{Family: conntrack.FamilyIPv4}) {
		if err != nil {
			return 0, err
		}
		for _, t := range []conntrack.Tuple{f.Orig, f.Reply} {
			if t.Src == s.server && t.SrcPort == port {
				n++
			}
		}
	}
	return n, nil
}

// hurt counts what happened to the bystanders. A connection is broken when an
// end of it was told so, or when nothing is said on it any more.
func (s *site) hurt(ctx context.Context, r *result) error {
	r.bystanders = len(s.talks)
	for _, e := range s.talks {
		if e.Told().Err != nil || e.Peer().Told().Err != nil || time.Since(e.Received.Last()) > time.Second {
			r.broken++
		}
	}
	lost, err := s.speeches.Lost(ctx)
	r.lost = lost.Up + lost.Down
	for _, e := range s.speeches {
		r.datagrams += e.Sent.Messages() + e.Peer().Sent.Messages()
	}
	return err
}

// pass lets time pass: here time itself is meant.
func pass(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// rates turns readings of a byte counter into rates.
func rates(samples []lab.Sample) []point {
	points := make([]point, 0, len(samples))
	for i := 1; i < len(samples); i++ {
		a, b := samples[i-1], samples[i]
		points = append(points, point{
			at:   b.At.Sub(samples[0].At),
			rate: float64(b.Value-a.Value) * 8 / b.At.Sub(a.At).Seconds(),
		})
	}
	return points
}
