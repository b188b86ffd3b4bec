//go:build linux && amd64

package faults

import (
	"context"
	"fmt"
	"time"

	"flowcut/internal/lab"
)

// bystander is a flow that nobody means.
type bystander struct {
	name   string
	client *lab.End
	lost   [2]uint64 // datagrams, on the way up and down, that are accounted for
	heard  uint64    // by the client, when it was last looked at
}

// settleIn makes the flows that are left alone.
func (w *World) settleIn(ctx context.Context) error {
	client := w.net.Clients[0].Host
	for _, six := range []bool{false, true} {
		to, suffix := w.to(others, six), ""
		if six {
			suffix = "6"
		}
		for _, kind := range []struct {
			name string
			kind lab.Kind
		}{{"idle", lab.Idle}, {"talking", lab.Talk}, {"download", lab.Download}} {
			at := to
			if kind.kind == lab.Download {
				at = w.to(otherBulk, six)
			}
			ends, err := client.Dial(ctx, lab.Streams{Kind: kind.kind, To: at, Interval: 8 * time.Millisecond})
			if err != nil {
				return err
			}
			w.bystanders = append(w.bystanders, &bystander{name: kind.name + suffix, client: ends[0]})
		}
		ends, err := client.Exchange(ctx, lab.Datagrams{To: to, Up: 100, Down: 100})
		if err != nil {
			return err
		}
		w.bystanders = append(w.bystanders, &bystander{name: "udp" + suffix, client: ends[0]})
	}
	return nil
}

// unhurt looks whether every bystander still has all that was sent to it, and
// was told nothing. What datagrams a namespace without devices has lost is none
// of the program's doing: forgive accounts for it.
func (w *World) unhurt(forgive bool) (bad []string) {
	soon := w.soon
	if forgive { // TCP waits for as long as there was no way, once more
		soon = 30 * time.Second
	}
	for _, b := range w.bystanders {
		for i, e := range []*lab.End{b.client, b.client.Peer()} {
			if told(e) && !forgive {
				bad = append(bad, fmt.Sprintf("bystander %s, end %d, was told %v", b.name, i, e.Told().Err))
			}
		}
		switch b.client.Kind {
		case lab.Datagram:
			bad = append(bad, b.losses(soon, forgive)...)
		case lab.Idle:
		default:
			if !b.goesOn(soon) {
				bad = append(bad, fmt.Sprintf("bystander %s hears nothing any more", b.name))
			}
		}
	}
	return bad
}

// losses tells how many datagrams have not come, since that was last asked.
func (b *bystander) losses(soon time.Duration, forgive bool) (bad []string) {
	from := [2]*lab.End{b.client, b.client.Peer()}
	for i, way := range []string{"up", "down"} {
		sent, to := from[i].Sent.Messages(), from[1-i]
		_ = until(soon, "all have come", func() (bool, error) { return to.Missing(sent) <= b.lost[i], nil })
		missing := to.Missing(sent)
		if missing > b.lost[i] && !forgive {
			bad = append(bad, fmt.Sprintf("bystander %s lost %d datagrams on the way %s", b.name, missing-b.lost[i], way))
		}
		b.lost[i] = max(b.lost[i], missing)
	}
	return bad
}

// recover waits, after the gateway has got its devices back, until all datagrams
// arrive that are sent, and forgives what was lost until then.
func (w *World) recover() error {
	const quiet = 100 * time.Millisecond
	for _, b := range w.bystanders {
		if b.client.Kind != lab.Datagram {
			continue
		}
		from := [2]*lab.End{b.client, b.client.Peer()}
		for i := range from {
			err := until(10*time.Second, "datagrams arrive", func() (bool, error) {
				first := from[i].Sent.Messages()
				time.Sleep(quiet) // time itself is meant: some are sent in it
				last, lost := from[i].Sent.Messages(), from[1-i].Missing(first)
				b.lost[i] = lost
				err := until(quiet, "they have come", func() (bool, error) { return from[1-i].Missing(last) == lost, nil })
				return err == nil, nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// goesOn tells whether a connection has moved since it was last looked at, or
// does so soon.
func (b *bystander) goesOn(soon time.Duration) bool {
	err := until(soon, "it goes on", func() (bool, error) { return b.client.Received.Bytes() != b.heard, nil })
	b.heard = b.client.Received.Bytes()
	return err == nil
}

// Idle looks at last whether the connections that have been idle can still say
// a word.
func (w *World) Idle(ctx context.Context) (bad []string) {
	for _, b := range w.bystanders {
		if b.client.Kind != lab.Idle {
			continue
		}
		was := b.client.Peer().Received.Bytes()
		err := b.client.Say()
		if err == nil {
			err = lab.Until(ctx, "it is heard", func() (bool, error) { return b.client.Peer().Received.Bytes() > was, nil })
		}
		if err != nil {
			bad = append(bad, fmt.Sprintf("bystander %s: %v", b.name, err))
		}
	}
	return bad
}
