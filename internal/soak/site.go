//go:build linux

package soak

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"flowcut/conntrack"
	"flowcut/internal/lab"
)

// site is a scenario on the lab, under traffic.
type site struct {
	s       *Scenario
	gateway *gateway
	net     *lab.Topology
	ct      *conntrack.Client
	queue   *lab.Queue // of scenarios that have one

	flows   []*flow
	victims []*flow // that are to be cut
	others  []*flow
	again   *lab.Reconnecting

	broken broken
}

// build makes the network and starts the traffic of a scenario.
func build(ctx context.Context, s *Scenario) (_ *site, err error) {
	x := &site{s: s}
	if x.gateway, err = newGateway(s.Gateway); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, x.close())
		}
	}()
	if x.net, err = lab.Standard(ctx, x.gateway.config); err != nil {
		return nil, err
	}
	if x.ct, err = conntrack.Dial(conntrack.Config{NetNS: x.net.Gateway.NS.Fd()}); err != nil {
		return nil, err
	}
	if err := x.rule(ctx); err != nil {
		return nil, err
	}
	if err := x.serve(); err != nil {
		return nil, err
	}
	for i := range s.Groups {
		if err := x.start(ctx, &s.Groups[i]); err != nil {
			return nil, fmt.Errorf("soak: start %s: %w", &s.Groups[i], err)
		}
	}
	return x, x.flowing(ctx)
}

func (x *site) close() error {
	var errs []error
	if x.ct != nil {
		errs = append(errs, x.ct.Close())
	}
	if x.net != nil {
		errs = append(errs, x.net.Close())
	}
	return errors.Join(errs...)
}

// rule loads the rules that the gateway has besides those of its kinds.
func (x *site) rule(ctx context.Context) (err error) {
	var text strings.Builder
	for _, family := range x.gateway.families() {
		for _, rules := range x.gateway.rules {
			text.WriteString(rules(x.net.Clients, family))
		}
		for i := range x.s.Groups {
			if x.s.Groups[i].Kind == lab.Control {
				text.WriteString(helping(nil, family))
				break
			}
		}
	}
	if x.s.Disturb.kind().queue {
		if err := x.enqueue(ctx); err != nil {
			return err
		}
	}
	if text.Len() > 0 {
		_, err = nft(ctx, x.net.Gateway.Host, text.String(), "-f", "-")
	}
	return err
}

// serve starts the services of all groups, and leads to them.
func (x *site) serve() error {
	type service struct {
		host *lab.Host
		port uint16
	}
	up, led := map[service]bool{}, map[uint16]bool{}
	for i := range x.s.Groups {
		g := &x.s.Groups[i]
		if g.Kind == lab.Echo {
			continue
		}
		_, to := x.hosts(g)
		if at := (service{to, g.answering()}); !up[at] {
			up[at] = true
			if err := listen(to, g); err != nil {
				return err
			}
		}
		if led[g.Port] || !g.forwarded() && g.Road != Redirected {
			continue
		}
		led[g.Port] = true
		_, station := x.stations(g)
		lead := func() error { return x.net.Gateway.Forward(g.Port, station) }
		if g.Road == Redirected {
			lead = func() error { return x.net.Gateway.Redirect(g.Port, g.answering()) }
		}
		if err := lead(); err != nil {
			return err
		}
	}
	return nil
}

func listen(h *lab.Host, g *Group) error {
	if g.Kind == lab.Control {
		return h.ListenFTP(g.Port)
	}
	_, err := h.Listen(g.answering())
	return err
}

// flowing waits until each connection that carries anything has carried some.
func (x *site) flowing(ctx context.Context) error {
	for _, f := range x.flows {
		some := uint64(1)
		switch f.kind {
		case lab.Download, lab.Upload:
			some = 1 << 20
		case lab.Datagram:
			some = 3 * 256
		}
		if err := x.flowed(ctx, f, some); err != nil {
			return err
		}
	}
	return nil
}

func (x *site) flowed(ctx context.Context, f *flow, some uint64) error {
	for _, e := range f.receivers() {
		if err := (lab.Ends{e}).WaitReceived(ctx, some); err != nil {
			return fmt.Errorf("soak: %s: %v: %w", f.group, f.orig, err)
		}
	}
	return nil
}

// place names an entry of the table.
type place struct {
	tuple conntrack.Tuple
	zone  conntrack.Zone // of the original direction
}

// table lists the gateway's entries.
func (x *site) table(ctx context.Context) (map[place]*conntrack.Flow, error) {
	out := map[place]*conntrack.Flow{}
	for f, err := range x.ct.Dump(ctx, conntrack.Filter{}) {
		if err != nil {
			return nil, err
		}
		out[place{f.Orig, f.Key().Zone}] = f.Clone()
	}
	return out, nil
}

// places are where the entry of a flow is: in its direction, or turned round.
func (f *flow) places() [2]place {
	return [2]place{{f.orig, conntrack.Zone(f.zones[0])}, {f.reply, conntrack.Zone(f.zones[1])}}
}

// entries notes the entries of all flows, which must be as their ends say.
func (x *site) entries(ctx context.Context) error {
	table, err := x.table(ctx)
	if err != nil {
		return err
	}
	for _, f := range x.flows {
		at := f.places()
		if f.entry = table[at[0]]; f.entry == nil {
			f.entry = table[at[1]]
			f.mirrored = f.entry != nil
		}
		if tracked := x.gateway.tracks(f.group.V6); (f.entry != nil) != tracked {
			return fmt.Errorf("soak: %s: %v / %v zones %v: entry %+v, tracked %v", f.group, f.orig, f.reply, f.zones, f.entry, tracked)
		}
		if f.entry == nil {
			continue
		}
		v := f.view()
		if f.entry.Reply != v.reply || uint32(f.entry.Mark) != v.mark || hasLabel(f.entry.Labels, v.label) != (v.label != 0) {
			return fmt.Errorf("soak: %s: want %+v, the entry is %+v", f.group, v, f.entry)
		}
		if f.mirrored && x.s.Disturb != DeletedBefore {
			return fmt.Errorf("soak: %s: the entry is turned round: %+v", f.group, f.entry)
		}
	}
	return nil
}

func hasLabel(l conntrack.Labels, n int) bool { return n != 0 && l[n/8]&(1<<(n%8)) != 0 }

// sort tells victims from others.
func (x *site) sort() {
	for _, f := range x.flows {
		if f.entry != nil && x.meant(f) && !x.spared(f) {
			x.victims = append(x.victims, f)
		} else {
			x.others = append(x.others, f)
		}
	}
}

// ruleset is what nft(8) lists on the gateway, without what rules have counted.
func (x *site) ruleset(ctx context.Context) (string, error) {
	return nft(ctx, x.net.Gateway.Host, "", "--stateless", "list", "ruleset")
}

// nft runs nft(8) on a host.
func nft(ctx context.Context, h *lab.Host, rules string, args ...string) (string, error) {
	out, err := run(ctx, h, rules, append([]string{"nft"}, args...)...)
	// It has no names of labels to offer, and says so.
	if _, after, warned := strings.Cut(out, "connlabel.conf: No such file or directory\n"); warned {
		return after, err
	}
	return out, err
}

// run runs a program on a host and returns what it says.
func run(ctx context.Context, h *lab.Host, input string, args ...string) (string, error) {
	var out []byte
	err := h.NS.Do(func() (err error) {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Stdin = strings.NewReader(input)
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("soak: %s on %s: %w\n%s", strings.Join(args, " "), h.Name, err, out)
	}
	return string(out), nil
}
