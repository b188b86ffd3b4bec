//go:build linux

package cut

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// backend is what fences are made of where a test does not say.
var backend Backend

// everyScenario asks for all that a backend must be able to do, and not for a sample.
var everyScenario = flag.String("fence", "", "iptables: all scenarios on that backend")

// scenario is a test that makes cuts, which must go on any backend alike.
type scenario struct {
	name   string
	run    func(*testing.T)
	sample bool // run also where not all are asked for
}

// scenarios are those that the fence of iptables passes as that of nf_tables does.
var scenarios = []scenario{
	{"TestCutIdle", TestCutIdle, true},
	{"TestCutRedirected", TestCutRedirected, false},
	{"TestCutSpares", TestCutSpares, true},
	{"TestCutDatagramsNoHold", TestCutDatagramsNoHold, true},
	{"TestCutNotTracked", TestCutNotTracked, true},
	{"TestCutFTPDataAlone", TestCutFTPDataAlone, true},
	{"a handshake waits", handshakeWaits, true},
	{"others change the rules", othersChangeTheRules, false},
	{"too many", tooManyForIPTables, false},
	{"counted without questions", countedWithoutQuestions, false},
	{"a queue that is late", queueIsLate, false},
	{"interrupted", interruptedOnIPTables, false},
	{"TestCutWhileReconnecting", TestCutWhileReconnecting, false},
	{"TestEachPartIsNeeded", TestEachPartIsNeeded, false},
	{"TestCutAnsweredInAnEndsPlace", TestCutAnsweredInAnEndsPlace, false},
	{"TestBystanders", TestBystanders, false},
	{"TestCutForgedDeaths", TestCutForgedDeaths, false},
	{"TestCutKnockingWithoutEnd", TestCutKnockingWithoutEnd, false},
	{"TestCutWaitsForListeners", TestCutWaitsForListeners, false},
	{"TestCutBesideDeafListener", TestCutBesideDeafListener, false},
	{"TestCutAnnouncesInZone", TestCutAnnouncesInZone, false},
	{"TestCutSpeakers", TestCutSpeakers, false},
	{"TestTwoCuts", TestTwoCuts, false},
	{"TestNoMatch", TestNoMatch, false},
	{"TestCutBehindBridge", TestCutBehindBridge, false},
	{"TestCutStreams", TestCutStreams, false},
	{"TestCutOwnFlows", TestCutOwnFlows, false},
	{"TestCutDetour", TestCutDetour, false},
	{"TestCutByTuples", TestCutByTuples, false},
	{"TestFindKeepsWhatVanishes", TestFindKeepsWhatVanishes, false},
	{"TestCutFTP", TestCutFTP, false},
	{"TestCutFTPNoRelated", TestCutFTPNoRelated, false},
	{"TestCutFTPExpectation", TestCutFTPExpectation, false},
	{"TestCutOnGateways", TestCutOnGateways, false},
	{"TestCutLeavesNothingHalfOpen", TestCutLeavesNothingHalfOpen, false},
	{"TestCutLoopback", TestCutLoopback, false},
	{"TestCutMirrors", TestCutMirrors, false},
	{"TestCutMirrorGuessed", TestCutMirrorGuessed, false},
	{"TestAskingIsForgotten", TestAskingIsForgotten, false},
	{"TestCutNoMirror", TestCutNoMirror, false},
	{"TestCutMax", TestCutMax, false},
	{"TestCutExcept", TestCutExcept, false},
	{"TestCutMirrorsBehindFirewalls", TestCutMirrorsBehindFirewalls, false},
	{"TestCutSparesMirrors", TestCutSparesMirrors, false},
	{"TestCutBehindNAT", TestCutBehindNAT, false},
	{"TestSparesAdoptedFromOwnEnd", TestSparesAdoptedFromOwnEnd, false},
	{"TestManyTargets", TestManyTargets, false},
	{"TestCutOtherProtocols", TestCutOtherProtocols, false},
	{"TestCutHoldQuiet", TestCutHoldQuiet, false},
	{"TestCutQueued", TestCutQueued, false},
	{"TestCutWhileOthersQueue", TestCutWhileOthersQueue, false},
	{"TestCutDatagrams", TestCutDatagrams, false},
	{"TestCutEcho", TestCutEcho, false},
	{"TestNewDatagramsDuringCut", TestNewDatagramsDuringCut, false},
	{"TestSpareDoesNotOpenTheGuard", TestSpareDoesNotOpenTheGuard, false},
	{"TestSpareTwin", TestSpareTwin, false},
	{"TestCutClosing", TestCutClosing, false},
	{"TestCutHalfOpen", TestCutHalfOpen, false},
	{"TestGuardAnswersWithoutFlow", TestGuardAnswersWithoutFlow, false},
	{"TestNewFamilyDuringCut", TestNewFamilyDuringCut, false},
	{"TestReinsertedDuringCut", TestReinsertedDuringCut, false},
	{"TestResetOfAnotherFlow", TestResetOfAnotherFlow, false},
	{"TestCutOneWay", TestCutOneWay, false},
	{"TestNeighboursDuringCut", TestNeighboursDuringCut, false},
	{"TestCutSeeminglyClosed", TestCutSeeminglyClosed, false},
	{"TestCutLonelyAnswer", TestCutLonelyAnswer, false},
	{"TestCutVanished", TestCutVanished, false},
	{"TestCutLeavesNoEntries", TestCutLeavesNoEntries, false},
	{"TestRunAll", TestRunAll, false},
	{"TestCutterCoalesces", TestCutterCoalesces, false},
}

