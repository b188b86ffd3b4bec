//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flowcut/internal/lab"
)

const (
	downloads     = 4
	downloadLeast = 16 << 20 // bytes of each, before the cut
	silenceMost   = 1_000_000
)

// Values of part silence.
const (
	lastByte    = "last byte, ms"
	lastRatio   = "that / with the smallest table"
	raisedAfter = "fence up by the receipt, ms"
	exitAfter   = "exit, ms"
)

// runSilence turns a forwarding off under load, and measures when the clients
// have received the last byte, with tables of all sizes beside.
func runSilence(ctx context.Context, b *bench) ([]*table, error) {
	t := &table{
		Work: "silence", Title: "Turn a loaded server off: from the start of the process until all is silent", Env: b.env,
		Columns: []string{lastByte, lastRatio, raisedAfter, exitAfter},
	}
	for _, n := range b.sizes {
		if n > silenceMost {
			continue
		}
		if ok, err := b.room(n); err != nil {
			return nil, err
		} else if !ok {
			continue
		}
		rounds, err := b.silences(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("silence with %d flows: %w", n, err)
		}
		t.Rows = append(t.Rows, row{Name: thousands(n) + " other flows", Who: us, Rounds: rounds})
	}
	if len(t.Rows) == 0 {
		return nil, fmt.Errorf("part silence has no size: give one up to %d", silenceMost)
	}
	t.relate(func(m *measure) float64 { return m.Values[lastByte] }, lastRatio)
	return []*table{t}, nil
}

// silences are all rounds beside n other flows.
func (b *bench) silences(ctx context.Context, n int) (rounds []measure, err error) {
	net, err := newNetwork(ctx, lab.Config{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, net.close()) }()
	// The flows of a table go to the first server's address.
	if _, err := net.Servers[1].Listen(servicePort); err != nil {
		return nil, err
	}
	if err := net.load(ctx, n, 1); err != nil {
		return nil, err
	}
	for i := range b.rounds {
		say("silence, %s flows: round %d of %d", thousands(n), i+1, b.rounds)
		m, err := b.silence(ctx, net)
		if err != nil {
			return nil, err
		}
		rounds = append(rounds, m)
	}
	return rounds, nil
}

// silence turns the forwarding off once.
func (b *bench) silence(ctx context.Context, net *network) (measure, error) {
	limit, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	server := net.Servers[1]
	if err := net.Gateway.Forward(servicePort, server); err != nil {
		return measure{}, err
	}
	busy, err := net.Clients[0].Dial(limit, lab.Streams{Kind: lab.Download, To: net.service(), Count: downloads})
	if err != nil {
		return measure{}, err
	}
	if err := busy.WaitReceived(limit, downloadLeast); err != nil {
		return measure{}, err
	}
	if err := net.Gateway.Unforward(servicePort); err != nil {
		return measure{}, err
	}
	m, began, r, err := b.cut(limit, net.Gateway.NS, downloads, "-g", "-r", server.Addr4.String())
	if err != nil {
		return m, err
	}
	if err := told(limit, bothEnds(busy)); err != nil {
		return m, err
	}
	last := busy.LastReceived().Sub(began)
	if last <= 0 {
		return m, fmt.Errorf("the downloads stood still %v before the program began: there is nothing to measure", -last)
	}
	if left, err := net.left(limit, server.Addr4); err != nil || left != 0 {
		return m, fmt.Errorf("%d entries of the server are left, want none (%v)", left, err)
	}
	m.Values = map[string]float64{
		lastByte: milliseconds(last), raisedAfter: milliseconds(time.Duration(r.Fence.RaisedAfterMS)), exitAfter: milliseconds(m.Wall),
	}
	return m, nil
}
