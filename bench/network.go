//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/internal/lab"
	"flowcut/internal/netns"
	"flowcut/internal/nft"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Ports of the gateway that are forwarded.
const (
	servicePort = 5201 // to the server whose flows are cut
	otherPort   = 5202 // to another one
)

// patience is how long one step of traffic may take on a busy machine.
const patience = 2 * time.Minute

// network is a lab with live traffic. Its gateway's table can hold flows, too,
// of which nobody has a socket.
type network struct {
	*lab.Topology
	client *conntrack.Client // of the gateway
}

func newNetwork(ctx context.Context, cfg lab.Config) (_ *network, err error) {
	n := &network{}
	if n.Topology, err = lab.Standard(ctx, cfg); err != nil {
		return nil, err
	}
	if n.client, err = conntrack.Dial(conntrack.Config{NetNS: n.Gateway.NS.Fd()}); err != nil {
		return nil, errors.Join(err, n.Topology.Close())
	}
	return n, nil
}

// close leaves no flows that the kernel would have to delete later.
func (n *network) close() error {
	return errors.Join(n.client.Flush(context.Background(), conntrack.FamilyBoth), n.client.Close(), n.Topology.Close())
}

// service is where clients reach the server whose flows are cut.
func (n *network) service() netip.AddrPort { return netip.AddrPortFrom(n.Gateway.Public4, servicePort) }

// load adds count flows to the gateway's table: every step-th of those of a
// table as the other parts have it.
func (n *network) load(ctx context.Context, count, step int) error {
	made, err := n.client.CreateAll(ctx, flows(count*step, step))
	if err == nil && made != count {
		err = fmt.Errorf("only %d could be made", made)
	}
	if err != nil {
		return fmt.Errorf("load %d flows: %w", count, err)
	}
	return nil
}

// left counts the entries that a server's address is in, whoever began them.
func (n *network) left(ctx context.Context, server netip.Addr) (int, error) {
	count := 0
	for f, err := range n.client.Dump(ctx, conntrack.Filter{Family: conntrack.FamilyIPv4}) {
		if err != nil {
			return 0, err
		}
		if f.Orig.Src == server || f.Reply.Src == server {
			count++
		}
	}
	return count, nil
}

// cut runs flowcut cut in a namespace with arguments, and holds the receipt to
// the number of flows that match.
func (b *bench) cut(ctx context.Context, ns *netns.NS, want int, args ...string) (m measure, began time.Time, r *cut.Receipt, err error) {
	argv := slices.Concat([]string{b.flowcut, "cut", "-o", "json"}, args)
	p, err := start(ctx, ns, b.dir, argv, true)
	if err != nil {
		return m, began, nil, err
	}
	m, o, err := p.wait(ctx)
	if err != nil {
		return m, began, nil, err
	}
	r = new(cut.Receipt)
	if err := json.Unmarshal([]byte(o.stdout), r); err != nil {
		return m, began, nil, fmt.Errorf("receipt of %q: %w; exit code %d; it says: %s%s", argv, err, m.Exit, o.stdout, o.stderr)
	}
	m.Count = r.Flows.Deleted
	if r.Flows.Matched != want || r.Flows.Deleted != want || r.Flows.Remaining != 0 {
		return m, began, r, fmt.Errorf("%q matched %d flows, deleted %d and left %d, of %d; it says: %s%s",
			argv, r.Flows.Matched, r.Flows.Deleted, r.Flows.Remaining, want, o.stdout, o.stderr)
	}
	if m.Exit != 0 {
		say("exit code %d: %s", m.Exit, r.Reason)
	}
	return m, o.began, r, nil
}

// told waits until all ends were told something, and fails unless that was a
// reset for each.
func told(ctx context.Context, ends lab.Ends) error {
	limit, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := ends.WaitTold(limit)
	if n := ends.Told(unix.ECONNRESET); err == nil && n != len(ends) {
		err = errors.New("the others were told something else")
	}
	if err != nil {
		return fmt.Errorf("%d of %d ends got ECONNRESET: %w", ends.Told(unix.ECONNRESET), len(ends), err)
	}
	return nil
}

// bothEnds are the ends at both sides.
func bothEnds(clients ...lab.Ends) lab.Ends {
	all := slices.Concat(clients...)
	return append(all, all.Peers()...)
}

// milliseconds are d as a value.
func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// truth is 1 for what is so.
func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// answerFor makes a host take every address of a prefix for its own: what is
// sent to a connection there is answered as by one that has lost it.
func answerFor(h *lab.Host, prefix netip.Prefix) error {
	return h.NS.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		dst, err := netlink.ParseIPNet(prefix.String())
		if err != nil {
			return err
		}
		err = netlink.RouteAdd(&netlink.Route{
			LinkIndex: lo.Attrs().Index, Dst: dst, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
		})
		if err != nil {
			return fmt.Errorf("%s: make %s its own: %w", h.Name, prefix, err)
		}
		return nil
	})
}

// counter counts what arrives at a host, before all else.
type counter struct {
	conn  *nft.Conn
	table *nft.Table
}

// count counts what rules without verdicts, or with, find in IPv4.
func count(h *lab.Host, rules ...nft.Rule) (*counter, error) {
	const raw = -300 // NF_IP_PRI_RAW
	c := &counter{table: &nft.Table{Family: nft.IPv4, Name: "count", Chains: []*nft.Chain{{
		Name: "arrived", Hook: &nft.Hook{Type: "filter", Num: nft.Prerouting, Priority: raw}, Rules: rules,
	}}}}
	var b nft.Batch
	b.AddTable(c.table)
	err := h.Commit(&b)
	if err == nil {
		c.conn, err = nft.Dial(h.NS.Fd())
	}
	if err != nil {
		return nil, fmt.Errorf("%s: count what arrives: %w", h.Name, err)
	}
	return c, nil
}

func (c *counter) close() error { return c.conn.Close() }

// packets returns what each rule has found, by its comment.
func (c *counter) packets() (map[string]int, error) {
	counts, err := c.conn.Counts(c.table)
	if err != nil {
		return nil, err
	}
	out := make(map[string]int)
	for name, n := range counts {
		out[name] = int(n.Packets)
	}
	return out, nil
}
