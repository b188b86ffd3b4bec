//go:build linux

package lab

import (
	"flowcut/internal/nft"

	"golang.org/x/sys/unix"
)

// Priorities and bits that only unusual gateways need.
const (
	priorityMangle   = -150      // NF_IP_PRI_MANGLE
	priorityLast     = 1<<31 - 1 // NF_IP_PRI_LAST
	stateNew         = 8         // NF_CT_STATE_BIT(IP_CT_NEW)
	stateUntracked   = 64        // NF_CT_STATE_UNTRACKED_BIT
	flagsOfHandshake = 0x17      // FIN, SYN, RST, ACK
	flagSYN          = 0x02
)

// families that the gateway has tables for.
func (cfg Config) families() []nft.Family {
	if cfg.IPv4Only {
		return []nft.Family{nft.IPv4}
	}
	return []nft.Family{nft.IPv4, nft.IPv6}
}

// special makes the tables of unusual gateways.
func (g *Gateway) special(cfg Config) error {
	var b nft.Batch
	n := 0
	for _, family := range cfg.families() {
		for _, table := range []*nft.Table{g.own(cfg, family), g.marks(cfg, family), g.zones(cfg, family), bridgeFilter(cfg, family)} {
			if len(table.Chains) > 0 {
				b.AddTable(table)
				n++
			}
		}
	}
	if n > 0 {
		if err := g.Commit(&b); err != nil {
			return err
		}
	}
	if cfg.Crowd == NoCrowd {
		return nil
	}
	return g.Crowd("crowd", cfg.Crowd, cfg.families()...)
}

func base(name, typ string, hook uint32, priority int32, drop bool, rules ...nft.Rule) *nft.Chain {
	return &nft.Chain{Name: name, Hook: &nft.Hook{Type: typ, Num: hook, Priority: priority}, DropPolicy: drop, Rules: rules}
}

// own has the rules on the gateway's own packets.
func (g *Gateway) own(cfg Config, family nft.Family) *nft.Table {
	t := &nft.Table{Family: family, Name: "own"}
	var always []nft.Rule
	if family == nft.IPv6 {
		always = append(always, g.neighbours())
	}
	if cfg.Output != OutputOpen {
		out := base("output", "filter", nft.Output, priorityFilter, true, always...)
		known := map[Output]uint32{OutputEstablished: stateEstablished, OutputRelated: stateEstablished | stateRelated}[cfg.Output]
		if known != 0 {
			out.Rules = append(out.Rules, nft.NewRule("", nft.AnyBit(nft.CTState, known), nft.Accept))
		}
		t.Chains = append(t.Chains, out)
	}
	if cfg.InputDrop {
		t.Chains = append(t.Chains, base("input", "filter", nft.Input, priorityFilter, true,
			append(always, nft.NewRule("", nft.AnyBit(nft.CTStatus, statusDstNAT), nft.Accept))...))
	}
	return t
}

// marks has the connection marks that routing rules ask for.
func (g *Gateway) marks(cfg Config, family nft.Family) *nft.Table {
	t := &nft.Table{Family: family, Name: "uplinks"}
	if cfg.Uplinks != ByMark && cfg.Uplinks != ByMarkRestored {
		return t
	}
	pre := base("pre", "filter", nft.Prerouting, priorityMangle, false)
	for n, s := range g.outer[1:] {
		pre.Rules = append(pre.Rules, nft.NewRule("", nft.Equal(nft.MetaIIFName, nft.Name(s.Device)),
			nft.AnyBit(nft.CTState, stateNew), nft.SetCTMark(uint32(n+2))))
	}
	for _, s := range g.inner {
		pre.Rules = append(pre.Rules, nft.NewRule("", nft.Equal(nft.MetaIIFName, nft.Name(s.Device)), nft.MarkFromFlow))
	}
	t.Chains = append(t.Chains, pre)
	if cfg.Uplinks == ByMarkRestored {
		t.Chains = append(t.Chains, base("out", "route", nft.Output, priorityMangle, false, nft.NewRule("", nft.MarkFromFlow)))
	}
	return t
}

