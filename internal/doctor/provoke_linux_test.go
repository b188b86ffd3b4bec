package doctor

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// us is the process of the tests, whatever it is called.
var us = fmt.Sprintf("* (%d)", os.Getpid())

// provocations are what can be made to show on this kernel.
var provocations = []struct {
	name, check   string
	before, after string // state and found
	provoke       func(*place) error
}{
	{"loose", "tcp_loose", "ok 1: deleted connections are adopted again", "ok 0: deleted connections are not adopted again",
		setSysctl("net.netfilter.nf_conntrack_tcp_loose", "0")},
	{"liberal", "tcp_be_liberal", "ok 0: segments outside the window are invalid", "note 1: segments outside the window are tracked, too",
		setSysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "1")},
	{"no events", "events", "ok 2: announced while somebody listens", "note 0: nobody hears of new and deleted flows",
		setSysctl("net.netfilter.nf_conntrack_events", "0")},
	{"all events", "events", "ok 2: announced while somebody listens", "ok 1: every flow is announced",
		setSysctl("net.netfilter.nf_conntrack_events", "1")},
	{"accounting", "acct", "note 0: list shows no BYTES", "ok 1: packets and bytes are counted",
		setSysctl("net.netfilter.nf_conntrack_acct", "1")},
	{"timestamp", "timestamp", "note 0: list shows no AGE", "ok 1: when a flow began is noted",
		setSysctl("net.netfilter.nf_conntrack_timestamp", "1")},
	{"icmp", "icmp_limits", "ok IPv4 1 in 1000 ms and 1000/s; IPv6 1 in 100 ms", "ok IPv4 without limit and 50/s; IPv6 1 in 40 ms",
		all(setSysctl("net.ipv4.icmp_ratelimit", "0"), setSysctl("net.ipv4.icmp_msgs_per_sec", "50"), setSysctl("net.ipv6.icmp.ratelimit", "40"))},
	{"icmp mask", "icmp_limits", "ok IPv4 1 in 1000 ms and 1000/s; IPv6 1 in 100 ms", "ok IPv4 without limit and 1000/s; IPv6 1 in 100 ms",
		setSysctl("net.ipv4.icmp_ratemask", "16")},
	{"tcp", "tcp_limits", "ok own sockets answer wrong segments every 500 ms", "note own sockets answer wrong segments every 5000 ms",
		setSysctl("net.ipv4.tcp_invalid_ratelimit", "5000")},
	{"challenges", "tcp_limits", "ok own sockets answer wrong segments every 500 ms", "note this host sends 10 challenge ACKs a second",
		setSysctl("net.ipv4.tcp_challenge_ack_limit", "10")},

	{"flows", "entries", "ok 0 of at most *, 0 %", "ok 3 of at most *, 0 %", flows(1, 4)},
	{"buckets", "buckets", "ok *, 0.00 entries to each", "ok *, 0.00 entries to each", flows(1, 2)},
	{"expected", "expectations", "ok 0 of at most *", "ok 1 of at most *", expectation},

	{"XDP", "xdp", "ok none", "fail XDP program on wan (look_away)", device("wan", xdp)},
	{"cls_bpf", "tc_programs", "ok none", "fail tc program on wan (redirects)", device("wan", classifier("redirects"))},
	{"Cilium's device", "ebpf_data_plane", "ok none", "fail Cilium, on cilium_host", device("cilium_host", xdp)},
	{"Cilium's program", "ebpf_data_plane", "ok none", "fail Cilium, on eth0", device("eth0", classifier("cil_from_netdev"))},
	{"Calico's program", "ebpf_data_plane", "ok none", "fail Calico, on cali12", device("cali12", classifier("main"))},
	{"Calico without programs", "ebpf_data_plane", "ok none", "ok none", device("cali12")},
	{"Calico with a filter", "ebpf_data_plane", "ok none", "ok none", device("cali12", redirect)},
	{"nobody's program", "ebpf_data_plane", "ok none", "ok none", device("wan", xdp)},
	{"redirect", "tc_filters", "ok none", "fail tc filter on wan (u32, redirects to lo)", device("wan", redirect)},
	{"fwd", "fwd_rules", "ok none", "fail nft fwd rule on wan (table hand, chain in)", all(device("wan"), rulesOf(
		`table netdev hand { chain in { type filter hook ingress device "wan" priority 0; fwd to "lo"; }; }`))},
	{"bridge", "bridges", "ok none", "fail bridging on br0 (br_netfilter is off for IPv4)",
		all(bridge, setSysctl("net.bridge.bridge-nf-call-iptables", "0"), setSysctl("net.bridge.bridge-nf-call-ip6tables", "1"))},
	{"bridge that shows", "bridges", "ok none", "ok none",
		all(bridge, setSysctl("net.bridge.bridge-nf-call-iptables", "1"), setSysctl("net.bridge.bridge-nf-call-ip6tables", "1"))},

	{"nft notrack", "notrack", "ok none", "fail rules that turn tracking off: inet hand pre", rulesOf(
		`table inet hand { chain pre { type filter hook prerouting priority raw; udp dport 53 notrack; udp sport 53 notrack; }; }`)},
	{"iptables-nft", "notrack", "ok none", "fail rules that turn tracking off: ip raw PREROUTING",
		run("iptables-nft -t raw -A PREROUTING -p udp -j CT --notrack")},
	{"iptables-legacy", "notrack", "ok none", "fail rules that turn tracking off: ip raw OUTPUT of iptables-legacy",
		all(run("iptables-legacy -t raw -A PREROUTING -p tcp -m conntrack --ctstate NEW -j ACCEPT"), run("iptables-legacy -t raw -A OUTPUT -p udp -j CT --notrack"))},
	{"ip6tables-legacy", "notrack", "ok none", "fail rules that turn tracking off: ip6 raw PREROUTING of iptables-legacy",
		run("ip6tables-legacy -t raw -A PREROUTING -p udp -j CT --notrack")},
	{"harmless tables", "notrack", "ok none", "ok none", all(
		run("iptables-legacy -t raw -A PREROUTING -p udp -j CT --zone 3"), run("ip6tables-legacy -A INPUT -j ACCEPT"),
		rulesOf(`table inet hand { chain pre { type filter hook prerouting priority raw; ct state new accept; }; }`))},
	{"fences of iptables", "notrack", "ok none", "ok none", all(
		run("iptables-legacy -t raw -N FLOWCUT-0badcafe"), run("iptables-legacy -t raw -A FLOWCUT-0badcafe -j CT --notrack"),
		run("iptables-nft -t raw -N FLOWCUT-0badcafe-kick"), run("iptables-nft -t raw -A FLOWCUT-0badcafe-kick -j CT --notrack"))},
	{"behind fences of iptables", "notrack", "ok none", "fail rules that turn tracking off: ip raw FLOWCUT-HAND, ip raw HAND of iptables-legacy", all(
		run("iptables-legacy -t raw -N FLOWCUT-0badcafe"), run("iptables-legacy -t raw -N HAND"), run("iptables-legacy -t raw -A HAND -j CT --notrack"),
		run("iptables-nft -t raw -N FLOWCUT-HAND"), run("iptables-nft -t raw -A FLOWCUT-HAND -j CT --notrack"))},
	{"fence of another flowcut", "notrack", "ok none", "ok none", fenced},

	{"nft zone", "zones", "ok none", "note rules that choose a zone: ip hand pre", rulesOf(
		`table ip hand { chain pre { type filter hook prerouting priority raw; ct zone set 7; }; }`)},
	{"zone that is asked for", "zones", "ok none", "ok none", rulesOf(
		`table ip hand { chain pre { type filter hook prerouting priority 0; ct zone 7 ct mark set 1 accept; }; }`)},
	{"iptables zone", "zones", "ok none", "note rules that choose a zone: ip raw PREROUTING, ip raw PREROUTING of iptables-legacy", all(
		run("iptables-nft -t raw -A PREROUTING -j CT --zone-orig mark"), run("iptables-legacy -t raw -A PREROUTING -j CT --zone 3"))},
	{"nft tproxy", "tproxy", "ok none", "warning rules with a transparent proxy: ip hand pre", rulesOf(
		`table ip hand { chain pre { type filter hook prerouting priority mangle; tcp dport 80 tproxy to :3128; }; }`)},
	{"iptables TPROXY", "tproxy", "ok none", "warning rules with a transparent proxy: ip mangle PREROUTING of iptables-legacy",
		run("iptables-legacy -t mangle -A PREROUTING -p tcp --dport 80 -j TPROXY --on-port 3128")},
	{"synproxy", "synproxy", "ok none", "note rules with SYNPROXY: ip hand in, ip filter INPUT of iptables-legacy", all(rulesOf(
		`table ip hand { chain in { type filter hook input priority 0; tcp dport 80 synproxy mss 1460 wscale 7 timestamp sack-perm; }; }`),
		run("iptables-legacy -A INPUT -p tcp --dport 80 -j SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460"))},
	{"queue without a program", "queues", "ok none", "note rules that queue packets, which nobody takes: ip filter INPUT, ip filter INPUT of iptables-legacy",
		all(run("iptables-nft -A INPUT -j NFQUEUE --queue-num 5"), run("iptables-legacy -A INPUT -j NFQUEUE --queue-num 5"))},
	{"listener", "listeners", "ok none", "note events of flows go to conntrack (*)", listens("conntrack")},
	{"replication", "listeners", "ok none", "warning conntrackd (*) replicates flows", listens("conntrackd")},
	{"one that does not listen", "listeners", "ok none", "ok none", fenced},
	{"somebody's own table", "flowcuts", "ok none", "ok none", owned},
	{"another flowcut", "flowcuts", "ok none", "note cuts under way: " + us, fenced},
	{"fence that stands", "leftovers", "ok none", "ok none", fenced},
	{"copy of a fence", "leftovers", "ok none", "warning table ip flowcut-0badcafe, table ip6 flowcut-0badcafe", copied},
}

