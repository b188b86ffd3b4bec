//go:build linux

package failover

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// load puts entries into the active gateway's table, no faster than its daemon
// hears of them.
func (s *site) load(n int) {
	s.t.Helper()
	c, err := conntrack.Dial(conntrack.Config{NetNS: s.Gateways[0].NS.Fd()})
	must(s.t, err)
	defer c.Close()
	var flows []*conntrack.Flow
	for i := range n {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 40000)
		flows = append(flows, &conntrack.Flow{
			Has:     conntrack.AttrReply | conntrack.AttrStatus | conntrack.AttrTCP,
			Orig:    conntrack.Tuple{Proto: conntrack.ProtoTCP, Src: from.Addr(), SrcPort: from.Port(), Dst: s.Client.Via4, DstPort: port},
			Reply:   conntrack.Tuple{Proto: conntrack.ProtoTCP, Src: s.Server.Addr4, SrcPort: port, Dst: from.Addr(), DstPort: from.Port()},
			Status:  conntrack.StatusDstNAT | conntrack.StatusAssured | conntrack.StatusSeenReply,
			Timeout: time.Hour, TCP: conntrack.TCP{State: conntrack.TCPEstablished},
		})
	}
	made := 0
	for chunk := range slices.Chunk(flows, 100) {
		m, err := c.CreateAll(labtest.Context(s.t), slices.Values(chunk))
		must(s.t, err)
		made += m
		labtest.Until(s.t, "conntrackd knows the flows", func() bool { return s.daemons[0].known("internal") == made })
	}
	labtest.Until(s.t, "the standby knows the flows", func() bool { return s.daemons[1].known("external") == n })
}

// A cut of many flows is no faster than a daemon hears of it: the standby knows
// none of them afterwards.
func TestManyFlows(t *testing.T) {
	const n = 3000
	s := newSite(t, plan{settings: settings{Buffer: 256 << 10}})
	s.load(n)
	r := s.cut(0, cut.Options{Selector: s.toServer(), Silent: true, Settle: ms(50)})
	if r.Flows.Deleted != n || strings.Contains(r.Reason, "heard") {
		t.Errorf("deleted %d of %d: %s", r.Flows.Deleted, n, r.Reason)
	}
	labtest.Until(t, "the standby has forgotten the flows", func() bool { return s.daemons[1].known("external") == 0 })
}

// What a daemon that hangs does not hear is said, together with what makes the
// standby forget all the same. Without that the flows come back, until the
// notify script of the man page cuts them.
func TestDeafDaemon(t *testing.T) {
	for _, x := range []struct {
		name   string
		remedy func(*site)
		always bool
	}{
		{name: "forgotten", remedy: (*site).forget, always: true},
		{name: "notified", remedy: (*site).notify},
	} {
		if x.always || *full {
			t.Run(x.name, func(t *testing.T) { deafDaemon(t, x.remedy) })
		}
	}
}

func deafDaemon(t *testing.T, remedy func(*site)) {
	const n = 9
	s := newSite(t, plan{settings: settings{Buffer: 4 << 10}})
	flows := both(labtest.Exchange(t, s.Client.Host, lab.Datagrams{To: s.at(port, false), Count: n, Up: 20}))
	s.off()
	s.daemons[0].order("-R") // for what has not found room
	s.daemons[0].order("-B")
	labtest.Until(t, "the standby knows the flows", func() bool { return s.standbyKnows(false, port) == n })
	s.daemons[0].signal(unix.SIGSTOP)
	began := time.Now()
	r := s.cut(0, quick(s.toServer()))
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the cut took %v", took)
	}
	s.daemons[0].signal(unix.SIGCONT)
	const told = "run conntrackd -f internal and conntrackd -R here, then conntrackd -f external and conntrackd -n there"
	if !r.Proven || !strings.Contains(r.Reason, "may not have heard of: 9") || !strings.Contains(r.Reason, told) {
		t.Errorf("proven %v: %s", r.Proven, r.Reason)
	}
	if s.standbyKnows(false, port) == 0 {
		t.Fatal("the standby has forgotten the flows by itself")
	}
	remedy(s)
	if n := len(s.flows(1, parse(t, "--dport", text(port)))); n != 0 {
		t.Errorf("%d flows came back", n)
	}
	before, kept := flows.Received(), both(labtest.Dial(t, s.Client.Host, lab.Streams{Kind: lab.Talk, To: s.at(other, false), Interval: ms(20)}))
	s.goOn(kept)
	if got := flows.Received() - before; got != 0 {
		t.Errorf("%d bytes reached an end", got)
	}
}

// forget does what the receipt says, and takes over.
func (s *site) forget() {
	s.t.Helper()
	s.daemons[0].order("-f", "internal")
	s.daemons[0].order("-R")
	s.daemons[1].order("-f", "external")
	s.daemons[1].order("-n")
	s.takeOver(1)
}

