//go:build linux && kernels

package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	vnl "github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// These tests need a kernel with flowtables, IPVS, Open vSwitch and tc connection
// tracking, such as Debian's: make kernels.

// On such a kernel, too, nothing is wrong that nobody has provoked.
func TestRealKernel(t *testing.T) {
	p := newPlace(t)
	for check, want := range map[string]string{
		"version": "ok Linux *", "ctnetlink": "ok *", "nf_tables": "ok *", "delete_id": "ok *", "labels": "ok *",
		"membarrier": "ok *", "flowtables": "ok none", "openvswitch": "ok none", "ipvs": "ok none",
	} {
		p.want(t, check, want)
	}
	r, err := p.examine(t, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Checks {
		t.Logf("%-8s %-20s %s", c.State, c.Name, c.Found)
	}
	if !r.Provable {
		t.Error("a cut could not be proven in a new namespace")
	}
}

// With each of these a cut could not be proven, and doctor names it.
func TestRealDetours(t *testing.T) {
	for _, c := range []struct {
		name, check, after string
		provoke            func(*place) error
	}{
		{"IPVS", "ipvs", "fail IPVS service (TCP 203.0.113.1:80)", run("ipvsadm -A -t 203.0.113.1:80 -s rr")},
		{"Open vSwitch", "openvswitch", `fail Open vSwitch on dp0; datapath dp0 has 2 flows, 1 with connection tracking, in zones \[7\]`, datapathWithFlows},
		{"Open vSwitch without flows", "openvswitch", "fail Open vSwitch on dp0; datapath dp0 has 0 flows, none with connection tracking", addDatapath},
		{"tc connection tracking", "tc_filters", "fail tc filter on wan (matchall, action ct)", device("wan", trackAtTC)},
		{"bridge", "bridges", "fail bridging on br0 (br_netfilter is off for IPv4), bridging on br0 (br_netfilter is off for IPv6)", all(bridge, blind)},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlace(t)
			p.want(t, c.check, "ok none")
			if err := p.ns.Do(func() error { return c.provoke(p) }); err != nil {
				t.Fatal(err)
			}
			p.want(t, c.check, c.after)
			if r, err := p.examine(t, Options{}); err != nil || r.Provable || r.Denied {
				t.Errorf("provable %v, denied %v, %v", r.Provable, r.Denied, err)
			}
		})
	}
}

// A flowtable is told of, and a cut can be proven all the same: TestCutOffloaded.
func TestRealFlowtable(t *testing.T) {
	p := newPlace(t)
	err := p.ns.Do(func() error {
		return all(device("wan"), rulesOf(`table inet filter { flowtable fast { hook ingress priority 0; devices = { "wan" }; }; }`))(p)
	})
	if err != nil {
		t.Fatal(err)
	}
	p.want(t, "flowtables", "note flowtable on wan (inet filter fast)")
	if r, err := p.examine(t, Options{}); err != nil || !r.Provable {
		t.Errorf("provable %v, %v", r.Provable, err)
	}
}

// The rule for queues that most kernels have.
func TestRealQueueRule(t *testing.T) {
	p := newPlace(t)
	err := p.ns.Do(func() error {
		return rulesOf(`table ip hand { chain in { type filter hook input priority 0; tcp dport 80 queue num 5; }; }`)(p)
	})
	if err != nil {
		t.Fatal(err)
	}
	p.want(t, "queues", "note rules that queue packets, which nobody takes: ip hand in")
}

