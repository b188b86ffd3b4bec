//go:build linux

package lab

import (
	"fmt"
	"net/netip"
	"slices"

	"flowcut/internal/nft"

	"golang.org/x/sys/unix"
)

// Priorities of the gateway's chains, enum nf_ip_hook_priorities.
const (
	priorityRaw    = -300 // NF_IP_PRI_RAW
	priorityDstNAT = -100 // NF_IP_PRI_NAT_DST
	priorityFilter = 0    // NF_IP_PRI_FILTER
	prioritySrcNAT = 100  // NF_IP_PRI_NAT_SRC
)

// Bits of ct state and ct status, enum ip_conntrack_info as nft_ct shows it
// and enum ip_conntrack_status.
const (
	stateInvalid     = 1 // NF_CT_STATE_INVALID_BIT
	stateEstablished = 2 // NF_CT_STATE_BIT(IP_CT_ESTABLISHED)
	stateRelated     = 4 // NF_CT_STATE_BIT(IP_CT_RELATED)
	statusDstNAT     = 1 << 5
)

// Gateway is the host between the clients and the servers.
//
// Its rules are those of tables nat and filter, of families ip and ip6, and
// belong to nobody: nft(8) lists, changes and flushes them like any other.
// Not safe for concurrent use.
type Gateway struct {
	*Host
	Public4, Public6 netip.Addr // where clients reach what is forwarded

	outer, inner []*Station
	snat         bool
	uplinks      Uplinks
	forwards     []Forward
	redirects    []redirection
	nat, raw     []*nft.Table
}

// Forward is one line of a DMZ: what comes to a port of the gateway's public
// address goes to an inside one. TCP and UDP, the port is kept.
type Forward struct {
	Port uint16
	To   *Station
}

// Forward turns a line on, in every family that has rules.
func (g *Gateway) Forward(port uint16, to *Station) error {
	g.forwards = append(g.forwards, Forward{Port: port, To: to})
	return g.prerouting()
}

// Unforward turns the lines of a port off. Connections that have been
// translated stay so: that is what flowcut is about.
func (g *Gateway) Unforward(port uint16) error {
	kept := g.forwards[:0]
	for _, f := range g.forwards {
		if f.Port != port {
			kept = append(kept, f)
		}
	}
	g.forwards = kept
	return g.prerouting()
}

// Commit applies a batch of rules inside the host.
func (h *Host) Commit(b *nft.Batch) error {
	c, err := nft.Dial(h.NS.Fd())
	if err != nil {
		return fmt.Errorf("lab: %s: open nf_tables: %w", h.Name, err)
	}
	defer c.Close() //nolint:errcheck // what was committed stays
	if err := c.Commit(b); err != nil {
		return fmt.Errorf("lab: %s: set rules: %w", h.Name, err)
	}
	return nil
}

// prerouting replaces the translations of what comes from outside.
func (g *Gateway) prerouting() error {
	if len(g.nat) == 0 {
		return nil // nothing is translated
	}
	var b nft.Batch
	for _, t := range g.nat {
		b.FlushChain(t, "pre")
		b.AddRules(t, "pre", g.translations(t.Family))
	}
	return g.Commit(&b)
}

func (g *Gateway) translations(family nft.Family) []nft.Rule {
	var rules []nft.Rule
	for _, f := range g.forwards {
		to := f.To.Addr4
		if family == nft.IPv6 {
			to = f.To.Addr6
		}
		for _, public := range g.publics(family) {
			for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
				rules = append(rules, nft.Rule{Statements: []nft.Statement{
					nft.Equal(nft.Dst(family), public.AsSlice()),
					nft.Equal(nft.MetaL4Proto, []byte{proto}),
					nft.Equal(nft.DstPort, nft.Port(f.Port)),
					nft.DNAT(to, 0),
				}})
			}
		}
	}
	for _, r := range g.redirects {
		for _, s := range g.outer {
			rules = append(rules, nft.NewRule("", nft.Equal(nft.MetaIIFName, nft.Name(s.Device)),
				nft.Equal(nft.MetaL4Proto, []byte{unix.IPPROTO_TCP}), nft.Equal(nft.DstPort, nft.Port(r.port)), nft.Redirect(r.to)))
		}
	}
	return rules
}

