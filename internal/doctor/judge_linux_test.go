package doctor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/detour"
	"flowcut/internal/fence"
	"flowcut/internal/health"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/nft"
	"flowcut/internal/rtnl"
	"flowcut/internal/sysctl"
)

func must(f finding, err error) finding {
	if err != nil && f.state == "" {
		return finding{state: "error", found: err.Error()}
	}
	return f
}

var (
	allFilters = conntrack.Support{TupleIPv4: true, PortsIPv6: true, Mark: true, Status: true, Zone: true}
	noZones    = conntrack.Support{TupleIPv4: true, PortsIPv6: true, Mark: true, Status: true}
)

// judgements are of what this kernel, or a namespace on it, cannot be made to
// show: of values laid out by hand.
var judgements = []struct {
	name string
	got  finding
	want string // state and found
}{
	{"old", judgeVersion("5.14.0-427.el9"), "fail Linux 5.14.0-427.el9"},
	{"older", judgeVersion("4.19.0"), "fail Linux 4.19.0"},
	{"least", judgeVersion("5.15.0"), " Linux 5.15.0"},
	{"new", judgeVersion("6.1.0-18-amd64"), " Linux 6.1.0-18-amd64"},
	{"no number", judgeVersion("next"), "warning Linux next"},

	{"no nf_tables", must(judgeNFTables(unix.EOPNOTSUPP, nil)), "fail operation not supported"},
	{"no owners", must(judgeNFTables(unix.EOPNOTSUPP, []string{"a", "b"})), "fail the fence does not rise, for want of a, b"},
	{"no permission", must(judgeNFTables(unix.EPERM, nil)), "error operation not permitted"},
	{"filter", judgeFilter(allFilters), " narrows lists by all that it can"},
	{"filter without zones", judgeFilter(noZones), "note does not narrow lists by zone"},
	{"no filter", judgeFilter(conntrack.Support{}), "note does not narrow lists by IPv4 addresses and ports, IPv6 ports, status, mark, zone"},
	{"IPv6 right", judgeFilterIPv6(filterIPv6{wanted: true}), " compares IPv6 addresses rightly"},
	{"IPv6 not at all", judgeFilterIPv6(filterIPv6{wanted: true, other: true}), "note does not compare IPv6 addresses"},
	{"IPv6 none", judgeFilterIPv6(filterIPv6{}), "note does not compare IPv6 addresses"},
	{"no ID", judgeDeleteID(false), "fail a deletion does not look at the ID"},
	{"no labels", judgeLabels(false), "note this kernel has no labels"},
	{"no words", judgeExtAck(unix.ENOPROTOOPT), "note the kernel does not explain its refusals"},
	{"no membarrier", judgeMembarrier(false), "note no membarrier, as with nohz_full"},

	{"without CAP_NET_ADMIN", must(judgeCapability(rights[unix.CAP_NET_ADMIN], false, true)), "fail CAP_NET_ADMIN is not held"},
	{"without CAP_SYS_ADMIN", must(judgeCapability(rights[unix.CAP_SYS_ADMIN], false, true)), "note CAP_SYS_ADMIN is not held"},
	{"root reads", must(judgeCapability(rights[unix.CAP_DAC_READ_SEARCH], false, true)), " not held, and not needed by root"},
	{"others do not", must(judgeCapability(rights[unix.CAP_DAC_READ_SEARCH], false, false)), "note CAP_DAC_READ_SEARCH is not held"},

	{"no tracking", judgeLoose(sysctl.Absent), "note not there: connection tracking is not loaded"},
	{"no events", judgeEvents(sysctl.Absent), "note not there"},
	{"helpers by port", judgeHelper(1), "note 1: flows get helpers by their port"},
	{"helpers by rules", judgeHelper(0), " flows get helpers by rules alone"},

	{"nearly full", asFinding(health.Entries(conntrack.Limits{Count: 80, Max: 100}, true)), "warning 80 of at most 100, 80 %"},
	{"not full", asFinding(health.Entries(conntrack.Limits{Count: 79, Max: 100}, true)), " 79 of at most 100, 79 %"},
	{"all drops", judgeCPUStats(conntrack.CPUStats{Drop: 1, EarlyDrop: 2, InsertFailed: 3, ChainTooLong: 4, Invalid: 5}), "note drop 1, early_drop 2, insert_failed 3, chain_toolong 4"},

	{"flowtable", judgeDetours(detour.Flowtable, []detour.Finding{
		{What: detour.Flowtable, Device: "wan", Detail: "inet filter fast"}, {What: detour.XDP, Device: "lan"}, {What: detour.Flowtable, Device: "lan", Detail: "inet filter fast"},
	}), "note flowtable on wan (inet filter fast), flowtable on lan (inet filter fast)"},
	{"Open vSwitch", judgeDetours(detour.OpenVSwitch, []detour.Finding{{What: detour.OpenVSwitch, Device: "ovs-system"}}), "fail Open vSwitch on ovs-system"},
	{"IPVS", judgeDetours(detour.IPVS, []detour.Finding{{What: detour.IPVS, Detail: "TCP 203.0.113.1:80"}}), "fail IPVS service (TCP 203.0.113.1:80)"},
	{"tc connection tracking", judgeDetours(detour.TCFilter, []detour.Finding{{What: detour.TCFilter, Device: "wan", Detail: "flower, action ct"}}), "fail tc filter on wan (flower, action ct)"},
	{"hidden tables", judgeNotrack(nil, true), "note none in nf_tables; the tables of iptables-legacy are not to be seen"},
	{"hidden queues", judgeQueues([]string{"ip filter input"}, nil, nil, true), "fail there are some, seen by root alone"},
	{"queue", judgeQueues(nil, []fence.Queue{{Num: 7, Listener: 9, Waiting: 2}}, map[uint32]string{9: "suricata (12)"}, false), "note queues: 7 of suricata (12) (2 waiting)"},
	{"hidden listeners", judgeListeners([]process{{12, "ulogd"}}, 2), "note events of flows go to ulogd (12), sockets of others: 2"},
}

