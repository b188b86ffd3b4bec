//go:build linux

package lab

import (
	"fmt"
	"net/netip"
	"slices"

	"flowcut/internal/nft"
)

// Output says what the gateway's own packets may do: forwarded ones, and
// neighbour discovery, are not asked.
type Output uint8

// Outputs. All but the first have a chain at output in table own.
const (
	OutputOpen        Output = iota
	OutputDrop               // nothing of its own leaves
	OutputEstablished        // ct state established accept; drop
	OutputRelated            // ct state established,related accept; drop
)

// Uplinks says how the gateway's packets find the way to client2, client3 and
// so on. But for MainTable, the main routing table knows no way to them: table
// 2 does for client2, 3 for client3.
type Uplinks uint8

// Ways to the clients.
const (
	MainTable Uplinks = iota
	// ByMark: what comes in new from client2 gives its flow mark 2, what comes
	// from the servers gets its flow's mark, and packets with mark 2 use table 2.
	// The gateway's own packets have no mark, servers cannot call client2.
	ByMark
	// ByMarkRestored: the same, and the gateway's own packets get their flow's
	// mark at output, by a chain of type route.
	ByMarkRestored
	// BySource: what is from the gateway's address on client2's link, or from
	// a server, uses table 2.
	BySource
	// ByInput: what comes in from a server uses table 2. The gateway itself
	// cannot call client2.
	ByInput
)

// Zoned says which flows are in a conntrack zone: zone 1 for client, zone 2
// for client2 and so on, set in table zones at raw's priority.
type Zoned uint8

// Zones of clients.
const (
	NoZones         Zoned = iota
	ZoneClient            // client's flows are in zone 1, both directions; also the gateway's own
	ZoneOriginal          // the original direction alone, of what client begins
	ZoneEveryClient       // as ZoneClient, for each client in a zone of its own
)

// Devices says what the gateway's devices are.
type Devices uint8

// Kinds of devices. The kernel that the lab was made on has no VLANs; macvlan
// stands for devices on top of another one.
const (
	PlainDevices Devices = iota
	BridgeDevices
	MacvlanDevices
)

// Bridged says whether the gateway bridges its links instead of routing, with
// br_netfilter. All hosts are in one network then, and nothing is translated.
type Bridged uint8

// Bridges.
const (
	Routed          Bridged = iota
	BridgeAddressed         // the bridge has an address in the network
	BridgeBare              // it has none: the gateway has no way to the ends
)

// Crowd says whether the ruleset has chains of other programs at every hook
// and at all priorities around flowcut's; see [Gateway.Crowd].
type Crowd uint8

// Crowds.
const (
	NoCrowd Crowd = iota
	CrowdAccepting
	CrowdDropping
)

// GatewayKind is one way in which gateways differ from the usual one.
type GatewayKind struct {
	Name string
	Set  func(*Config)
	part part
}

// part is what a kind decides about a gateway, as bits. Kinds with a bit in
// common do not go together.
type part uint16

const (
	partOutput part = 1 << iota
	partInput
	partRoutes
	partZones
	partDevices
	partFamilies
	partCrowd
	partNAT
	partHosts
)

