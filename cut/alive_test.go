//go:build linux

package cut

import (
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// bystanders are flows that no selector of the tests means.
type bystanders struct {
	net   *lab.Topology
	talks lab.Ends
	data  lab.Ends
}

// stand starts them: the cut server's own connections to the outside, the cut
// client's to another server, another client's to that server, and datagrams.
func stand(t *testing.T, net *lab.Topology) *bystanders {
	t.Helper()
	b := &bystanders{net: net}
	labtest.Listen(t, net.Clients[0].Host, 7000)
	labtest.Listen(t, net.Clients[1].Host, 7000)
	talk := func(h *lab.Host, s lab.Streams) {
		s.Kind, s.Count, s.Interval = lab.Talk, 10, 5*time.Millisecond
		b.talks = append(b.talks, labtest.Dial(t, h, s)...)
	}
	for _, v6 := range []bool{false, true} {
		for i := range 2 {
			s := lab.Streams{To: at(net, other, v6)}
			talk(net.Clients[i].Host, s)
			s.To = address(net.Clients[i], v6, 7000)
			talk(net.Servers[0].Host, s)
		}
	}
	b.data = labtest.Exchange(t, net.Clients[0].Host, lab.Datagrams{To: at(net, other, false), Up: 1250, Down: 1250})
	b.data = append(b.data, labtest.Exchange(t, net.Servers[0].Host, lab.Datagrams{To: address(net.Clients[1], false, 7000), Up: 1250, Down: 1250})...)
	return b
}

// want checks that nothing has happened to them.
func (b *bystanders) want(t *testing.T) {
	t.Helper()
	all := both(b.talks)
	for _, e := range all {
		if told := e.Told(); told.Err != nil {
			t.Errorf("bystander %s - %s: %v", e.Local, e.Remote, told.Err)
		}
	}
	before := make([]uint64, len(b.talks))
	for i, e := range b.talks {
		before[i] = e.Received.Bytes()
	}
	for i, e := range b.talks {
		labtest.Until(t, "bystanders go on", func() bool { return e.Received.Bytes() > before[i]+3 })
	}
	labtest.Until(t, "5000 datagrams", func() bool { return both(b.data).Messages() >= 5000 })
	lost, err := b.data.Lost(labtest.Context(t))
	if err != nil || lost != (lab.Loss{}) {
		t.Errorf("bystanders lost datagrams: %+v, %v", lost, err)
	}
}

// Other connections of the cut server and of the cut client notice nothing.
func TestBystanders(t *testing.T) {
	net := dmz(t, lab.Config{})
	b := stand(t, net)
	busy := loaded(t, net.Clients[0].Host, lab.Streams{Kind: lab.Download, To: at(net, port, false), Count: 4})
	off(t, net)
	r := runCut(t, net, Options{Selector: toServer(t, net)})
	wantProven(t, r)
	wantReset(t, both(busy))
	b.want(t)
}

// With the rule kept, new connections to the same server are made while old
// ones are cut: none is refused, none has to send its SYN again.
func TestCutWhileReconnecting(t *testing.T) {
	net := dmz(t, lab.Config{})
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 1000})
	again := net.Clients[1].Reconnect(lab.Reconnects{To: at(net, port, false), Rate: 200})
	labtest.Until(t, "50 new connections", func() bool { return len(again.Attempts()) >= 50 })
	start := time.Now()
	r := runCut(t, net, Options{Selector: toServer(t, net)})
	exit := time.Now()
	again.Stop()
	wantProven(t, r)
	wantReset(t, both(idle))
	raised := start.Add(time.Duration(r.Fence.RaisedAfterMS))
	var during []lab.Attempt
	for _, a := range again.Attempts() {
		if a.Start.After(raised) && a.Start.Before(exit) {
			during = append(during, a)
		}
	}
	if len(during) < 100 {
		t.Fatalf("%d new connections during the cut, want at least 100 to judge by", len(during))
	}
	got, want := lab.Count(during), lab.Tally{OK: len(during)}
	if backend == IPTables {
		want.Slow = got.Slow // they wait until the flows are listed
	}
	if got != want {
		t.Errorf("new connections during the cut: %+v, want %+v", got, want)
	}
	if backend != IPTables && (r.Flows.Admitted == 0 || r.Flows.Refused != 0) {
		t.Errorf("admitted %d, refused %d", r.Flows.Admitted, r.Flows.Refused)
	}
	t.Logf("%d new connections during the cut", len(during))
}