// notByIPTables are scenarios that the fence of iptables does not pass, and why.
var notByIPTables = map[string]string{
	"TestCutSamePort":               "a handshake on the tuple of a cut flow waits until the guard is lifted: see handshakeWaits",
	"TestCutSamePortDespiteSilence": "the same",
	"TestCutSpoofedBeginning":       "the same: nobody begins anything on such a tuple",
	"TestCutInSYNFlood":             "no more than 4,096 flows can be guarded: see tooManyForIPTables",
	"TestCutMirrorsWithoutEnd":      "mirrors are looked for until the guard stands, and not again",
	"TestReloadDuringCut":           "the rules are in the tables that others load: see othersChangeTheRules",
	"TestCutEarly":                  "there is no coarse guard",
	"TestCutEarlyMirrors":           "the same",
	"TestCutTooMany":                "the same",
	"TestCutCrowd":                  "the same",
	"TestNotCoarseWithoutAdoption":  "the same",
	"TestCutSetsFull":               "it has no sets that packets fill",
	"TestCutQueuedTwice":            "what waits until the flows are listed denies the proof: see queueIsLate",
	"TestCutDespiteFullQueue":       "lifting it drops nothing that waits in a queue",
}

// aside are tests that make no cut, or choose the backend themselves.
var aside = strings.Fields(`TestOnIPTables TestEveryTestIsPlaced  TestBackendIsChosen TestCutterEnds TestDetoursNotLookedFor TestServicePorts TestNegatedListHarmsNobody
	TestAskServing TestAskServingBeforeNeighbours TestIsMirror TestReceiptJSON TestEverythingMustBeMeant TestKnown TestOffloaded TestUnseenZones
	TestReleaseOfHardware TestDriverWork
	TestCutOffloaded TestCutOffloadedSilently TestCutOffloadedDatagrams TestCutOffloadedByTuples TestCutOffloadedAdmits`)

// The scenarios hold on iptables, too: a sample of them, and all with
// "-args -fence iptables", as make backends has it.
func TestOnIPTables(t *testing.T) {
	backend = IPTables
	t.Cleanup(func() { backend = AnyBackend })
	for _, s := range scenarios {
		if s.sample || *everyScenario == string(IPTables) {
			t.Run(s.name, s.run)
		}
	}
}

// Each test of the package is a scenario for iptables, or it is said why not.
func TestEveryTestIsPlaced(t *testing.T) {
	placed := map[string]bool{}
	for _, s := range scenarios {
		placed[s.name] = true
	}
	for name := range notByIPTables {
		placed[name] = true
	}
	for _, name := range aside {
		placed[name] = true
	}
	files, err := filepath.Glob("*_test.go")
	must(t, err)
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		must(t, err)
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if ok && f.Name.Name == "cut" && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") && !placed[fn.Name.Name] {
				t.Errorf("%s: %s is neither a scenario for iptables nor said not to be one", file, fn.Name.Name)
			}
		}
	}
}

// wantNoChains checks that no chain of ours is left in the tables of iptables.
func wantNoChains(t testing.TB, h *lab.Host) {
	t.Helper()
	for _, program := range []string{"iptables-legacy-save", "ip6tables-legacy-save"} {
		if text := shell(t, h, program); strings.Contains(text, "FLOWCUT") || strings.Contains(text, "flowcut") {
			t.Errorf("left behind:\n%s", text)
		}
	}
}

