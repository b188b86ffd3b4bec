//go:build linux && kernels

package detour

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"

	vnl "github.com/vishvananda/netlink"
	vnlnl "github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// These tests need a kernel with flowtables, IPVS and Open vSwitch, such as
// Debian's: make kernels. What absent_linux_test.go lays out by hand they make.

var realObstacles = []obstacle{
	{"flowtable", []string{"flowtable on %s (inet filter fast)"}, func(dev vnl.Link) error {
		return nftables(dev, "table inet filter { flowtable fast { hook ingress priority 0; devices = { DEV }; }; }")
	}},
	{"Open vSwitch", []string{"Open vSwitch on ovs-system"}, addToDatapath},
}

func TestRealObstacles(t *testing.T) {
	for _, o := range realObstacles {
		for _, device := range []string{"wan2", "wan", "lan"} {
			t.Run(o.name+" on "+device, func(t *testing.T) {
				net := labtest.Standard(t, lab.Config{})
				o.on(t, net.Gateway.Host, device)
				var want []string
				if device != "wan2" { // which the flow does not pass
					for _, w := range o.want {
						want = append(want, strings.Replace(w, "%s", device, 1))
					}
				}
				wantFindings(t, net, through(net), want...)
			})
		}
	}
}

func TestRealIPVS(t *testing.T) {
	for _, c := range []struct {
		name, service, server string
		want                  []string
	}{
		{"IPv4", "203.0.113.1:80", "192.168.1.100:8080", []string{"IPVS service (TCP 203.0.113.1:80)"}},
		{"IPv6", "[2001:db8:1::1]:443", "[fd00:1::100]:443", []string{"IPVS service (TCP [2001:db8:1::1]:443)"}},
		{"elsewhere", "198.51.100.1:80", "192.168.2.100:80", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			net := labtest.Standard(t, lab.Config{})
			err := net.Gateway.NS.Do(func() error {
				for _, args := range [][]string{
					{"-A", "-t", c.service, "-s", "rr"},
					{"-a", "-t", c.service, "-r", c.server, "-m"},
				} {
					if out, err := exec.Command("ipvsadm", args...).CombinedOutput(); err != nil {
						return fmt.Errorf("ipvsadm %v: %w: %s", args, err, out)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			wantFindings(t, net, through(net), c.want...)
		})
	}
}

// That one gives flows to hardware is told by a flag, which the kernel refuses
// for devices without.
func TestRealFlowtables(t *testing.T) {
	net := labtest.Standard(t, lab.Config{})
	for _, want := range []bool{false, true} {
		if want {
			realObstacles[0].on(t, net.Gateway.Host, "wan")
		}
		some, hardware, err := Flowtables(net.Gateway.NS.Fd())
		if some != want || hardware || err != nil {
			t.Errorf("flowtables %v, want %v; hardware %v, %v", some, want, hardware, err)
		}
	}
}

// addToDatapath makes a device a port of a new datapath of Open vSwitch, which
// has no daemon.
// Source: include/uapi/linux/openvswitch.h.
func addToDatapath(dev vnl.Link) error {
	const (
		newCommand                            = 1       // OVS_DP_CMD_NEW, OVS_VPORT_CMD_NEW
		datapathName, datapathUpcall          = 1, 2    // OVS_DP_ATTR_NAME, _UPCALL_PID
		portType, portName, portUpcall        = 2, 3, 5 // OVS_VPORT_ATTR_TYPE, _NAME, _UPCALL_PID
		netdev                         uint32 = 1       // OVS_VPORT_TYPE_NETDEV
	)
	err := openvswitch("ovs_datapath", 2, newCommand, 0,
		vnlnl.NewRtAttr(datapathName, vnlnl.ZeroTerminated("ovs-system")),
		vnlnl.NewRtAttr(datapathUpcall, vnlnl.Uint32Attr(0)))
	if err != nil {
		return err
	}
	datapath, err := vnl.LinkByName("ovs-system")
	if err != nil {
		return err
	}
	if err := vnl.LinkSetUp(datapath); err != nil {
		return err
	}
	return openvswitch("ovs_vport", 1, newCommand, int32(datapath.Attrs().Index),
		vnlnl.NewRtAttr(portType, vnlnl.Uint32Attr(netdev)),
		vnlnl.NewRtAttr(portName, vnlnl.ZeroTerminated(dev.Attrs().Name)),
		vnlnl.NewRtAttr(portUpcall, vnlnl.Uint32Attr(0)))
}

// openvswitch sends a command of one of its families.
func openvswitch(family string, version, command uint8, datapath int32, attrs ...*vnlnl.RtAttr) error {
	f, err := vnl.GenlFamilyGet(family)
	if err != nil {
		return fmt.Errorf("family %s: %w", family, err)
	}
	request := vnlnl.NewNetlinkRequest(int(f.ID), unix.NLM_F_ACK)
	request.AddData(&vnlnl.Genlmsg{Command: command, Version: version})
	request.AddData(ovsHeader(datapath))
	for _, a := range attrs {
		request.AddData(a)
	}
	if _, err := request.Execute(unix.NETLINK_GENERIC, 0); err != nil {
		return fmt.Errorf("%s: %w", family, err)
	}
	return nil
}

// ovsHeader is struct ovs_header, the index of a datapath.
type ovsHeader int32

func (h ovsHeader) Len() int { return 4 }

func (h ovsHeader) Serialize() []byte { return vnlnl.Uint32Attr(uint32(h)) }
