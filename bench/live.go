//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"

	"flowcut/internal/lab"
	"flowcut/internal/nft"

	"golang.org/x/sys/unix"
)

// liveSizes are numbers of connections.
var liveSizes = []int{1_000, 10_000}

// Values of part live.
const (
	endsReset   = "ends reset"
	endsDead    = "confirmed dead"
	finalRounds = "final"
	kicksEach   = "ACKs an end"
	asksEach    = "SYNs and SYN-ACKs an end"
	resetsEach  = "resets an end"
)

// runLive cuts connections of which both ends are there and say nothing.
func runLive(ctx context.Context, b *bench) ([]*table, error) {
	t := &table{
		Work: "live", Title: "Cut idle connections, with all that is done to tell their ends", Env: b.env,
		Columns: []string{exitAfter, cutCPU, cutMemory, endsReset, endsDead, provenRounds, finalRounds, kicksEach, asksEach, resetsEach},
	}
	for _, n := range liveSizes {
		r := row{Name: thousands(n) + " connections", Who: us}
		for i := range b.rounds {
			say("live, %s connections: round %d of %d", thousands(n), i+1, b.rounds)
			m, err := b.live(ctx, n)
			if err != nil {
				return nil, fmt.Errorf("cut %d idle connections: %w", n, err)
			}
			r.Rounds = append(r.Rounds, m)
		}
		t.Rows = append(t.Rows, r)
	}
	return []*table{t}, nil
}

// live is one round, on a network of its own.
func (b *bench) live(ctx context.Context, n int) (m measure, err error) {
	limit, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	net, err := newNetwork(limit, lab.Config{})
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, net.close()) }()
	server := net.Servers[0]
	l, err := listen(limit, server.Name, servicePort, n)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	if err := net.Gateway.Forward(servicePort, server); err != nil {
		return m, err
	}
	idle, err := net.Clients[0].Dial(limit, lab.Streams{Kind: lab.Idle, To: net.service(), Count: n})
	if err != nil {
		return m, fmt.Errorf("%w; each connection takes a descriptor: ulimit -n", err)
	}
	heard, err := hear(net.Clients[0].Host, server.Host)
	if err != nil {
		return m, err
	}
	defer heard.close() //nolint:errcheck // only read
	m, _, r, err := b.cut(limit, net.Gateway.NS, n, "-g", "-r", server.Addr4.String())
	if err != nil {
		return m, err
	}
	if err := told(limit, idle); err != nil {
		return m, fmt.Errorf("clients: %w", err)
	}
	if got, err := l.number(); err != nil || got != n {
		return m, fmt.Errorf("servers: %d of %d ends got ECONNRESET (%v)", got, n, err)
	}
	m.Values = map[string]float64{
		exitAfter: milliseconds(m.Wall), cutCPU: milliseconds(m.CPU), cutMemory: float64(m.Memory) / 1e6,
		endsReset: float64(r.Endpoints.Reset), endsDead: float64(r.Endpoints.Dead),
		provenRounds: truth(r.Proven), finalRounds: truth(r.Final),
	}
	return m, heard.each(2*n, m.Values)
}

// ears count the segments that hosts get.
type ears []*counter

// hear begins to count at the hosts, behind all that the gateway may do: our
// segments pass its rules, and some are sent past them.
func hear(hosts ...*lab.Host) (ears, error) {
	segment := func(name string, mask, flags byte) nft.Rule {
		return nft.NewRule(name, nft.Equal(nft.MetaL4Proto, []byte{unix.IPPROTO_TCP}),
			nft.Compare{Op: nft.TCPFlags, Mask: []byte{mask}, Value: []byte{flags}}, nft.Counter)
	}
	const fin, syn, rst, ack = 1, 2, 4, 16
	var out ears
	for _, h := range hosts {
		c, err := count(h, segment(kicksEach, fin|syn|rst|ack, ack), segment(asksEach, syn|rst, syn), segment(resetsEach, rst, rst))
		if err != nil {
			return nil, errors.Join(err, out.close())
		}
		out = append(out, c)
	}
	return out, nil
}

// each notes how many segments of each kind came for each of the ends.
func (e ears) each(ends int, values map[string]float64) error {
	for _, c := range e {
		packets, err := c.packets()
		if err != nil {
			return err
		}
		for name, n := range packets {
			values[name] += float64(n) / float64(ends)
		}
	}
	return nil
}

func (e ears) close() error {
	var err error
	for _, c := range e {
		err = errors.Join(err, c.close())
	}
	return err
}