// A server that speaks at random moments cannot bring a connection back.
func TestCutSpeakers(t *testing.T) {
	for _, loose := range []string{"0", "1"} {
		t.Run("tcp_loose="+loose, func(t *testing.T) {
			net := dmz(t, lab.Config{Sysctls: map[string]string{"net.netfilter.nf_conntrack_tcp_loose": loose}})
			ends := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Speak, To: at(net, port, false), Count: 1000, Interval: 300 * time.Millisecond})
			off(t, net)
			r := runCut(t, net, Options{Selector: toServer(t, net)})
			exit := time.Now()
			wantProven(t, r)
			wantReset(t, both(ends))
			wantSilence(t, both(ends), exit, time.Second)
			wantNoEntries(t, net)
		})
	}
}

// Two cuts of the same flows at once do not hinder each other.
func TestTwoCuts(t *testing.T) {
	net := dmz(t, lab.Config{})
	before := labtest.Ruleset(t, net.Gateway.Host)
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 200})
	busy := loaded(t, net.Clients[0].Host, lab.Streams{Kind: lab.Download, To: at(net, port, false), Count: 4})
	var receipts [2]*Receipt
	var wg sync.WaitGroup
	for i := range receipts {
		wg.Go(func() { receipts[i] = runCut(t, net, Options{Selector: toServer(t, net)}) })
	}
	wg.Wait()
	exit := time.Now()
	deleted := 0
	for _, r := range receipts {
		wantProven(t, r)
		deleted += r.Flows.Deleted
	}
	if deleted != 204 {
		t.Errorf("deleted %d together, want each of 204 once", deleted)
	}
	wantReset(t, both(idle, busy))
	wantSilence(t, both(idle, busy), exit, time.Second)
	if after := labtest.Ruleset(t, net.Gateway.Host); after != before {
		t.Errorf("ruleset before:\n%s\nafter:\n%s", before, after)
	}
}

// A ruleset that is flushed and loaded again meanwhile does not open the fence.
func TestReloadDuringCut(t *testing.T) {
	net := dmz(t, lab.Config{})
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 200})
	busy := loaded(t, net.Clients[0].Host, lab.Streams{Kind: lab.Download, To: at(net, port, false), Count: 4})
	off(t, net)
	rules := labtest.Ruleset(t, net.Gateway.Host)
	stop, reloads := make(chan struct{}), 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for ; ; reloads++ {
			select {
			case <-stop:
				return
			default:
			}
			err := net.Gateway.NS.Do(func() error {
				cmd := exec.Command("nft", "-f", "-")
				cmd.Stdin = strings.NewReader("flush ruleset\n" + rules)
				return cmd.Run()
			})
			if err != nil {
				t.Errorf("reload: %v", err)
				return
			}
		}
	})
	r := runCut(t, net, Options{Selector: toServer(t, net)})
	exit := time.Now()
	close(stop)
	wg.Wait()
	t.Logf("%d reloads", reloads)
	if reloads < 3 {
		t.Errorf("%d reloads during the cut, want at least 3", reloads)
	}
	wantProven(t, r)
	wantReset(t, both(idle, busy))
	wantSilence(t, both(idle, busy), exit, time.Second)
	wantNoEntries(t, net)
	if after := labtest.Ruleset(t, net.Gateway.Host); after != rules {
		t.Errorf("ruleset before:\n%s\nafter:\n%s", rules, after)
	}
}

// Nothing to cut is proven at once.
func TestNoMatch(t *testing.T) {
	net := dmz(t, lab.Config{})
	b := stand(t, net)
	before := labtest.Ruleset(t, net.Gateway.Host)
	r := runCut(t, net, Options{Selector: parse(t, "--orig-src", "192.0.2.77")})
	wantProven(t, r)
	if r.Flows != (FlowCounts{}) {
		t.Errorf("counted %+v", r.Flows)
	}
	if elapsed := time.Duration(r.ElapsedMS); elapsed > 500*time.Millisecond {
		t.Errorf("took %v", elapsed)
	}
	if after := labtest.Ruleset(t, net.Gateway.Host); after != before {
		t.Errorf("ruleset before:\n%s\nafter:\n%s", before, after)
	}
	b.want(t)
}
