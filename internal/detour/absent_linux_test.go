package detour

// What the kernel of the tests (6.18, built without CONFIG_NF_FLOW_TABLE,
// CONFIG_OPENVSWITCH and CONFIG_IP_VS) does not have is tested over messages
// and text laid out by hand, after include/uapi/linux/netfilter/nf_tables.h,
// include/uapi/linux/if_link.h and net/netfilter/ipvs/ip_vs_ctl.c of Linux
// 6.18.

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"flowcut/internal/lab/labtest"
)

// attr and text write attributes of netlink.
var attr, text = labtest.Attr, labtest.Text

// scanOf is a search among devices that have been read, by their indexes.
func scanOf(devices ...*device) *scan {
	s := &scan{
		ends: &ends{known: map[netip.Addr]struct{}{}}, devices: map[int]*device{}, ports: map[int][]*device{},
		ways: map[netip.Addr]way{}, reported: map[Finding]struct{}{},
	}
	for _, d := range devices {
		s.devices[d.index] = d
		if d.master != 0 {
			s.ports[d.master] = append(s.ports[d.master], d)
		}
	}
	return s
}

func (s *scan) wantFound(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for _, f := range s.found {
		got = append(got, f.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

// newFlowtable is a message NFT_MSG_NEWFLOWTABLE with the devices of its hook.
func newFlowtable(devices ...[]byte) []byte {
	m := []byte{unix.NFPROTO_INET, 0, 0, 0}                   // struct nfgenmsg
	m = append(m, attr(1, text("filter"))...)                 // NFTA_FLOWTABLE_TABLE
	m = append(m, attr(2, text("fast"))...)                   // NFTA_FLOWTABLE_NAME
	m = append(m, attr(5, []byte{0, 0, 0, 0, 0, 0, 0, 1})...) // NFTA_FLOWTABLE_HANDLE
	m = append(m, attr(4, []byte{0, 0, 0, 1})...)             // NFTA_FLOWTABLE_USE
	return append(m, attr(3|unix.NLA_F_NESTED,                // NFTA_FLOWTABLE_HOOK
		attr(1, []byte{0, 0, 0, 0}), // NFTA_FLOWTABLE_HOOK_NUM
		attr(2, []byte{0, 0, 0, 0}), // NFTA_FLOWTABLE_HOOK_PRIORITY
		attr(3, devices...),         // NFTA_FLOWTABLE_HOOK_DEVS
	)...)
}

func TestFlowtable(t *testing.T) {
	const attrName, attrPrefix = 1, 2 // NFTA_DEVICE_NAME, NFTA_DEVICE_PREFIX
	for _, c := range []struct {
		name    string
		message []byte
		want    []string
	}{
		{"by names", newFlowtable(attr(attrName, text("lan9")), attr(attrName, text("wan"))), []string{"flowtable on wan (inet filter fast)"}},
		{"by a prefix", newFlowtable(attr(attrPrefix, text("la"))), []string{"flowtable on lan (inet filter fast)"}},
		{
			"of hardware", append(newFlowtable(attr(attrName, text("wan"))), attr(7, []byte{0, 0, 0, 1})...), // NFTA_FLOWTABLE_FLAGS
			[]string{"flowtable on wan (inet filter fast, with hardware offload)"},
		},
		{"counting", append(newFlowtable(attr(attrName, text("wan"))), attr(7, []byte{0, 0, 0, 2})...), []string{"flowtable on wan (inet filter fast)"}},
		{"elsewhere", newFlowtable(attr(attrName, text("la")), attr(attrName, text("wan2"))), nil},
		{"nowhere", newFlowtable(), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := scanOf(&device{index: 1, name: "wan", up: true}, &device{index: 2, name: "lan", up: true},
				&device{index: 3, name: "wan2", up: true})
			s.concern(1)
			s.concern(2)
			if err := s.judgeFlowtable(c.message); err != nil {
				t.Fatal(err)
			}
			s.wantFound(t, c.want...)
		})
	}
	whole := newFlowtable(attr(attrName, text("wan")))
	for _, n := range []int{3, len(whole) - 1, len(whole) - 10} {
		if err := scanOf().judgeFlowtable(whole[:n]); err == nil {
			t.Errorf("%d of %d bytes are no error", n, len(whole))
		}
	}
}

// A port of Open vSwitch leads to the datapath, and not to its other ports.
func TestOpenVSwitch(t *testing.T) {
	link := func(index uint32, name, kind string, more ...[]byte) *device {
		t.Helper()
		m := make([]byte, unix.SizeofIfInfomsg)
		binary.NativeEndian.PutUint32(m[4:], index)
		m = append(m, attr(3, text(name))...)           // IFLA_IFNAME
		m = append(m, attr(18, attr(1, text(kind)))...) // IFLA_LINKINFO, IFLA_INFO_KIND
		for _, b := range more {
			m = append(m, b...)
		}
		d, err := parseDevice(m)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	master := attr(10, binary.NativeEndian.AppendUint32(nil, 1)) // IFLA_MASTER
	s := scanOf(link(1, "ovs-system", "openvswitch"), link(2, "port", "veth", master), link(3, "other", "veth", master))
	s.concern(2)
	s.lookAtOpenVSwitch()
	s.wantFound(t, "Open vSwitch on ovs-system")
	if s.devices[3].concerned {
		t.Error("another port is concerned")
	}
}

// /proc/net/ip_vs, with services on the ends of flows and elsewhere.
const services = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  CB007101:0050 rr  
  -> C0A80164:0050      Masq    1      0          0         
UDP  0A000001:0035 wrr ops
  -> 0A000002:0035      Masq    1      0          0         
TCP  [2001:0db8:0001:0000:0000:0000:0000:0001]:01BB sh  
  -> [fd00:0001:0000:0000:0000:0000:0000:0064]:01BB      Masq    1      0          0         
FWM  00000007 rr  
  -> 0A000003:0000      Route   1      0          0         
`

func TestIPVS(t *testing.T) {
	for _, c := range []struct {
		name string
		ends []string
		more bool
		want []string
	}{
		{"a service", []string{"203.0.113.1"}, false, []string{"IPVS service (TCP 203.0.113.1:80)", "IPVS service (mark 00000007)"}},
		{"a server", []string{"fd00:1::64"}, false, []string{"IPVS service (TCP [2001:db8:1::1]:443)", "IPVS service (mark 00000007)"}},
		{"elsewhere", []string{"203.0.113.2"}, false, []string{"IPVS service (mark 00000007)"}},
		{"more ends than are known", nil, true, []string{
			"IPVS service (TCP 203.0.113.1:80)", "IPVS service (UDP 10.0.0.1:53)",
			"IPVS service (TCP [2001:db8:1::1]:443)", "IPVS service (mark 00000007)",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := scanOf()
			for _, a := range c.ends {
				s.ends.add(netip.MustParseAddr(a))
			}
			s.ends.more = c.more
			if err := s.judgeIPVS(services); err != nil {
				t.Fatal(err)
			}
			s.wantFound(t, c.want...)
		})
	}
	if err := scanOf().judgeIPVS("TCP  CB0071:0050 rr\n"); err == nil {
		t.Error("half an address is no error")
	}
}