// What is provoked is found, and only then.
func TestProvoked(t *testing.T) {
	for _, c := range provocations {
		t.Run(c.name, func(t *testing.T) {
			p := newPlace(t)
			p.want(t, c.check, c.before)
			if err := p.ns.Do(func() error { return c.provoke(p) }); err != nil {
				t.Fatal(err)
			}
			p.want(t, c.check, c.after)
		})
	}
}

// want compares with what a check says; a star stands for anything.
func (p *place) want(t *testing.T, check, want string) {
	t.Helper()
	f := p.examined(t, check)
	got := string(f.state) + " " + f.found
	if ok, err := filepath.Match(strings.ReplaceAll(want, "/", "|"), strings.ReplaceAll(got, "/", "|")); err != nil || !ok {
		t.Errorf("%s: %q, want %q", check, got, want)
	}
	if f.state != OK && f.means == "" {
		t.Errorf("%s: nothing is said of what %q means", check, got)
	}
	if (f.state == Warning || f.state == Fail) && f.do == "" {
		t.Errorf("%s: nothing is to be done about %q", check, got)
	}
}

// Two packets that wait in a queue and both want to begin the same connection:
// the second finds the place taken.
func TestQueueAndRace(t *testing.T) {
	l, err := lab.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	h, err := l.Host("host")
	if err != nil {
		t.Fatal(err)
	}
	q, err := h.Queue(5)
	if err != nil {
		t.Fatal(err)
	}
	labtest.Listen(t, h, 80) // a reset would end the first one at once
	p := &place{ns: h.NS}
	if err := h.NS.Do(func() error {
		return run("iptables-nft -A OUTPUT -m conntrack --ctstate NEW -j NFQUEUE --queue-num 5")(p)
	}); err != nil {
		t.Fatal(err)
	}
	p.want(t, "queues", "note queues: 5 of "+us+" (0 waiting)")
	p.want(t, "cpu_stats", "ok nothing dropped since the namespace began")
	own := netip.MustParseAddr("127.0.0.1")
	syn := lab.Packet(own, own, unix.IPPROTO_TCP, []byte{0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 2, 0xff, 0xff, 0, 0, 0, 0})
	if err := h.Inject(labtest.Context(t), syn, syn); err != nil {
		t.Fatal(err)
	}
	labtest.Until(t, "both packets wait", func() bool { return len(q.Waiting()) == 2 })
	p.want(t, "queues", "note queues: 5 of "+us+" (2 waiting)")
	if err := q.Release(); err != nil {
		t.Fatal(err)
	}
	labtest.Until(t, "the race is counted", func() bool { return p.examined(t, "cpu_stats").state == Note })
	p.want(t, "cpu_stats", "note drop 1, insert_failed 1")
}