// publics are the addresses that lines of the DMZ are at: one, or one on each
// uplink.
func (g *Gateway) publics(family nft.Family) []netip.Addr {
	var out []netip.Addr
	for _, s := range g.outer {
		if family == nft.IPv6 {
			out = append(out, s.Via6)
		} else {
			out = append(out, s.Via4)
		}
	}
	if g.uplinks == MainTable {
		out = out[:1]
	}
	return out
}

// redirection is a port of everybody's that the gateway answers on itself.
type redirection struct{ port, to uint16 }

// Redirect sends what comes from outside for a TCP port, at whatever address,
// to a port of the gateway itself.
func (g *Gateway) Redirect(port, to uint16) error {
	g.redirects = append(g.redirects, redirection{port, to})
	return g.prerouting()
}

// Block drops every packet from addr before connection tracking sees it, as
// `iptables -t raw -I PREROUTING -s ADDR -j DROP` does. Unblock takes all
// blocks away, but leaves the chain, as `-D` does.
func (g *Gateway) Block(addr netip.Addr) error {
	family := nft.IPv4
	if addr.Is6() {
		family = nft.IPv6
	}
	raw := &nft.Table{Family: family, Name: "raw", Chains: []*nft.Chain{{
		Name: "PREROUTING",
		Hook: &nft.Hook{Type: "filter", Num: nft.Prerouting, Priority: priorityRaw},
	}}}
	var b nft.Batch
	if !slices.ContainsFunc(g.raw, func(t *nft.Table) bool { return t.Family == family }) {
		b.AddTable(raw)
		g.raw = append(g.raw, raw)
	}
	b.AddRules(raw, "PREROUTING", []nft.Rule{{Statements: []nft.Statement{
		nft.Equal(nft.Src(family), addr.AsSlice()), nft.Drop,
	}}})
	return g.Commit(&b)
}

// Unblock undoes every Block.
func (g *Gateway) Unblock() error {
	var b nft.Batch
	for _, t := range g.raw {
		b.FlushChain(t, "PREROUTING")
	}
	return g.Commit(&b)
}

// install makes the gateway's tables.
func (g *Gateway) install(v6 bool) error {
	families := []nft.Family{nft.IPv4}
	if v6 {
		families = append(families, nft.IPv6)
	}
	var b nft.Batch
	for _, family := range families {
		nat := &nft.Table{Family: family, Name: "nat", Chains: []*nft.Chain{
			{Name: "pre", Hook: &nft.Hook{Type: "nat", Num: nft.Prerouting, Priority: priorityDstNAT}},
			{Name: "post", Hook: &nft.Hook{Type: "nat", Num: nft.Postrouting, Priority: prioritySrcNAT}, Rules: g.sources(family)},
		}}
		g.nat = append(g.nat, nat)
		b.AddTable(nat)
		b.AddTable(g.filter(family))
	}
	return g.Commit(&b)
}

// sources hides the inside: what leaves to the outside gets the gateway's
// address.
func (g *Gateway) sources(family nft.Family) []nft.Rule {
	var rules []nft.Rule
	for _, s := range g.outer {
		how := nft.Masquerade
		if g.snat {
			via := s.Via4
			if family == nft.IPv6 {
				via = s.Via6
			}
			how = nft.SNAT(via, 0)
		}
		rules = append(rules, nft.Rule{Statements: []nft.Statement{nft.Equal(nft.MetaOIFName, nft.Name(s.Device)), how}})
	}
	return rules
}

