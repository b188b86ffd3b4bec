package bypass_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/bypass"
	"flowcut/internal/cli"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/nft"
	"flowcut/internal/sysctl"
)

// full makes TestFlood flood with three times as many packets, for longer: what is
// published is of such a run, on a machine with nothing else to do.
var full = flag.Bool("full", false, "a greater flood, for longer")

const (
	attacked = 80   // port that is flooded
	beside   = 5201 // port of everybody else
)

// scene is a gateway that routes, tracks and translates nothing, under a flood of
// SYNs to one port of a server, with connections to that port and to another.
type scene struct {
	*lab.Topology
	t      *testing.T
	ct     *conntrack.Client
	floods []*lab.Flood
	served lab.Ends // connections to the port that is attacked
	stream lab.Ends // connections to the other one
	grams  lab.Ends

	dropped uint64 // see backlog, before
}

// tracks turns tracking on, as any rule about flows does, and lets all pass. The
// firewall goes by state and admits what is not tracked.
func tracks(t *testing.T, g *lab.Gateway, states uint32) {
	t.Helper()
	var b nft.Batch
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		known := nft.AnyBit(nft.CTState, states)
		b.AddTable(&nft.Table{Family: f, Name: "filter", Chains: []*nft.Chain{
			{Name: "forward", Hook: &nft.Hook{Type: "filter", Num: nft.Forward}, Rules: []nft.Rule{nft.NewRule("", known, nft.Accept)}},
		}})
	}
	if err := g.Commit(&b); err != nil {
		t.Fatal(err)
	}
}

const (
	established, related, untracked = 2, 4, 64 // bits of ct state
	admitting                       = established | related | untracked
)

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{t: t, dropped: backlog(t), Topology: labtest.Standard(t, lab.Config{Clients: 1, Servers: 1, NoRules: true})}
	tracks(t, s.Gateway, admitting)
	client, server := s.Clients[0], s.Servers[0]
	for _, port := range []uint16{attacked, beside} {
		labtest.Listen(t, server.Host, port)
	}
	var err error
	if s.ct, err = conntrack.Dial(conntrack.Config{NetNS: s.Gateway.NS.Fd()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.ct.Close() })
	for _, x := range []struct {
		server, client netip.Addr
		sources        netip.Prefix
	}{
		{server.Addr4, client.Addr4, netip.MustParsePrefix("10.64.0.0/14")},
		{server.Addr6, client.Addr6, netip.MustParsePrefix("2001:db8:64::/110")},
	} {
		if err := s.Gateway.Route(x.sources, x.client); err != nil {
			t.Fatal(err)
		}
		dial := func(port uint16) lab.Ends {
			return labtest.Dial(t, client.Host, lab.Streams{Kind: lab.Talk, To: netip.AddrPortFrom(x.server, port), Count: 10, Interval: 5 * time.Millisecond})
		}
		s.served = append(s.served, dial(attacked)...)
		s.stream = append(s.stream, dial(beside)...)
		s.grams = append(s.grams, labtest.Exchange(t, client.Host, lab.Datagrams{To: netip.AddrPortFrom(x.server, beside), Count: 2, Up: 200, Down: 200})...)
		rate := 2000
		if *full {
			rate = 6000
		}
		flood, err := client.Flood(lab.Floods{To: netip.AddrPortFrom(x.server, attacked), Sources: x.sources, Rate: rate})
		if err != nil {
			t.Fatal(err)
		}
		s.floods = append(s.floods, flood)
	}
	return s
}

// attackedEntries lists the table and counts entries with the attacked port at
// either end, of each family.
func (s *scene) attackedEntries() (v4, v6 int) {
	s.t.Helper()
	for f, err := range s.ct.Dump(s.t.Context(), conntrack.Filter{}) {
		switch {
		case err != nil:
			s.t.Fatal(err)
		case f.Orig.Proto != conntrack.ProtoTCP || f.Orig.SrcPort != attacked && f.Orig.DstPort != attacked:
		case f.Orig.Src.Is4():
			v4++
		default:
			v6++
		}
	}
	return v4, v6
}

// growth is what the table, and the flood, gain in a second, measured for a span.
type growth struct{ entries, sent float64 }

func (s *scene) grows(span time.Duration) (g growth) {
	s.t.Helper()
	count := func() (n int) {
		err := s.Gateway.NS.Do(func() (err error) { n, err = sysctl.Get("net.netfilter.nf_conntrack_count"); return err })
		if err != nil {
			s.t.Fatal(err)
		}
		return n
	}
	sent := func() (n uint64) {
		for _, f := range s.floods {
			n += f.Sent()
		}
		return n
	}
	began, entries, packets := time.Now(), count(), sent()
	labtest.Until(s.t, "time itself is meant", func() bool { return time.Since(began) >= span })
	took := time.Since(began).Seconds()
	return growth{float64(count()-entries) / took, float64(sent()-packets) / took}
}

// flowcut runs a command on the gateway.
func (s *scene) flowcut(want int, args ...string) (stdout, stderr string) {
	s.t.Helper()
	return flowcut(s.t, s.Gateway.Host, want, args...)
}

func flowcut(t *testing.T, h *lab.Host, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if code := cli.Run(t.Context(), append(args, "--netns", h.Name), strings.NewReader(""), &out, &errs); code != want {
		t.Fatalf("flowcut %q: exit code %d, want %d\n%s%s", args, code, want, &out, &errs)
	}
	return out.String(), errs.String()
}

