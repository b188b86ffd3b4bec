//go:build linux

package kernels

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"flowcut/internal/kernels/plan"
)

// Scenario is something that flowcut must do on every kernel: tests of one
// package.
type Scenario struct {
	Name    string // one word
	Package string // path below the module's root
	Tests   []string
}

// Scenarios are those that are run on each kernel. Tests whose point is a time are not among
// them: without KVM everything takes ten times as long or more.
var Scenarios = []Scenario{
	{"flowtable", "cut", []string{"TestCutOffloaded", "TestCutOffloadedSilently", "TestCutOffloadedDatagrams", "TestCutOffloadedByTuples", "TestCutOffloadedAdmits"}},
	{"streams", "cut", []string{"TestCutStreams", "TestCutOwnFlows"}},
	{"dump", "conntrack", []string{"TestCreateAndDump", "TestCreateTranslated", "TestGetAll", "TestHas", "TestFlush", "TestUpdate", "TestCreateEverything"}},
	{"filter", "conntrack", []string{"TestProbeFilter", "TestFilterHidesNothing", "TestFilterNarrows", "TestIPv6FilterIsUnsound"}},
	{"delete", "conntrack", []string{"TestDeleteMany", "TestDeleteIsExact", "TestDeleteReborn", "TestDeleteRefusesBadKeys", "TestDeleteGarbage"}},
	{"events", "conntrack", []string{"TestEvents", "TestEventKinds", "TestResync", "TestOverrun"}},
	{"expectations", "conntrack", []string{"TestCreateExpectation", "TestGetExpectation", "TestDeleteExpectations", "TestExpectationsOfHelper"}},
	{"nftables", "internal/nft", []string{"TestKernelTakesAllAndNftAgrees", "TestNftListsElements", "TestRanges"}},
	{"flowtable-ipvs-ovs", "internal/detour", []string{"TestRealObstacles", "TestRealIPVS", "TestRealFlowtables"}},
	{"doctor", "internal/doctor", []string{"TestRealKernel", "TestRealDetours", "TestRealFlowtable", "TestRealQueueRule"}},
	{"zones", "cut", []string{"TestCutLeavesNoEntries", "TestSpareTwin"}},
	{"local", "cut", []string{"TestCutRedirected", "TestCutLoopback"}},
	{"spare", "cut", []string{"TestCutSpares", "TestSpareDoesNotOpenTheGuard", "TestCutExcept"}},
	{"datagrams", "cut", []string{"TestCutDatagrams", "TestCutDatagramsNoHold", "TestCutEcho", "TestNewDatagramsDuringCut", "TestCutOtherProtocols"}},
	{"killed", "cmd/flowcut", []string{"TestKilled", "TestInterrupted"}},
	{"detours", "internal/detour", []string{"TestPlainGateways", "TestObstacles", "TestHarmless", "TestBridge"}},
	{"probe", "internal/probe", []string{"TestKinds", "TestOutputDrop", "TestOwnEnds", "TestUnreachableQuotes"}},
	{"mirrors", "cut", []string{"TestCutMirrors", "TestCutNoMirror", "TestCutSparesMirrors"}},
	{"guard", "cut", []string{"TestGuardAnswersWithoutFlow", "TestReinsertedDuringCut", "TestEachPartIsNeeded", "TestCutSamePort"}},
	{"queues", "cut", []string{"TestCutQueued", "TestCutWhileOthersQueue"}},
	{"bridge", "cut", []string{"TestCutBehindBridge"}},
	{"tuples", "cut", []string{"TestCutByTuples", "TestRunAll", "TestCutEarly"}},
	{"fence", "internal/fence", []string{"TestRulesSayWhatMatchSays", "TestRulesSayWhatSetsSay", "TestSharedSets"}},
	{"states", "cut", []string{"TestCutHalfOpen", "TestCutClosing", "TestCutSeeminglyClosed", "TestCutOneWay", "TestCutLeavesNothingHalfOpen"}},
	{"bystanders", "cut", []string{"TestBystanders", "TestCutWhileReconnecting", "TestTwoCuts", "TestReloadDuringCut", "TestNegatedListHarmsNobody"}},
	{"nat", "cut", []string{"TestCutBehindNAT", "TestCutOnGateways", "TestCutFTP", "TestCutFTPDataAlone"}},
}

// Named returns the scenarios with the given names, separated by commas; all
// for "".
func Named(names string) ([]Scenario, error) {
	if names == "" {
		return Scenarios, nil
	}
	var out []Scenario
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(Scenarios, func(s Scenario) bool { return s.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("kernels: no scenario is called %q", name)
		}
		out = append(out, Scenarios[i])
	}
	return out, nil
}

// tag is that of tests that need what this host's kernel may lack.
const tag = "kernels"

// guestTimeout ends a test binary that hangs.
const guestTimeout = "4m"

// run is how a guest runs the scenario.
func (s Scenario) run() plan.Run {
	return plan.Run{
		Name: s.Name,
		Dir:  path.Join("/src", s.Package),
		Args: []string{
			binary(s.Package), "-test.v", "-test.count=1", "-test.timeout=" + guestTimeout,
			"-test.run=^(" + strings.Join(s.Tests, "|") + ")$",
		},
	}
}

// binary is where a guest has the tests of a package.
func binary(pkg string) string {
	return "/test/" + strings.ReplaceAll(pkg, "/", "-") + ".test"
}

// built is where compiled programs are.
type built struct {
	source string // the module's root
	dir    string
	pkgs   []string
}

// build compiles init, the program and the tests of the scenarios for guests.
func build(ctx context.Context, source, dir string, scenarios []Scenario) (*built, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	b := &built{source: source, dir: dir}
	c := command{dir: source, env: []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64"}}
	for name, pkg := range map[string]string{"init": "./internal/kernels/guest", "flowcut": "./cmd/flowcut"} {
		if _, err := c.output(ctx, "go", "build", "-trimpath", "-o", filepath.Join(dir, name), pkg); err != nil {
			return nil, err
		}
	}
	for _, s := range scenarios {
		if slices.Contains(b.pkgs, s.Package) {
			continue
		}
		b.pkgs = append(b.pkgs, s.Package)
		to := filepath.Join(dir, binary(s.Package))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return nil, err
		}
		if _, err := c.output(ctx, "go", "test", "-c", "-tags", tag, "-o", to, "./"+s.Package); err != nil {
			return nil, fmt.Errorf("compile the tests of %s: %w", s.Package, err)
		}
	}
	return b, nil
}

// addTo adds what was compiled and the files that tests read.
func (b *built) addTo(a *archive) error {
	for name, to := range map[string]string{"init": "/init", "flowcut": "/usr/sbin/flowcut"} {
		if err := a.file(to, filepath.Join(b.dir, name)); err != nil {
			return err
		}
	}
	for _, pkg := range b.pkgs {
		if err := a.file(binary(pkg), filepath.Join(b.dir, binary(pkg))); err != nil {
			return err
		}
		if err := a.dir(path.Join("/src", pkg)); err != nil {
			return err
		}
		data := filepath.Join(b.source, pkg, "testdata")
		if _, err := os.Stat(data); err != nil {
			continue
		}
		all := func(string) bool { return true }
		if err := a.tree(path.Join("/src", pkg, "testdata"), data, all); err != nil {
			return err
		}
	}
	return nil
}
