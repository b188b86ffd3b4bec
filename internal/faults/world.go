//go:build linux && amd64

package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/lab"
)

// World is a gateway with flows that are cut and flows that are left alone. It
// is made once and serves many cases, one after the other.
type World struct {
	program string
	symbols *Symbols
	net     *lab.Topology
	ct      *conntrack.Client // of the gateway
	before  string            // its ruleset
	soon    time.Duration     // how long one waits for what is under way, as TCP does where packets were lost
	remote  *remote

	victims    []*victim
	bystanders []*bystander
}

// victim is a flow that is cut.
type victim struct {
	name   string
	client *lab.End
	entry  conntrack.Flow // as it was before the cut
	tcp    bool
}

// ends are the originator and the responder.
func (v *victim) ends() [2]*lab.End { return [2]*lab.End{v.client, v.client.Peer()} }

// told tells whether an end knows that its connection is gone.
func told(e *lab.End) bool { return e.Told().Err != nil }

// NewWorld builds the network and the flows that are left alone.
func NewWorld(ctx context.Context, program string) (_ *World, err error) {
	w := &World{program: program, soon: 3 * time.Second}
	if w.symbols, err = ReadSymbols(program); err != nil {
		return nil, err
	}
	if w.net, err = lab.Standard(ctx, lab.Config{}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	if err := w.serve(); err != nil {
		return nil, err
	}
	g := w.net.Gateway
	if w.ct, err = conntrack.Dial(conntrack.Config{NetNS: g.NS.Fd()}); err != nil {
		return nil, err
	}
	if w.remote, err = newRemote(g); err != nil {
		return nil, err
	}
	if err := errors.Join(g.Forward(others, w.server(others)), g.Forward(otherBulk, w.server(otherBulk))); err != nil {
		return nil, err
	}
	if w.before, err = w.ruleset(); err != nil {
		return nil, err
	}
	return w, w.settleIn(ctx)
}

// serve listens at all ports. Downloads are held back: else they would take all of
// the processors.
func (w *World) serve() error {
	const rate = 256 << 10 // bytes a second
	for _, p := range []uint16{port, bulk, others, otherBulk} {
		s, err := w.server(p).Listen(p)
		if err == nil && w.server(p) == w.server(bulk) {
			err = s.Pace(rate)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// server is where a port is forwarded to.
func (w *World) server(p uint16) *lab.Station {
	if p == bulk || p == otherBulk {
		return w.net.Servers[1]
	}
	return w.net.Servers[0]
}

// Close removes everything.
func (w *World) Close() error {
	var err error
	if w.ct != nil {
		err = w.ct.Close()
	}
	if w.remote != nil {
		err = errors.Join(err, w.remote.close())
	}
	return errors.Join(err, w.net.Close())
}

// ruleset is what nft(8) lists in the gateway, without counters.
func (w *World) ruleset() (string, error) {
	var out bytes.Buffer
	cmd := exec.Command("nft", "--stateless", "list", "ruleset")
	cmd.Stdout, cmd.Stderr = &out, &out
	err := start(cmd, w.net.Gateway.NS.Fd())
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("nft list ruleset: %w: %s", err, &out)
	}
	return out.String(), nil
}

// to is where clients reach a port.
func (w *World) to(p uint16, six bool) netip.AddrPort {
	return w.net.To(w.net.Clients[0], w.server(p), p, six)
}

// populate makes the flows that are to be cut, and then takes away the rule
// that has let them in.
func (w *World) populate(ctx context.Context, v Variant) error {
	g := w.net.Gateway
	if err := errors.Join(g.Forward(port, w.server(port)), g.Forward(bulk, w.server(bulk))); err != nil {
		return err
	}
	w.victims = nil
	client := w.net.Clients[0].Host
	for _, x := range []struct {
		name string
		six  bool
		kind lab.Kind
	}{
		{"idle", false, lab.Idle}, {"talking", false, lab.Talk}, {"download", false, lab.Download}, {"udp", false, lab.Datagram},
		{"idle6", true, lab.Idle}, {"talking6", true, lab.Talk}, {"udp6", true, lab.Datagram},
	} {
		var ends lab.Ends
		var err error
		p := uint16(port)
		if x.kind == lab.Download {
			p = bulk
		}
		if x.kind == lab.Datagram {
			ends, err = client.Exchange(ctx, lab.Datagrams{To: w.to(p, x.six), Up: 100})
		} else {
			ends, err = client.Dial(ctx, lab.Streams{Kind: x.kind, To: w.to(p, x.six), Interval: 8 * time.Millisecond})
		}
		if err != nil {
			return err
		}
		w.victims = append(w.victims, &victim{name: x.name, client: ends[0], tcp: x.kind != lab.Datagram})
	}
	if err := errors.Join(g.Unforward(port), g.Unforward(bulk)); err != nil {
		return err
	}
	if v.crowd > 0 {
		if err := w.fill(ctx, v.crowd); err != nil {
			return err
		}
	}
	entries, err := w.entries(ctx)
	if err != nil {
		return err
	}
	for _, v := range w.victims {
		at := slices.IndexFunc(entries, func(f *conntrack.Flow) bool { return v.owns(f) })
		if at < 0 {
			return fmt.Errorf("there is no entry of flow %s", v.name)
		}
		v.entry = *entries[at]
	}
	return nil
}

// owns tells whether an entry is the victim's, by its client's address.
func (v *victim) owns(f *conntrack.Flow) bool {
	return (f.Orig.Proto == conntrack.ProtoTCP) == v.tcp && f.Orig.Src == v.client.Local.Addr() && f.Orig.SrcPort == v.client.Local.Port()
}

// fill makes entries of connections that have no ends.
func (w *World) fill(ctx context.Context, n int) error {
	_, err := w.ct.CreateAll(ctx, func(yield func(*conntrack.Flow) bool) {
		for i := range n {
			f := &conntrack.Flow{
				Has: conntrack.AttrStatus | conntrack.AttrTCP, Timeout: 10 * time.Minute,
				Status: conntrack.StatusSeenReply | conntrack.StatusAssured | conntrack.StatusConfirmed,
				Orig: conntrack.Tuple{
					Proto: conntrack.ProtoTCP, Src: netip.AddrFrom4([4]byte{10, 7, byte(i >> 8), byte(i)}), Dst: w.net.Gateway.Public4,
					SrcPort: 4000, DstPort: port,
				},
			}
			f.TCP.State = conntrack.TCPEstablished
			if !yield(f) {
				return
			}
		}
	})
	return err
}

// entries are the entries of flows to the port, in either direction.
func (w *World) entries(ctx context.Context) (list []*conntrack.Flow, err error) {
	for f, err := range w.ct.Dump(ctx, conntrack.Filter{}) {
		if err != nil {
			return nil, err
		}
		if cut := func(p uint16) bool { return p == port || p == bulk }; cut(f.Orig.DstPort) || cut(f.Orig.SrcPort) {
			list = append(list, f.Clone())
		}
	}
	return list, nil
}

// clear removes what is left of the flows that were cut.
func (w *World) clear(ctx context.Context) error {
	for _, v := range w.victims {
		for _, e := range v.ends() {
			e.Close()
		}
	}
	w.victims = nil
	list, err := w.entries(ctx)
	if err != nil {
		return err
	}
	keys := make([]conntrack.Key, len(list))
	for i, f := range list {
		keys[i] = f.Key()
	}
	_, err = w.ct.Delete(ctx, keys, nil)
	return err
}