// An idle connection through a DMZ that was turned off ends at both ends.
func TestCutIdle(t *testing.T) {
	net := dmz(t, lab.Config{})
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false)})
	off(t, net)
	before := labtest.Ruleset(t, net.Gateway.Host)
	r := runCut(t, net, quick(Options{Selector: toServer(t, net)}))
	wantProven(t, r)
	if r.Flows.Matched != 1 || r.Endpoints.Dead != 2 {
		t.Errorf("matched %d, dead %d", r.Flows.Matched, r.Endpoints.Dead)
	}
	if (len(r.Fence.Limits) > 0) != (backend == IPTables) {
		t.Errorf("limits of %s: %q", r.Fence.Backend, r.Fence.Limits)
	}
	wantReset(t, both(idle))
	wantNoEntries(t, net)
	if after := labtest.Ruleset(t, net.Gateway.Host); after != before {
		t.Errorf("ruleset before:\n%s\nafter:\n%s", before, after)
	}
}

// Iptables is taken where the kernel refuses nf_tables, unless that was asked for.
func TestBackendIsChosen(t *testing.T) {
	missing := &conntrack.NotSupportedError{Feature: "nf_tables"}
	other := errors.New("something else")
	for _, c := range []struct {
		fence Backend
		lacks error
		want  Backend
		err   error
	}{
		{AnyBackend, nil, NFTables, nil},
		{AnyBackend, fmt.Errorf("raise: %w", missing), IPTables, nil},
		{AnyBackend, fmt.Errorf("raise: %w", unix.EPERM), IPTables, nil},
		{AnyBackend, other, "", other},
		{NFTables, missing, "", conntrack.ErrNotSupported},
		{IPTables, missing, IPTables, nil},
	} {
		t.Run(fmt.Sprint(c.fence, c.lacks), func(t *testing.T) {
			net := dmz(t, lab.Config{})
			idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 3})
			o := quick(Options{Selector: toServer(t, net), NetNS: net.Gateway.NS.Fd(), Fence: c.fence, lacks: c.lacks})
			r, err := Run(labtest.Context(t), o)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if err != nil {
				if r != nil || both(idle).Told(nil) != 6 {
					t.Errorf("receipt %v, and %d of 6 ends live", r, both(idle).Told(nil))
				}
				return
			}
			wantProven(t, r)
			if r.Fence.Backend != string(c.want) || r.Flows.Deleted != 3 {
				t.Errorf("backend %q, deleted %d", r.Fence.Backend, r.Flows.Deleted)
			}
			wantReset(t, both(idle))
			wantNoChains(t, net.Gateway.Host)
		})
	}
}

// Rules that others take away, or put before ours, are found, and then nothing is
// proven.
func othersChangeTheRules(t *testing.T) {
	for name, command := range map[string]string{
		"flushed":  "iptables-legacy -w -F FORWARD",
		"inserted": "iptables-legacy -w -I INPUT 1 -m conntrack --ctstate ESTABLISHED -j ACCEPT",
		"reloaded": "iptables-legacy-restore -w",
	} {
		t.Run(name, func(t *testing.T) {
			net := dmz(t, lab.Config{})
			labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 3})
			o := during(stepSettle, quick(Options{Selector: toServer(t, net)}), func() {
				err := net.Gateway.NS.Do(func() error {
					words := strings.Fields(command)
					cmd := exec.Command(words[0], words[1:]...)
					cmd.Stdin = strings.NewReader("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n")
					return cmd.Run()
				})
				if err != nil {
					t.Error(err)
				}
			})
			r := runCut(t, net, o)
			if r.Proven {
				t.Error("proven")
			}
			wantReason(t, r, "somebody else has changed chain")
		})
	}
}

// A handshake on the addresses and ports of a cut flow waits for the end of the
// guard, and is made then.
func handshakeWaits(t *testing.T) {
	net := dmz(t, lab.Config{})
	to, local := at(net, port, false), netip.AddrPortFrom(net.Clients[0].Addr4, 20000)
	old := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: to, Local: local})
	made := make(chan time.Time, 1)
	o := during(stepSettle, quick(Options{Selector: toServer(t, net)}), func() {
		go func() {
			if _, err := net.Clients[0].Dial(labtest.Context(t), lab.Streams{Kind: lab.Talk, To: to, Local: local}); err != nil {
				t.Error(err)
			}
			made <- time.Now()
		}()
	})
	start := time.Now()
	r := runCut(t, net, o)
	wantProven(t, r)
	wantReset(t, both(old))
	lifted := start.Add(time.Duration(r.Fence.LiftedAfterMS))
	if at := <-made; at.Before(lifted) {
		t.Errorf("made %v before the guard was lifted", lifted.Sub(at))
	}
	if r.Flows.Refused == 0 || r.Flows.Returned != 0 {
		t.Errorf("refused %d, returned %d", r.Flows.Refused, r.Flows.Returned)
	}
}