func TestJudge(t *testing.T) {
	for _, c := range judgements {
		if got := string(c.got.state) + " " + c.got.found; got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if c.got.state != "" && c.got.state != "error" && c.got.means == "" {
			t.Errorf("%s: nothing is said of what it means", c.name)
		}
	}
}

func TestKnowsLabels(t *testing.T) {
	for _, c := range []struct {
		answer     error
		has, fails bool
	}{{nil, true, false}, {unix.ENOSPC, true, false}, {unix.EOPNOTSUPP, false, false}, {unix.EPERM, false, true}} {
		if has, err := knowsLabels(c.answer); has != c.has || (err != nil) != c.fails {
			t.Errorf("%v: %v, %v", c.answer, has, err)
		}
	}
}

// A long list is cut short, and a command names the device.
func TestAdvice(t *testing.T) {
	var found []detour.Finding
	for i := range 9 {
		found = append(found, detour.Finding{What: detour.XDP, Device: fmt.Sprintf("lxc%d", i)})
	}
	f := judgeDetours(detour.XDP, found)
	if !strings.HasSuffix(f.found, "on lxc5, and 3 more") || !strings.HasPrefix(f.do, "ip link set lxc0 xdp off;") {
		t.Errorf("%+v", f)
	}
	for what := range advices {
		if f := judgeDetours(what, []detour.Finding{{What: what, Device: "x"}}); f.do == "" && f.state != Note || f.means == "" || strings.Contains(f.do, "DEVICE") {
			t.Errorf("%s: %+v", what, f)
		}
	}
}

// Where the fence does not rise, what the kernel lacks is named.
func TestMissing(t *testing.T) {
	p := newPlace(t)
	if lacks := missing(p.ns.Fd(), features()); len(lacks) != 0 {
		t.Errorf("this kernel lacks %q", lacks)
	}
	reject := &nft.Table{Family: nft.IPv4, Name: "x", Chains: []*nft.Chain{{ // there is no reject at postrouting
		Name: "c", Hook: &nft.Hook{Type: "filter", Num: nft.Postrouting}, Rules: []nft.Rule{nft.NewRule("", nft.Reset)},
	}}}
	lacks := missing(p.ns.Fd(), append(features(), feature{"reject at postrouting", reject}))
	if diff := cmp.Diff([]string{"reject at postrouting"}, lacks); diff != "" {
		t.Errorf("missing (-want +got):\n%s", diff)
	}
}

