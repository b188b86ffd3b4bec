//go:build linux

package cut

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

const queue = 7 // number of the queue that rules send packets to

// queued is the standard network whose gateway sends packets to a queue by the
// given conditions of iptables(8).
func queued(t testing.TB, conditions ...string) (*lab.Topology, *lab.Queue) {
	t.Helper()
	net := dmz(t, lab.Config{})
	q, err := net.Gateway.Queue(queue)
	must(t, err)
	for _, c := range conditions {
		iptables(t, net.Gateway.Host, "mangle", "FORWARD", c+" -j NFQUEUE --queue-num 7")
	}
	return net, q
}

// waits waits until the queue holds n packets of a protocol, SYNs alone or
// packets without it; those that are sent again are not counted twice.
func waits(t testing.TB, q *lab.Queue, proto byte, syn bool, n int) {
	t.Helper()
	labtest.Until(t, "packets wait in the queue", func() bool {
		flows := map[string]bool{}
		for _, h := range q.Waiting() {
			const header, ports = 20, 4 // without options
			b := h.Packet
			if len(b) < header+20 || b[9] != proto || proto == unix.IPPROTO_TCP && (b[header+13]&2 != 0) != syn {
				continue
			}
			flows[string(b[12:header+ports])] = true
		}
		return len(flows) >= n
	})
}

// counting counts the packets that reach a host, by conditions of nft(8).
func counting(t testing.TB, h *lab.Host, conditions ...string) {
	t.Helper()
	text := "table ip counting { chain pre { type filter hook prerouting priority -400; "
	for _, c := range conditions {
		text += c + " counter; "
	}
	rules(t, h, text+"}; }")
}

// counted returns what counting has counted.
func counted(t testing.TB, h *lab.Host) (packets []int) {
	t.Helper()
	words := strings.Fields(shell(t, h, "nft", "list table ip counting"))
	for i, w := range words {
		if w == "packets" {
			n, err := strconv.Atoi(words[i+1])
			must(t, err)
			packets = append(packets, n)
		}
	}
	return packets
}

// dialling connects in the background until ctx ends.
func dialling(ctx context.Context, h *lab.Host, s lab.Streams) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := h.Dial(ctx, s)
		done <- err
	}()
	return done
}

// A packet that waited in a queue since before the fence does not pass when
// its verdict comes under the fence: neither the SYN of a connection that has no
// entry yet, nor data of one that is cut, nor the first datagram of a flow. The
// fence waits for verdicts; when one does not come, packets that have no entry
// may pass after it, and nothing is proven.
func TestCutQueued(t *testing.T) {
	for _, step := range []string{stepTell, stepSettle} {
		t.Run(step, func(t *testing.T) {
			net, q := queued(t,
				"-p tcp --syn --dport 5201",
				"-p tcp --sport 5201 --tcp-flags PSH PSH",
				"-p udp --dport 5201")
			server, client := net.Servers[0].Host, net.Clients[1]
			counting(t, server, "ip saddr "+client.Addr4.String()+" tcp dport 5201", "udp dport 5201")
			to := at(net, port, false)
			must(t, q.Open())
			idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: to, Count: 3})
			q.Shut()
			for _, e := range idle.Peers() {
				must(t, e.Say())
			}
			waits(t, q, unix.IPPROTO_TCP, false, 3)
			ctx, cancel := context.WithCancel(t.Context())
			fresh := dialling(ctx, client.Host, lab.Streams{Kind: lab.Idle, To: to})
			waits(t, q, unix.IPPROTO_TCP, true, 1)
			cancel() // the SYN is not to be sent again
			<-fresh
			must(t, client.Inject(t.Context(), datagram(client.Addr4, 4000, to)))
			waits(t, q, unix.IPPROTO_UDP, false, 1)
			off(t, net)
			released := 0
			r := runCut(t, net, during(step, quick(Options{Selector: toServer(t, net)}), func() {
				released = len(q.Waiting())
				must(t, q.Release())
			}))
			if released < 5 {
				t.Fatalf("%d packets were released, want 5", released)
			}
			wantReset(t, both(idle))
			if n := idle.Received(); n != 0 {
				t.Errorf("%d bytes of connections that were cut came out of the queue", n)
			}
			if step == stepSettle || backend == IPTables { // which waits before it lists the flows
				if r.Proven || time.Duration(r.ElapsedMS) < drainFor {
					t.Errorf("proven %v after %v", r.Proven, r.ElapsedMS)
				}
				wantReason(t, r, "NFQUEUE 7")
				return
			}
			wantProven(t, r)
			if n := counted(t, server); !slices.Equal(n, []int{0, 0}) {
				t.Errorf("packets of new flows that came out of the queue through a rule that is off: SYN, UDP %d", n)
			}
			wantNoEntries(t, net)
		})
	}
}