// More flows than the fence of iptables takes are refused before anything is
// done, as many as it takes are not.
func tooManyForIPTables(t *testing.T) {
	net := dmz(t, lab.Config{})
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 2})
	fake := find(t, net, idle[0])
	fake.Has &^= conntrack.AttrID | conntrack.AttrUse | conntrack.AttrOrigSeqAdj | conntrack.AttrReplySeqAdj
	fake.Timeout = time.Hour
	most := 4096 - len(idle)
	_, err := table(t, net).CreateAll(labtest.Context(t), func(yield func(*conntrack.Flow) bool) {
		for i := range most + 1 {
			f := *fake
			f.Orig.Src = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			f.Reply.Dst = f.Orig.Src
			if !yield(&f) {
				return
			}
		}
	})
	must(t, err)
	_, err = Run(labtest.Context(t), Options{NetNS: net.Gateway.NS.Fd(), Selector: toServer(t, net), Fence: IPTables})
	if many := new(TooManyError); !errors.As(err, &many) || many.Found != 4097 || many.Backend != IPTables {
		t.Fatalf("error %v", err)
	}
	wantNoChains(t, net.Gateway.Host)
	if n := both(idle).Told(nil); n != 4 {
		t.Errorf("%d of 4 ends live", n)
	}
	remove(t, table(t, net), all(t, table(t, net), parse(t, "-s", "10.0.0.0")))
	o := quick(Options{Selector: toServer(t, net), NoKick: true})
	r := runCut(t, net, o)
	if !r.Proven || r.Flows.Deleted != 4096 {
		t.Errorf("proven %v, deleted %d: %s", r.Proven, r.Flows.Deleted, r.Reason)
	}
}

// Whether the fence takes so many flows is found out before it stands, and without
// a packet: no host is asked what it serves.
func countedWithoutQuestions(t *testing.T) {
	net := dmz(t, lab.Config{})
	zombies(t, net, 1)
	server := net.Servers[0].Addr4
	_, err := table(t, net).CreateAll(labtest.Context(t), func(yield func(*conntrack.Flow) bool) {
		for i := range 4097 {
			f := conntrack.Flow{Has: conntrack.AttrReply, Timeout: time.Hour, Orig: conntrack.Tuple{
				Proto: conntrack.ProtoTCP, Src: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Dst: server, SrcPort: 40000, DstPort: port,
			}}
			if f.Reply = f.Orig.Invert(); !yield(&f) {
				return
			}
		}
	})
	must(t, err)
	_, err = Run(labtest.Context(t), Options{NetNS: net.Gateway.NS.Fd(), Selector: parse(t, "--reply-src", server.String()), Fence: IPTables})
	if many := new(TooManyError); !errors.As(err, &many) || many.Found != 4098 {
		t.Fatalf("error %v", err)
	}
	for _, f := range all(t, table(t, net), parse(t, "-p", "tcp", "--dst", server.String())) {
		if !netip.MustParsePrefix("10.0.0.0/8").Contains(f.Orig.Src) {
			t.Errorf("the gateway has asked: %v", f.Orig)
		}
	}
}

// A first packet that waits in a queue until the flows are listed begins a flow
// that is in no list, and nothing stops: then nothing is proven, although nothing
// waits any more in the end.
func queueIsLate(t *testing.T) {
	net, q := queued(t, "-p udp --dport 5201")
	server, client, to := net.Servers[0].Host, net.Clients[1], at(net, port, false)
	counting(t, server, "udp dport 5201")
	labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: to})
	must(t, client.Inject(t.Context(), datagram(client.Addr4, 4000, to)))
	waits(t, q, unix.IPPROTO_UDP, false, 1)
	r := runCut(t, net, during(stepDelete, quick(Options{Selector: toServer(t, net)}), func() {
		must(t, q.Open())
		labtest.Until(t, "it has left the queue", func() bool { return counted(t, server)[0] == 1 })
	}))
	if r.Proven {
		t.Error("proven")
	}
	wantReason(t, r, "NFQUEUE 7")
}

// A cut that is interrupted at any step leaves no chain.
func interruptedOnIPTables(t *testing.T) {
	for _, step := range []string{stepRaise, stepList, stepTell, stepDelete, stepSettle} {
		t.Run(step, func(t *testing.T) {
			net := dmz(t, lab.Config{})
			labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 3})
			cause := errors.New("enough")
			ctx, cancel := context.WithCancelCause(labtest.Context(t))
			o := during(step, Options{NetNS: net.Gateway.NS.Fd(), Selector: toServer(t, net), Fence: IPTables}, func() { cancel(cause) })
			if _, err := Run(ctx, o); !errors.Is(err, cause) {
				t.Errorf("error %v", err)
			}
			wantNoChains(t, net.Gateway.Host)
		})
	}
}