// blind keeps what bridges forward from rules, also where somebody has loaded
// br_netfilter.
func blind(p *place) error {
	for _, family := range []string{"iptables", "ip6tables"} {
		err := setSysctl("net.bridge.bridge-nf-call-"+family, "0")(p)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// trackAtTC lets tc look up the connections of all that comes in.
func trackAtTC(dev vnl.Link) error {
	const (
		matchallAct            = 2 // TCA_MATCHALL_ACT
		kind, options          = 1, 2
		parameters, withAction = 1, 3 // TCA_CT_PARMS, TCA_CT_ACTION
	)
	q := &vnl.Clsact{QdiscAttrs: vnl.QdiscAttrs{LinkIndex: dev.Attrs().Index, Handle: vnl.MakeHandle(0xffff, 0), Parent: vnl.HANDLE_CLSACT}}
	if err := vnl.QdiscAdd(q); err != nil {
		return err
	}
	request := nl.NewNetlinkRequest(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	request.AddData(&nl.TcMsg{
		Family: nl.FAMILY_ALL, Ifindex: int32(dev.Attrs().Index), Parent: vnl.HANDLE_MIN_EGRESS, // an IFB's way on
		Info: vnl.MakeHandle(1, nl.Swap16(unix.ETH_P_ALL)),
	})
	request.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("matchall")))
	filter := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	action := filter.AddRtAttr(matchallAct, nil).AddRtAttr(1, nil)
	action.AddRtAttr(kind, nl.ZeroTerminated("ct"))
	body := action.AddRtAttr(options|unix.NLA_F_NESTED, nil)
	body.AddRtAttr(parameters, make([]byte, 20)) // struct tc_ct
	body.AddRtAttr(withAction, nl.Uint16Attr(0))
	request.AddData(filter)
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// addDatapath makes a datapath of Open vSwitch, which has no daemon.
// Source: include/uapi/linux/openvswitch.h.
func addDatapath(*place) error {
	const newDatapath, name, upcall = 1, 1, 2 // OVS_DP_CMD_NEW, OVS_DP_ATTR_NAME, OVS_DP_ATTR_UPCALL_PID
	err := openvswitch("ovs_datapath", dpVersion, newDatapath, 0,
		nl.NewRtAttr(name, nl.ZeroTerminated("dp0")), nl.NewRtAttr(upcall, nl.Uint32Attr(0)))
	if err != nil {
		return err
	}
	dp, err := vnl.LinkByName("dp0")
	if err != nil {
		return err
	}
	return vnl.LinkSetUp(dp)
}

// datapathWithFlows has a flow that looks up connections, and one that does not.
func datapathWithFlows(p *place) error {
	const (
		newFlow, flowKey                = 1, 1       // OVS_FLOW_CMD_NEW, OVS_FLOW_ATTR_KEY
		inPort, ethernet, etherType, ip = 3, 4, 6, 7 // OVS_KEY_ATTR_*
		output                          = 1          // OVS_ACTION_ATTR_OUTPUT
	)
	if err := addDatapath(p); err != nil {
		return err
	}
	dp, err := vnl.LinkByName("dp0")
	if err != nil {
		return err
	}
	for i, tracks := range []bool{true, false} {
		key := nl.NewRtAttr(flowKey|unix.NLA_F_NESTED, nil)
		key.AddRtAttr(inPort, nl.Uint32Attr(0))
		key.AddRtAttr(ethernet, make([]byte, 12))
		key.AddRtAttr(etherType, []byte{0x08, 0x00})
		key.AddRtAttr(ip, []byte{192, 0, 2, byte(i), 192, 0, 2, 9, unix.IPPROTO_ESP, 0, 64, 0}) // struct ovs_key_ipv4
		actions := nl.NewRtAttr(flowActions|unix.NLA_F_NESTED, nil)
		if tracks {
			actions.AddRtAttr(actionCT|unix.NLA_F_NESTED, nil).AddRtAttr(ctZone, nl.Uint16Attr(7))
		}
		actions.AddRtAttr(output, nl.Uint32Attr(0))
		if err := openvswitch("ovs_flow", flowVersion, newFlow, int32(dp.Attrs().Index), key, actions); err != nil {
			return err
		}
	}
	return nil
}

// openvswitch sends a command of one of its families.
func openvswitch(family string, version, command uint8, datapath int32, attrs ...*nl.RtAttr) error {
	f, err := vnl.GenlFamilyGet(family)
	if err != nil {
		return fmt.Errorf("family %s: %w", family, err)
	}
	request := nl.NewNetlinkRequest(int(f.ID), unix.NLM_F_ACK|unix.NLM_F_CREATE)
	request.AddData(&nl.Genlmsg{Command: command, Version: version})
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

func (h ovsHeader) Serialize() []byte { return nl.Uint32Attr(uint32(h)) }