// zones has the rules that put packets into zones.
func (g *Gateway) zones(cfg Config, family nft.Family) *nft.Table {
	t := &nft.Table{Family: family, Name: "zones"}
	if cfg.Zoned == NoZones && !cfg.Twins {
		return t
	}
	pre := base("pre", "filter", nft.Prerouting, priorityRaw, false)
	out := base("out", "filter", nft.Output, priorityRaw, false)
	in := func(s *Station, also ...nft.Statement) nft.Rule {
		return nft.NewRule("", append([]nft.Statement{nft.Equal(nft.MetaIIFName, nft.Name(s.Device))}, also...)...)
	}
	for n, client := range g.outer {
		zone, addr := uint16(n+1), client.Addr4
		if family == nft.IPv6 {
			addr = client.Addr6
		}
		to := nft.Equal(nft.Dst(family), addr.AsSlice())
		switch {
		case cfg.Twins:
			pre.Rules = append(pre.Rules, in(client, nft.SetZone(zone)), in(g.inner[n], nft.SetZone(zone)))
		case cfg.Zoned == ZoneOriginal && n == 0:
			pre.Rules = append(pre.Rules, in(client, nft.SetDirZone(nft.Original, zone)))
		case cfg.Zoned == ZoneClient && n == 0, cfg.Zoned == ZoneEveryClient:
			pre.Rules = append(pre.Rules, in(client, nft.SetZone(zone)))
			for _, server := range g.inner {
				pre.Rules = append(pre.Rules, in(server, to, nft.SetZone(zone)))
			}
			out.Rules = append(out.Rules, nft.NewRule("", to, nft.SetZone(zone)))
		}
	}
	t.Chains = append(t.Chains, pre)
	if len(out.Rules) > 0 {
		t.Chains = append(t.Chains, out)
	}
	return t
}

// bridgeFilter makes a gateway that bridges follow connections.
func bridgeFilter(cfg Config, family nft.Family) *nft.Table {
	t := &nft.Table{Family: family, Name: "filter"}
	if cfg.Bridged != Routed {
		t.Chains = append(t.Chains, base("forward", "filter", nft.Forward, priorityFilter, false,
			nft.NewRule("", nft.AnyBit(nft.CTState, stateEstablished|stateRelated), nft.Accept)))
	}
	return t
}

// CrowdPriorities are those of a crowd's chains: around raw, around connection
// tracking and flowcut behind it, mangle, filter, and around confirmation.
var CrowdPriorities = []int32{
	-301, -300, -299, -250, -201, -200, -199, -198, -197, -150, -1, 0, 1,
	priorityLast - 2, priorityLast - 1, priorityLast,
}

// behindConntrack is the least priority of chains that know packets' states.
const behindConntrack = -200

// Crowd adds a table, as of another program, with a chain at every hook and
// each of [CrowdPriorities]. Accepting, they count and let pass. Dropping,
// chains where states are known have policy drop and admit what is
// established, related, or new and, of TCP, a handshake's first packet;
// at output also what is not tracked or invalid.
func (g *Gateway) Crowd(table string, how Crowd, families ...nft.Family) error {
	hooks := []struct {
		name string
		num  uint32
	}{
		{"pre", nft.Prerouting}, {"in", nft.Input}, {"forward", nft.Forward}, {"out", nft.Output}, {"post", nft.Postrouting},
	}
	var b nft.Batch
	for _, family := range families {
		t := &nft.Table{Family: family, Name: table}
		for _, hook := range hooks {
			for i, priority := range CrowdPriorities {
				strict := how == CrowdDropping && priority > behindConntrack
				c := base(hook.name+string(rune('a'+i)), "filter", hook.num, priority, strict, nft.NewRule("", nft.Counter))
				if strict {
					c.Rules = g.admissions(family, hook.num == nft.Output)
				}
				t.Chains = append(t.Chains, c)
			}
		}
		b.AddTable(t)
	}
	return g.Commit(&b)
}

func (g *Gateway) admissions(family nft.Family, output bool) []nft.Rule {
	var rules []nft.Rule
	if family == nft.IPv6 {
		rules = append(rules, g.neighbours())
	}
	fresh := nft.AnyBit(nft.CTState, stateNew)
	notTCP := nft.Compare{Op: nft.MetaL4Proto, Not: true, Value: []byte{unix.IPPROTO_TCP}}
	syn := nft.Compare{Op: nft.TCPFlags, Mask: []byte{flagsOfHandshake}, Value: []byte{flagSYN}}
	rules = append(rules,
		nft.NewRule("", nft.AnyBit(nft.CTState, stateEstablished|stateRelated), nft.Accept),
		nft.NewRule("", fresh, notTCP, nft.Accept),
		nft.NewRule("", fresh, nft.Equal(nft.MetaL4Proto, []byte{unix.IPPROTO_TCP}), syn, nft.Accept))
	if output {
		rules = append(rules, nft.NewRule("", nft.AnyBit(nft.CTState, stateUntracked|stateInvalid), nft.Accept))
	}
	return rules
}