// GatewayKinds are all kinds of gateways. Each is a setting of [Config]; those
// that fit together, see [GatewayKind.Fits], combine freely.
var GatewayKinds = []GatewayKind{
	{"output-drop", func(c *Config) { c.Output = OutputDrop }, partOutput},
	{"output-established", func(c *Config) { c.Output = OutputEstablished }, partOutput},
	{"output-related", func(c *Config) { c.Output = OutputRelated }, partOutput},
	{"input-drop", func(c *Config) { c.InputDrop = true }, partInput},
	{"mark", func(c *Config) { c.Uplinks = ByMark }, partRoutes},
	{"mark-restored", func(c *Config) { c.Uplinks = ByMarkRestored }, partRoutes},
	{"mark-default", func(c *Config) { c.Uplinks, c.MainDefault = ByMark, true }, partRoutes},
	{"mark-restored-default", func(c *Config) { c.Uplinks, c.MainDefault = ByMarkRestored, true }, partRoutes},
	{"source", func(c *Config) { c.Uplinks = BySource }, partRoutes},
	{"source-default", func(c *Config) { c.Uplinks, c.MainDefault = BySource, true }, partRoutes},
	{"input", func(c *Config) { c.Uplinks = ByInput }, partRoutes},
	{"input-default", func(c *Config) { c.Uplinks, c.MainDefault = ByInput, true }, partRoutes},
	{"zone", func(c *Config) { c.Zoned = ZoneClient }, partZones},
	{"zone-original", func(c *Config) { c.Zoned = ZoneOriginal }, partZones},
	{"zones", func(c *Config) { c.Zoned = ZoneEveryClient }, partZones},
	{"twins", func(c *Config) { c.Twins = true }, partZones | partRoutes | partNAT | partInput},
	{"bridge", func(c *Config) { c.Bridged = BridgeAddressed }, partRoutes | partDevices | partZones | partNAT | partInput | partHosts},
	{"bridge-bare", func(c *Config) { c.Bridged = BridgeBare }, partRoutes | partDevices | partZones | partNAT | partInput | partHosts},
	{"bridge-devices", func(c *Config) { c.Devices = BridgeDevices }, partDevices},
	{"macvlan-devices", func(c *Config) { c.Devices = MacvlanDevices }, partDevices},
	{"ipv4-only", func(c *Config) { c.IPv4Only = true }, partFamilies},
	{"crowd", func(c *Config) { c.Crowd = CrowdAccepting }, partCrowd},
	{"crowd-dropping", func(c *Config) { c.Crowd = CrowdDropping }, partCrowd},
	{"routers", func(c *Config) { c.Routers = true }, partHosts},
	{"snat", func(c *Config) { c.SNAT = true }, partNAT},
}

// Fits tells whether two kinds can be had in one gateway.
func (k GatewayKind) Fits(o GatewayKind) bool { return k.Name != o.Name && k.part&o.part == 0 }

// KindOfGateway returns the kind of a name.
func KindOfGateway(name string) (GatewayKind, error) {
	i := slices.IndexFunc(GatewayKinds, func(k GatewayKind) bool { return k.Name == name })
	if i < 0 {
		return GatewayKind{}, fmt.Errorf("lab: no kind of gateway is called %q", name)
	}
	return GatewayKinds[i], nil
}

// NewConfig returns the settings of a gateway that is of all the kinds named.
func NewConfig(kinds ...string) (Config, error) {
	var cfg Config
	var have []GatewayKind
	for _, name := range kinds {
		k, err := KindOfGateway(name)
		if err != nil {
			return Config{}, err
		}
		for _, h := range have {
			if !k.Fits(h) {
				return Config{}, fmt.Errorf("lab: a gateway cannot be both %s and %s", h.Name, k.Name)
			}
		}
		have = append(have, k)
		k.Set(&cfg)
	}
	return cfg, nil
}

// To is where the client reaches a port of the server: at an address of the
// gateway that the server's port is forwarded from, at that of the client's own
// link if there are several uplinks; or at the server's own where the gateway
// does not translate. Loads no rules: see [Gateway.Forward].
func (t *Topology) To(client, server *Station, port uint16, v6 bool) netip.AddrPort {
	g := t.Gateway
	translates := slices.ContainsFunc(g.nat, func(n *nft.Table) bool { return (n.Family == nft.IPv6) == v6 })
	at := server
	switch {
	case translates && g.uplinks != MainTable:
		at = &Station{Addr4: client.Via4, Addr6: client.Via6}
	case translates:
		at = &Station{Addr4: g.Public4, Addr6: g.Public6}
	}
	if v6 {
		return netip.AddrPortFrom(at.Addr6, port)
	}
	return netip.AddrPortFrom(at.Addr4, port)
}