// On this kernel all works but the filter for IPv6 addresses.
func TestKernel(t *testing.T) {
	p := newPlace(t)
	for check, want := range map[string]string{
		"version":     "ok Linux *",
		"ctnetlink":   "ok connection tracking answers",
		"nf_tables":   "ok a fence rises, and falls with its owner",
		"filter":      "ok narrows lists by all that it can",
		"filter_ipv6": "note inverted: asked for one address it sends all others",
		"delete_id":   "ok a deletion spares entries with another ID",
		"labels":      "ok flows can have labels",
		"ext_ack":     "ok the kernel explains its refusals",
		"membarrier":  "ok waits for packets under way",
		"helper":      "ok flows get helpers by rules alone",
	} {
		p.want(t, check, want)
	}
	before := namespaces(t)
	r, err := p.examine(t, Options{NetNS: "here"})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Provable || r.Denied || r.Version != 1 || r.NetNS != "here" || r.Kernel != release() || len(r.Checks) != len(checks) {
		t.Errorf("the report of a new namespace: %+v", r)
	}
	if diff := cmp.Diff(before, namespaces(t)); diff != "" {
		t.Errorf("namespaces of this process, before and after (-before +after):\n%s", diff)
	}
}

func (p *place) examine(t *testing.T, o Options) (r *Report, err error) {
	t.Helper()
	if err := p.ns.Do(func() error { r, err = Examine(t.Context(), o); return nil }); err != nil {
		t.Fatal(err)
	}
	return r, err
}

// namespaces are those that threads of this process are in, and those it has open.
func namespaces(t *testing.T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for _, pattern := range []string{"/proc/self/task/*/ns/net", "/proc/self/fd/*"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			if to, err := os.Readlink(p); err == nil && strings.HasPrefix(to, "net:") {
				out[to] = true
			}
		}
	}
	return out
}

// Gateways that are unusual and hide nothing raise no alarm.
func TestPlainGateways(t *testing.T) {
	for _, kinds := range [][]string{{"zone", "mark", "crowd", "output-drop", "macvlan-devices", "snat"}, {"bridge", "crowd-dropping"}} {
		cfg, err := lab.NewConfig(kinds...)
		if err != nil {
			t.Fatal(err)
		}
		p := &place{ns: labtest.Standard(t, cfg).Gateway.NS}
		r, err := p.examine(t, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range r.Checks {
			if c.State == Warning || c.State == Fail {
				t.Errorf("%v: %s: %s: %s", kinds, c.Name, c.State, c.Found)
			}
		}
	}
}