// notify takes over by the notify script of the man page.
func (s *site) notify() {
	s.t.Helper()
	dir := s.t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "flowcut"), "flowcut/cmd/flowcut")
	out, err := build.CombinedOutput()
	if err != nil {
		s.t.Fatalf("build: %v\n%s", err, out)
	}
	page, err := os.ReadFile("../../docs/flowcut.8")
	must(s.t, err)
	_, script, _ := strings.Cut(string(page), "#!/bin/sh\n")
	script, _, _ = strings.Cut(script, ".Ed\n")
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		must(s.t, os.WriteFile(path, []byte(text), 0o700))
		return path
	}
	primary := "test $1 = primary || exit 1\n"
	for _, command := range []string{"-c", "-f", "-R", "-B"} {
		primary += "conntrackd -C " + s.daemons[1].config() + " " + command + "\n"
	}
	script = strings.NewReplacer(
		"/etc/conntrackd/primary-backup.sh", "sh "+write("primary-backup.sh", primary),
		"/etc/flowcut/closed", write("closed", "--dst-nat --reply-src 192.168.1.100 --dport 5201\n"),
		"flowcut cut", filepath.Join(dir, "flowcut")+" cut",
	).Replace(script)
	must(s.t, s.Fail(s.Gateways[0]))
	must(s.t, s.TakeOver(labtest.Context(s.t), s.Gateways[1]))
	said := shell(s.t, s.Gateways[1].Host, "sh", write("notify.sh", script), "INSTANCE", "outside", "MASTER")
	if !strings.Contains(said, "--dport 5201: proven: ") || !strings.Contains(said, " deleted") {
		s.t.Errorf("the notify script had nothing to cut: %s", said)
	}
}

// The gateway that was active before keeps its flows in the kernel's table for a
// while. Those that the other one cuts meanwhile are still there when it takes
// over again, unless they are cut on both.
func TestThereAndBack(t *testing.T) {
	for _, x := range []struct {
		name         string
		both, always bool
	}{
		{name: "cut on both", both: true, always: true},
		{name: "cut on one"},
	} {
		if x.always || *full {
			t.Run(x.name, func(t *testing.T) { thereAndBack(t, x.both) })
		}
	}
}

func thereAndBack(t *testing.T, both bool) {
	s := newSite(t, plan{sysctls: strict})
	cutEnds, _, kept := s.traffic()
	s.known(false)
	s.takeOver(1)
	s.off()
	r := s.cut(1, quick(s.toServer()))
	if !r.Proven || !r.Final {
		t.Errorf("proven %v, final %v: %s", r.Proven, r.Final, r.Reason)
	}
	if both {
		s.cut(0, cut.Options{Selector: s.toServer(), Silent: true, Settle: ms(50), Hold: cut.None})
	}
	s.rejoin(0)
	before := cutEnds.Received()
	s.takeOver(0)
	s.goOn(kept)
	if got := cutEnds.Received() - before; (got == 0) != both {
		t.Errorf("%d bytes reached an end", got)
	}
}

// A standby that puts flows into the active gateway's table, as one may whose
// daemon keeps none to itself, is found out while the guard stands.
func TestPutBack(t *testing.T) {
	s := newSite(t, plan{settings: settings{Inject: true}})
	ends := both(labtest.Dial(t, s.Client.Host, lab.Streams{Kind: lab.Idle, To: s.at(port, false), Count: 3}))
	labtest.Until(t, "the standby knows the flows", func() bool { return s.standbyKnows(true, port) == 3 })
	s.daemons[1].order("-R") // takes what it was told for its own
	s.off()
	o := quick(s.toServer())
	o.Progress = func(step cut.Step) {
		if step.Name == "wait until nothing knocks" {
			s.daemons[1].order("-B")
			labtest.Until(t, "the flows are put back", func() bool { return len(s.flows(0, s.toServer())) == 3 })
		}
	}
	r := s.cut(0, o)
	if r.Proven || r.Flows.Returned != 3 || !strings.Contains(r.Reason, "conntrackd") {
		t.Errorf("proven %v, returned %d: %s", r.Proven, r.Flows.Returned, r.Reason)
	}
	if n := len(s.flows(0, s.toServer())); n != 0 {
		t.Errorf("%d flows are left", n)
	}
	if n := ends.Told(nil); n != 0 {
		t.Errorf("%d ends were not told", n)
	}
}

// rejoin makes a gateway that has failed the standby, as primary-backup.sh does.
func (s *site) rejoin(n int) {
	s.t.Helper()
	must(s.t, s.Rejoin(labtest.Context(s.t), s.Gateways[n]))
	labtest.Until(s.t, "it knows the flows again", func() bool {
		s.daemons[n].order("-t")
		s.daemons[n].order("-n")
		return s.daemons[n].count("-e", dport(other)) == keptFlows
	})
}