// A packet that goes back into its queue by its verdict, since hooks of ours have
// come before the one that queues, is waited for until it has left for good.
func TestCutQueuedTwice(t *testing.T) {
	for _, works := range []bool{true, false} {
		t.Run(map[bool]string{true: "verdicts come", false: "one verdict comes"}[works], func(t *testing.T) {
			net := dmz(t, lab.Config{})
			q, err := net.Gateway.Queue(queue)
			must(t, err)
			iptables(t, net.Gateway.Host, "mangle", "PREROUTING", "-p udp --dport 5201 -j NFQUEUE --queue-num 7")
			server, client, to := net.Servers[0].Host, net.Clients[1], at(net, port, false)
			counting(t, server, "udp dport 5201")
			idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: to})
			must(t, client.Inject(t.Context(), datagram(client.Addr4, 4000, to)))
			waits(t, q, unix.IPPROTO_UDP, false, 1)
			r := runCut(t, net, during(stepDelete, quick(Options{Selector: toServer(t, net)}), func() {
				if works {
					must(t, q.Open())
					return
				}
				must(t, q.Release())
				waits(t, q, unix.IPPROTO_UDP, false, 1) // again
			}))
			wantReset(t, both(idle))
			if r.Proven != works {
				t.Errorf("proven %v: %s", r.Proven, r.Reason)
			}
			if !works {
				wantReason(t, r, "NFQUEUE 7")
			}
			if n := counted(t, server); n[0] != 0 {
				t.Errorf("%d packets came out of the queue", n[0])
			}
		})
	}
}

// datagram is one of UDP, from a host and port.
func datagram(from netip.Addr, port uint16, to netip.AddrPort) []byte {
	const word = 32
	udp := []byte{byte(port >> 8), byte(port), byte(to.Port() >> 8), byte(to.Port()), 0, 8 + word, 0, 0}
	return lab.Packet(from, to.Addr(), unix.IPPROTO_UDP, append(udp, make([]byte, word)...))
}

// Packets of others that wait in a queue when the cut is over get their
// verdict: to take the table away would drop them.
func TestCutWhileOthersQueue(t *testing.T) {
	net, q := queued(t, "-p udp --dport 5202")
	must(t, q.Open())
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 3})
	data := labtest.Exchange(t, net.Clients[0].Host, lab.Datagrams{To: at(net, other, false), Up: 100})
	must(t, data.Peers().WaitReceived(labtest.Context(t), 256))
	release := make(chan error, 1)
	o := quick(Options{Selector: toServer(t, net)})
	o.Progress = func(s Step) {
		switch s.Name {
		case stepSettle:
			q.Shut()
		case stepCheck:
			waits(t, q, unix.IPPROTO_UDP, false, 1)
			data[0].Quiet()                                                      // one that came at the very moment of the lift would be lost
			time.AfterFunc(150*time.Millisecond, func() { release <- q.Open() }) // a slow program
		}
	}
	start := time.Now()
	r := runCut(t, net, o)
	wantProven(t, r)
	wantReset(t, both(idle))
	must(t, <-release)
	if lost, err := data.Lost(labtest.Context(t)); err != nil || lost != (lab.Loss{}) {
		t.Errorf("datagrams of another flow were lost: %+v, %v", lost, err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	if strings.Contains(r.Reason, "queue") {
		t.Errorf("reason %q", r.Reason)
	}
}

// A queue whose program has gone to sleep does not hold the cut up for ever. The
// receipt claims no proof, since nobody knows whose packets wait there, and says
// what lifting the guard has dropped.
func TestCutDespiteFullQueue(t *testing.T) {
	net, q := queued(t, "-p udp --dport 5202")
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 3})
	must(t, net.Clients[0].Inject(t.Context(), datagram(net.Clients[0].Addr4, 4000, at(net, other, false))))
	waits(t, q, unix.IPPROTO_UDP, false, 1)
	r := runCut(t, net, quick(Options{Selector: toServer(t, net)}))
	if r.Proven || !r.Final {
		t.Errorf("proven %v, final %v", r.Proven, r.Final)
	}
	wantReset(t, both(idle))
	wantReason(t, r, "wait in NFQUEUE 7", "when the guard was lifted, which drops them: 1")
	if took := time.Duration(r.ElapsedMS); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}