// What could not be looked at is a failure where it decides, and if nothing
// else speaks against a proof, the caller was not permitted to look.
func TestReport(t *testing.T) {
	saved := checks
	t.Cleanup(func() { checks = saved })
	is := func(f finding, err error) func(*visit) (finding, error) {
		return func(*visit) (finding, error) { return f, err }
	}
	denied := fmt.Errorf("ask: %w", os.ErrPermission)
	for _, c := range []struct {
		name             string
		checks           []check
		provable, denied bool
		states           string
	}{
		{"well", []check{{"a", "g", true, is(fine("x"))}, {"b", "g", true, is(finding{state: Warning}, nil)}}, true, false, "ok warning"},
		{"bad", []check{{"a", "g", true, is(fine("x"))}, {"b", "g", true, is(finding{state: Fail}, nil)}}, false, false, "ok fail"},
		{"denied", []check{{"a", "g", true, is(finding{}, denied)}, {"b", "g", true, is(finding{}, denied)}}, false, true, "fail fail"},
		{"denied what matters little", []check{{"a", "g", false, is(finding{}, denied)}}, true, false, "note"},
		{"broken", []check{{"a", "g", true, is(finding{}, errors.New("broken"))}}, false, false, "fail"},
		{"broken what matters little", []check{{"a", "g", false, is(finding{found: "half"}, errors.New("broken"))}}, true, false, "note"},
		{"bad, then denied", []check{{"a", "g", true, is(finding{state: Fail}, nil)}, {"b", "g", true, is(finding{}, denied)}}, false, false, "fail fail"},
		{"denied, then bad", []check{{"a", "g", true, is(finding{}, denied)}, {"b", "g", true, is(finding{state: Fail}, nil)}}, false, false, "fail fail"},
		{"lacks a right", []check{{"a", "g", true, is(finding{state: Fail}, os.ErrPermission)}}, false, true, "fail"},
	} {
		checks = c.checks
		r, err := Examine(t.Context(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		var states []string
		for _, k := range r.Checks {
			states = append(states, string(k.State))
		}
		if got := strings.Join(states, " "); r.Provable != c.provable || r.Denied != c.denied || got != c.states {
			t.Errorf("%s: provable %v, denied %v, %s; want %v, %v, %s", c.name, r.Provable, r.Denied, got, c.provable, c.denied, c.states)
		}
	}
}

// Who interrupts an examination gets no report.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := Examine(ctx, Options{}); r != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", r, err)
	}
}

// attribute and text write attributes of netlink.
var attribute, text = labtest.Attr, labtest.Text

// /proc/net/netlink of a host with conntrackd.
const netlinkSockets = `sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
00000000cd1d239c 0   0          00000000 0        0        0     2        0        4       
00000000cd1d239d 0   4711       00000111 0        0        0     2        0        20      
00000000cd1d239e 12  0          00000000 0        0        0     2        0        5       
00000000cd1d239f 12  4294963200 00000007 0        0        0     2        0        21      
`

func TestParseSockets(t *testing.T) {
	got, err := parseSockets(netlinkSockets)
	if diff := cmp.Diff([]socket{{4294963200, 7, 21}}, got, cmp.AllowUnexported(socket{})); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, bad := range []string{"4294963200", "00000007", " 21"} {
		if _, err := parseSockets(strings.Replace(netlinkSockets, bad, " x", 1)); err == nil {
			t.Errorf("without %s: no error", bad)
		}
	}
}

// Messages of Open vSwitch, which this kernel was built without, are laid out
// after include/uapi/linux/openvswitch.h of Linux 6.18.
func TestDatapath(t *testing.T) {
	u16 := func(n uint16) []byte { return binary.NativeEndian.AppendUint16(nil, n) }
	head := []byte{3, 1, 0, 0, 9, 0, 0, 0} // struct genlmsghdr, struct ovs_header
	stats := binary.NativeEndian.AppendUint64(make([]byte, 24), 70000)
	path := append(append(head[:8:8], attribute(1, text("ovs-system"))...), attribute(3, stats)...)
	d, err := parseDatapath(path)
	if err != nil || d.name != "ovs-system" || d.index != 9 || d.flows != 70000 {
		t.Errorf("%+v, %v", d, err)
	}
	flow := func(actions ...[]byte) []byte { return append(head[:8:8], attribute(2, actions...)...) }
	output, zoned, unzoned := attribute(1, []byte{1, 0, 0, 0}), attribute(12, attribute(1), attribute(2, u16(7))), attribute(12)
	for _, m := range [][]byte{flow(output), flow(zoned, output), flow(unzoned), flow(zoned)} {
		if err := d.addFlow(m); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]uint16{7, 0}, d.zones); d.tracking != 3 || diff != "" {
		t.Errorf("%d flows track; zones (-want +got):\n%s", d.tracking, diff)
	}
	if _, err := parseDatapath(append(head[:8:8], attribute(3, stats[:8])...)); err == nil {
		t.Error("statistics that are cut short are no error")
	}
	f := judgeDatapaths(finding{state: Fail, found: "x"}, []datapath{
		{name: "a", flows: 4, tracking: 3, zones: []uint16{0, 7}}, {name: "b", flows: 2}, {name: "c", flows: 70000, unread: true},
	}, nil)
	const want = "x; datapath a has 4 flows, 3 with connection tracking, in zones [0 7]; datapath b has 2 flows, none with connection tracking; datapath c has 70000 flows, too many to look at"
	if f.found != want {
		t.Errorf("%q, want %q", f.found, want)
	}
	// The words for what was asked, of a family that every kernel has.
	p := newPlace(t)
	if err := p.ns.Do(func() error {
		c, err := rtnl.Dial(unix.NETLINK_GENERIC)
		if err != nil {
			return err
		}
		id, err := genericFamily(c, "nlctrl")
		if err == nil && id != 16 {
			err = fmt.Errorf("the number of nlctrl is %d", id)
		}
		return errors.Join(err, c.Close())
	}); err != nil {
		t.Error(err)
	}
}