// filter lets in what was asked for and nothing else; from inside everything
// may leave, from outside what is translated may enter.
func (g *Gateway) filter(family nft.Family) *nft.Table {
	known := nft.AnyBit(nft.CTState, stateEstablished|stateRelated)
	input := &nft.Chain{Name: "input", Hook: &nft.Hook{Type: "filter", Num: nft.Input, Priority: priorityFilter}}
	forward := &nft.Chain{Name: "forward", Hook: &nft.Hook{Type: "filter", Num: nft.Forward, Priority: priorityFilter}, DropPolicy: true}
	forward.Rules = append(forward.Rules, nft.Rule{Statements: []nft.Statement{known, nft.Accept}})
	if family == nft.IPv6 {
		input.Rules = append(input.Rules, g.neighbours())
	}
	for _, s := range g.outer {
		from := nft.Equal(nft.MetaIIFName, nft.Name(s.Device))
		input.Rules = append(input.Rules,
			nft.Rule{Statements: []nft.Statement{from, known, nft.Accept}},
			nft.Rule{Statements: []nft.Statement{from, nft.AnyBit(nft.CTStatus, statusDstNAT), nft.Accept}},
			nft.Rule{Statements: []nft.Statement{from, nft.Drop}})
		forward.Rules = append(forward.Rules,
			nft.Rule{Statements: []nft.Statement{from, nft.AnyBit(nft.CTStatus, statusDstNAT), nft.Accept}})
	}
	for _, s := range g.inner {
		from := nft.Equal(nft.MetaIIFName, nft.Name(s.Device))
		forward.Rules = append(forward.Rules, nft.Rule{Statements: []nft.Statement{from, nft.Accept}})
	}
	return &nft.Table{Family: family, Name: "filter", Chains: []*nft.Chain{input, forward}}
}

// neighbours accepts neighbour discovery, without which IPv6 has no links.
func (g *Gateway) neighbours() nft.Rule {
	const solicitation, redirect = 133, 137 // ND_ROUTER_SOLICIT to ND_REDIRECT
	kind := nft.Payload("icmpv6 type", nft.TransportHeader, 0, nft.TypeProto)
	return nft.Rule{Statements: []nft.Statement{
		nft.Equal(nft.MetaL4Proto, []byte{unix.IPPROTO_ICMPV6}),
		nft.Range{Op: kind, From: []byte{solicitation}, To: []byte{redirect}},
		nft.Accept,
	}}
}

// Firewall gives the host an input chain as many servers have it: what is
// established is accepted, what conntrack calls invalid is dropped, or
// answered with a reset, the rest is accepted.
func (h *Host) Firewall(rejects bool) error {
	invalid := []nft.Statement{nft.AnyBit(nft.CTState, stateInvalid), nft.Drop}
	if rejects {
		invalid = []nft.Statement{nft.AnyBit(nft.CTState, stateInvalid), nft.Equal(nft.MetaL4Proto, []byte{unix.IPPROTO_TCP}), nft.Reset}
	}
	var b nft.Batch
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		b.AddTable(&nft.Table{Family: family, Name: "host", Chains: []*nft.Chain{{
			Name: "input",
			Hook: &nft.Hook{Type: "filter", Num: nft.Input, Priority: priorityFilter},
			Rules: []nft.Rule{
				{Statements: []nft.Statement{nft.AnyBit(nft.CTState, stateEstablished), nft.Accept}},
				{Statements: invalid},
			},
		}}})
	}
	return h.Commit(&b)
}

// Vanish makes the host deaf and dumb, as one that has lost its power: only
// its neighbours' ARP is still answered.
func (h *Host) Vanish() error {
	var b nft.Batch
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		b.AddTable(&nft.Table{Family: family, Name: "vanished", Chains: []*nft.Chain{
			{Name: "in", Hook: &nft.Hook{Type: "filter", Num: nft.Prerouting, Priority: priorityRaw}, DropPolicy: true},
			{Name: "out", Hook: &nft.Hook{Type: "filter", Num: nft.Output, Priority: priorityRaw}, DropPolicy: true},
		}})
	}
	return h.Commit(&b)
}