// Under a flood of SYNs the table fills; with a bypass it does not, nobody loses
// anything, and when the time is over it fills again, though no flowcut runs.
func TestFlood(t *testing.T) {
	span, life := 400*time.Millisecond, 4*time.Second
	if *full {
		span, life = 3*time.Second, 20*time.Second
	}
	s := newScene(t)
	server := s.Servers[0]
	before := s.grows(span)
	if v4, v6 := s.attackedEntries(); v4 < 100 || v6 < 100 || before.entries < before.sent/2 {
		t.Fatalf("no flood: %d and %d entries, %+v a second", v4, v6, before)
	}
	begun := time.Now()
	out, stderr := s.flowcut(0, "bypass", "add", "-p", "tcp", "--dport", "80", "--dst", server.Addr4.String()+","+server.Addr6.String(), "--for", life.String(), "-o", "json")
	added := time.Now()
	var r bypass.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || stderr != "" || r.Entries.Left != 0 || r.Entries.Deleted < 200 {
		t.Fatalf("%+v, error %v, %q", r, err, stderr)
	}
	served, stream := s.served.Received(), s.stream.Received()
	looks := 0
	for time.Since(added) < span {
		if v4, v6 := s.attackedEntries(); v4 != 0 || v6 != 0 {
			t.Fatalf("look %d, %v after it was added: %d and %d entries", looks, time.Since(added), v4, v6)
		}
		looks++
	}
	during := s.grows(span)
	if v4, v6 := s.attackedEntries(); v4 != 0 || v6 != 0 || during.sent < before.sent/4 || during.entries > 100 {
		t.Errorf("in force: %d and %d entries, %+v a second", v4, v6, during)
	}
	if s.served.Received() == served || s.stream.Received() == stream {
		t.Error("connections stand still")
	}
	listed := s.list()
	if len(listed) != 1 || listed[0].Sent.Packets < 500 || listed[0].Returned.Packets < 100 || listed[0].LeftMS <= 0 || len(listed[0].Families) != 2 {
		t.Fatalf("listed: %+v", listed)
	}
	labtest.Until(t, "entries come back", func() bool { v4, v6 := s.attackedEntries(); return v4 > 0 && v6 > 0 })
	ended := time.Since(begun)
	if ended < life-50*time.Millisecond || ended > life+5*time.Second {
		t.Errorf("it ended after %v, not %v", ended, life)
	}
	after := s.grows(span)
	if after.entries < after.sent/4 {
		t.Errorf("after it: %+v a second", after)
	}
	if left := s.list(); len(left) != 0 || strings.Contains(labtest.Ruleset(t, s.Gateway.Host), bypass.Name) {
		t.Errorf("left: %+v\n%s", left, labtest.Ruleset(t, s.Gateway.Host))
	}
	lost := s.harm()
	t.Logf("entries/s: %.0f before, %.0f in force, %.0f after, of %.0f, %.0f and %.0f SYNs/s", before.entries, during.entries, after.entries, before.sent, during.sent, after.sent)
	t.Logf("%d datagrams of others came, %+v lost, %d packets for which the machine had no room", s.grams.Messages()+s.grams.Peers().Messages(), lost, backlog(t)-s.dropped)
	t.Logf("%d entries deleted, none in %d listings; %d packets sent and %d answers not tracked; over after %v", r.Entries.Deleted, looks, listed[0].Sent.Packets, listed[0].Returned.Packets, ended)
}

// item is a line of "flowcut bypass list -o json".
type item struct {
	Number         int
	Selector       string
	Families       []string
	LeftMS         int `json:"left_ms"`
	Sent, Returned struct{ Packets, Bytes int }
}

func (s *scene) list() []item { return listOf(s.t, s.Gateway.Host) }

func listOf(t *testing.T, h *lab.Host) (out []item) {
	t.Helper()
	text, _ := flowcut(t, h, 0, "bypass", "list", "-o", "json")
	for line := range strings.Lines(text) {
		var i item
		if err := json.Unmarshal([]byte(line), &i); err != nil {
			t.Fatal(err)
		}
		out = append(out, i)
	}
	return out
}

// harm ends the floods, and fails the test if any connection was reset or has
// ended, stands still, or if a datagram of others was lost.
func (s *scene) harm() lab.Loss {
	s.t.Helper()
	for _, f := range s.floods {
		if err := f.Stop(); err != nil {
			s.t.Error(err)
		}
	}
	all := slices.Concat(s.served, s.stream, s.served.Peers(), s.stream.Peers())
	had := make([]uint64, len(all))
	for i, e := range all {
		had[i] = e.Received.Bytes()
	}
	for i, e := range all {
		labtest.Until(s.t, fmt.Sprintf("%s to %s goes on", e.Local, e.Remote), func() bool { return e.Received.Bytes() > had[i] || e.Told().Err != nil })
	}
	if told := all.Told(nil); told != len(all) || all.Told(unix.ECONNRESET) != 0 {
		s.t.Errorf("%d of %d ends were told nothing, %d a reset", told, len(all), all.Told(unix.ECONNRESET))
	}
	lost, err := s.grams.Lost(labtest.Context(s.t))
	if dropped := backlog(s.t) - s.dropped; err != nil || lost.Up+lost.Down > dropped {
		s.t.Errorf("datagrams of others: %+v lost, error %v; this machine's processors had no room for %d packets", lost, err, dropped)
	}
	return lost
}

// backlog counts the packets that this machine's processors had no room for in
// their queues: a flood within one machine may lose any packet so, before rules
// see it.
func backlog(t *testing.T) (n uint64) {
	t.Helper()
	b, err := os.ReadFile("/proc/net/softnet_stat")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		dropped, err := strconv.ParseUint(strings.Fields(line)[1], 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		n += dropped
	}
	return n
}
