package detour

import (
	"errors"
	"fmt"
	stdnet "net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"

	"github.com/google/go-cmp/cmp"
	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// flow is both tuples of a connection between two addresses.
func flow(a, b netip.Addr) []conntrack.Tuple {
	return []conntrack.Tuple{
		{Src: a, Dst: b, Proto: unix.IPPROTO_TCP, SrcPort: 40000, DstPort: 80},
		{Src: b, Dst: a, Proto: unix.IPPROTO_TCP, SrcPort: 80, DstPort: 40000},
	}
}

// through is a connection of each family from the first client to the first
// server.
func through(net *lab.Topology) []conntrack.Tuple {
	c, s := net.Clients[0], net.Servers[0]
	return append(flow(c.Addr4, s.Addr4), flow(c.Addr6, s.Addr6)...)
}

var number = regexp.MustCompile(`program \d+`)

// wantFindings compares with what String says, numbers of programs aside.
func wantFindings(t *testing.T, net *lab.Topology, tuples []conntrack.Tuple, want ...string) {
	t.Helper()
	found, err := Find(net.Gateway.NS.Fd(), slices.Values(tuples))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range found {
		got = append(got, number.ReplaceAllString(f.String(), "program #"))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

// On gateways of all kinds that have no detour, none is found.
func TestPlainGateways(t *testing.T) {
	for _, kind := range lab.GatewayKinds {
		t.Run(kind.Name, func(t *testing.T) {
			cfg, err := lab.NewConfig(kind.Name)
			if err != nil {
				t.Fatal(err)
			}
			net := labtest.Standard(t, cfg)
			wantFindings(t, net, through(net))
		})
	}
}

// Each obstacle is found where the flow passes, and only there.
func TestObstacles(t *testing.T) {
	for _, o := range obstacles {
		if !o.possible(t) {
			continue
		}
		t.Run(o.name, func(t *testing.T) {
			t.Run("on wan2", func(t *testing.T) {
				net := labtest.Standard(t, lab.Config{})
				o.on(t, net.Gateway.Host, "wan2")
				wantFindings(t, net, through(net))
			})
			for _, device := range []string{"wan", "lan"} {
				t.Run("on "+device, func(t *testing.T) {
					net := labtest.Standard(t, lab.Config{})
					o.on(t, net.Gateway.Host, device)
					var want []string
					for _, w := range o.want {
						want = append(want, strings.Replace(w, "%s", device, 1))
					}
					wantFindings(t, net, through(net), want...)
				})
			}
		})
	}
}

func TestHarmless(t *testing.T) {
	for _, o := range harmless {
		if !o.possible(t) {
			continue
		}
		t.Run(o.name, func(t *testing.T) {
			net := labtest.Standard(t, lab.Config{})
			o.on(t, net.Gateway.Host, "wan")
			wantFindings(t, net, through(net))
		})
	}
}

// What is below a device and the ports of a bridge count as the device does.
func TestDevicesBelow(t *testing.T) {
	for _, devices := range []lab.Devices{lab.BridgeDevices, lab.MacvlanDevices} {
		t.Run(fmt.Sprint(devices), func(t *testing.T) {
			net := labtest.Standard(t, lab.Config{Devices: devices})
			tcx := obstacles[2]
			tcx.on(t, net.Gateway.Host, "lan2-port")
			wantFindings(t, net, through(net))
			tcx.on(t, net.Gateway.Host, "lan-port")
			wantFindings(t, net, through(net), "tc program on lan-port (tcx_in)")
		})
	}
}

// A device that is down carries nothing.
func TestDeviceDown(t *testing.T) {
	net := labtest.Standard(t, lab.Config{Devices: lab.BridgeDevices})
	tcx := obstacles[2]
	tcx.on(t, net.Gateway.Host, "lan-port")
	wantFindings(t, net, through(net), "tc program on lan-port (tcx_in)")
	down := obstacle{"down", nil, vnl.LinkSetDown}
	down.on(t, net.Gateway.Host, "lan-port")
	wantFindings(t, net, through(net))
}

// An address without a route may be behind any device.
func TestNoRoute(t *testing.T) {
	net := labtest.Standard(t, lab.Config{})
	obstacles[0].on(t, net.Gateway.Host, "wan2")
	nowhere := netip.MustParseAddr("192.0.2.1")
	wantFindings(t, net, flow(nowhere, net.Servers[0].Addr4), "XDP program on wan2 (xdp_pass)")
}

func bridgeSysctl(t *testing.T, net *lab.Topology, program, value string) {
	t.Helper()
	if err := net.Gateway.Sysctl("net.bridge.bridge-nf-call-"+program, value); err != nil {
		t.Fatal(err)
	}
}

// A bridge is a detour of flows between its ports while br_netfilter is off,
// for each family by itself.
func TestBridge(t *testing.T) {
	const off4, off6 = "bridging on br0 (br_netfilter is off for IPv4)", "bridging on br0 (br_netfilter is off for IPv6)"
	for _, bridged := range []lab.Bridged{lab.BridgeAddressed, lab.BridgeBare} {
		t.Run(fmt.Sprint(bridged), func(t *testing.T) {
			net := labtest.Standard(t, lab.Config{Bridged: bridged})
			wantFindings(t, net, through(net))
			bridgeSysctl(t, net, "iptables", "0")
			wantFindings(t, net, through(net), off4)
			bridgeSysctl(t, net, "ip6tables", "0")
			wantFindings(t, net, through(net), off4, off6)
			wantFindings(t, net, through(net)[2:], off6)
		})
	}
}

// A bridge says for itself that netfilter shall see its packets.
func TestBridgeOption(t *testing.T) {
	net := labtest.Standard(t, lab.Config{Bridged: lab.BridgeAddressed})
	bridgeSysctl(t, net, "iptables", "0")
	err := net.Gateway.NS.Do(func() error {
		br, err := vnl.LinkByName("br0")
		if err != nil {
			return err
		}
		return setBridgeOption(br.Attrs().Index, unix.IFLA_BR_NF_CALL_IPTABLES, 1)
	})
	if err != nil {
		t.Fatal(err)
	}
	wantFindings(t, net, through(net))
}

// Packets that are routed pass the hooks, whatever bridges are on their way.
func TestBridgeRoutedThrough(t *testing.T) {
	net := labtest.Standard(t, lab.Config{Devices: lab.BridgeDevices})
	bridgeSysctl(t, net, "iptables", "0")
	bridgeSysctl(t, net, "ip6tables", "0")
	secondPort := obstacle{"a second port", nil, func(bridge vnl.Link) error { // so that it can forward
		attrs := vnl.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex, attrs.Flags = bridge.Attrs().Name+"-more", bridge.Attrs().Index, stdnet.FlagUp
		return vnl.LinkAdd(&vnl.Ifb{LinkAttrs: attrs})
	}}
	s := net.Servers[0]
	other := s.Addr4.Next()
	wantFindings(t, net, flow(s.Addr4, other))
	for _, bridge := range []string{"wan", "lan"} {
		secondPort.on(t, net.Gateway.Host, bridge)
	}
	wantFindings(t, net, through(net))
	wantFindings(t, net, flow(s.Addr4, s.Via4)) // with the gateway itself
	wantFindings(t, net, flow(s.Addr4, other), "bridging on lan (br_netfilter is off for IPv4)")

	var own netip.Addr
	linkLocal := obstacle{"nothing", nil, func(bridge vnl.Link) error {
		addrs, err := vnl.AddrList(bridge, vnl.FAMILY_V6)
		for _, a := range addrs {
			if a.IP.IsLinkLocalUnicast() {
				own, _ = netip.AddrFromSlice(a.IP)
			}
		}
		return err
	}}
	linkLocal.on(t, net.Gateway.Host, "lan")
	wantFindings(t, net, flow(own, own.Next())) // with the gateway itself
	wantFindings(t, net, flow(own.Next(), own.Next().Next()),
		"bridging on lan (br_netfilter is off for IPv6)", "bridging on wan (br_netfilter is off for IPv6)")
}

// Of many addresses the routes are not looked up one by one, and the search
// is no slower for it: it stands before a cut.
func TestManyTuples(t *testing.T) {
	net := labtest.Standard(t, lab.Config{})
	if err := net.Gateway.Route(netip.MustParsePrefix("0.0.0.0/0"), net.Clients[0].Addr4); err != nil {
		t.Fatal(err)
	}
	obstacles[0].on(t, net.Gateway.Host, "wan2")
	wantFindings(t, net, many(100_000, maxRoutes-1)) // and the other end
	begin := time.Now()
	wantFindings(t, net, many(100_000, 100_000), "XDP program on wan2 (xdp_pass)")
	took := time.Since(begin)
	t.Logf("100,000 addresses took %v", took)
	if took > time.Second {
		t.Errorf("took %v", took)
	}
}

// many makes tuples of so many addresses, all in the network of a gateway
// that bridges or beyond it.
func many(tuples, addrs int) []conntrack.Tuple {
	out := make([]conntrack.Tuple, tuples)
	server := netip.MustParseAddr("203.0.113.100")
	for i := range out {
		n := i % addrs
		out[i] = conntrack.Tuple{
			Src: netip.AddrFrom4([4]byte{203, byte(n >> 16), byte(n >> 8), byte(n)}), Dst: server,
			Proto: unix.IPPROTO_TCP, SrcPort: uint16(i), DstPort: 80,
		}
	}
	return out
}

func BenchmarkFind(b *testing.B) {
	for _, addrs := range []int{1, 200, 4000, 100_000} {
		b.Run(fmt.Sprintf("addresses=%d", addrs), func(b *testing.B) {
			net := labtest.Standard(b, lab.Config{Bridged: lab.BridgeAddressed})
			if err := net.Gateway.Sysctl("net.bridge.bridge-nf-call-iptables", "0"); err != nil {
				b.Fatal(err)
			}
			tuples := many(100_000, addrs)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Find(net.Gateway.NS.Fd(), slices.Values(tuples)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A gateway with so many devices, each with a place for tc filters, is the
// dearest one to look at.
func BenchmarkDevices(b *testing.B) {
	const devices = 1000
	net := labtest.Standard(b, lab.Config{})
	err := net.Gateway.NS.Do(func() error {
		wan2, err := vnl.LinkByName("wan2")
		if err != nil {
			return err
		}
		for i := range devices {
			attrs := vnl.NewLinkAttrs()
			attrs.Name, attrs.ParentIndex, attrs.Flags = fmt.Sprintf("mac%d", i), wan2.Attrs().Index, stdnet.FlagUp
			dev := &vnl.Macvlan{LinkAttrs: attrs, Mode: vnl.MACVLAN_MODE_PRIVATE}
			if err := vnl.LinkAdd(dev); err != nil {
				return err
			}
			if err := harmless[1].put(dev); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	tuples := many(100_000, 100_000)
	b.ReportAllocs()
	for b.Loop() {
		if found, err := Find(net.Gateway.NS.Fd(), slices.Values(tuples)); err != nil || len(found) > 0 {
			b.Fatal(found, err)
		}
	}
}

// Without flows in mind, all devices that are up are looked at, all bridges and
// all services.
func TestEverywhere(t *testing.T) {
	net := labtest.Standard(t, lab.Config{Bridged: lab.BridgeAddressed})
	everywhere := func(want ...string) {
		t.Helper()
		found, err := Everywhere(net.Gateway.NS.Fd())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range found {
			got = append(got, f.String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("findings (-want +got):\n%s", diff)
		}
	}
	everywhere()
	obstacles[0].on(t, net.Gateway.Host, "wan2")
	everywhere("XDP program on wan2 (xdp_pass)")
	down := obstacle{"down", nil, vnl.LinkSetDown}
	down.on(t, net.Gateway.Host, "wan2")
	everywhere()
	bridgeSysctl(t, net, "ip6tables", "0")
	everywhere("bridging on br0 (br_netfilter is off for IPv6)")
	bridgeSysctl(t, net, "iptables", "0")
	everywhere("bridging on br0 (br_netfilter is off for IPv4)", "bridging on br0 (br_netfilter is off for IPv6)")
	bridgeSysctl(t, net, "ip6tables", "1")
	everywhere("bridging on br0 (br_netfilter is off for IPv4)")
}

// What could not be looked at concerns some kinds of findings and not others.
func TestUnseen(t *testing.T) {
	s := &scan{}
	lost := errors.New("lost")
	s.look("this", func() error { return nil }, XDP)
	s.look("that", func() error { return lost }, Flowtable, Forward)
	for what, want := range map[string]bool{XDP: false, Flowtable: true, Forward: true, Bridge: false} {
		if err := Unseen(s.unseen, what); errors.Is(err, lost) != want || (err != nil) != want {
			t.Errorf("%s: %v", what, err)
		}
	}
	if Unseen(lost, XDP) == nil || Unseen(nil, XDP) != nil {
		t.Error("an error about all that concerns not all, or none that does")
	}
}
