package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"flowcut/conntrack"
	"flowcut/internal/netns"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"flowcut": func() { runMain() },
		"flowcut-as-nobody": func() {
			must(syscall.Setgroups(nil))
			must(syscall.Setgid(65534))
			must(syscall.Setuid(65534))
			runMain()
		},
	})
}

// runMain is what cmd/flowcut does.
func runMain() {
	ctx, stop := NotifySignals(WithStart(context.Background(), time.Now()))
	code := Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
}

// TestScripts runs the program, a behaviour a script. Beside testscript's own
// commands there are:
//
//	scratch            make a network namespace, $NS is its path
//	flows NAME...      put flows into it, all without names
//	exits CODE CMD...  run a command and hold it to its exit code
//	inside CMD...      run a command in the namespace
//	sorted             sort the lines of the last standard output into "sorted"
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"scratch": scratch,
			"flows":   putFlows,
			"exits":   exits,
			"inside":  inside,
			"sorted":  sorted,
		},
	})
}

// scratch makes a namespace without a name, so that nothing can be left behind.
func scratch(ts *testscript.TestScript, _ bool, _ []string) {
	ns, err := netns.New()
	ts.Check(err)
	ts.Defer(func() { _ = ns.Close() })
	ts.Setenv("NS", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()))
}

// namespaceOf opens the script's namespace.
func namespaceOf(ts *testscript.TestScript) *netns.NS {
	ns, err := netns.Open(ts.Getenv("NS"))
	ts.Check(err)
	ts.Defer(func() { _ = ns.Close() })
	return ns
}

func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	err = ts.Exec(args[1], args[2:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

func inside(ts *testscript.TestScript, neg bool, args []string) {
	var out, errs strings.Builder
	ts.Check(namespaceOf(ts).Do(func() error {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); (err != nil) != neg {
			return fmt.Errorf("%q: %v: %s", args, err, errs.String())
		}
		return nil
	}))
	_, _ = fmt.Fprint(ts.Stdout(), out.String())
	_, _ = fmt.Fprint(ts.Stderr(), errs.String())
}

func sorted(ts *testscript.TestScript, _ bool, _ []string) {
	lines := strings.SplitAfter(ts.ReadFile("stdout"), "\n")
	slices.Sort(lines)
	ts.Check(os.WriteFile(ts.MkAbs("sorted"), []byte(strings.Join(lines, "")), 0o600))
}

func putFlows(ts *testscript.TestScript, _ bool, names []string) {
	c, err := conntrack.Dial(conntrack.Config{NetNS: namespaceOf(ts).Fd()})
	ts.Check(err)
	defer c.Close()
	known := exampleFlows()
	if len(names) == 0 {
		for name := range known {
			names = append(names, name)
		}
	}
	for _, name := range names {
		f, ok := known[name]
		if !ok {
			ts.Fatalf("unknown flow %q", name)
		}
		f.Has |= conntrack.AttrStatus | conntrack.AttrTimeout
		f.Timeout = 5 * 24 * time.Hour
		if err := c.Create(context.Background(), f); err != nil {
			ts.Fatalf("%s: %v", name, err)
		}
	}
}

// exampleFlows returns a flow of each kind.
func exampleFlows() map[string]*conntrack.Flow {
	const (
		dnat, snat     = conntrack.StatusDstNAT, conntrack.StatusSrcNAT
		seen, assured  = conntrack.StatusSeenReply, conntrack.StatusAssured
		tcp, udp, sctp = conntrack.ProtoTCP, conntrack.ProtoUDP, conntrack.ProtoSCTP
		hasTCP         = conntrack.AttrReply | conntrack.AttrTCP
	)
	shaken := conntrack.TCP{State: conntrack.TCPEstablished, OrigFlags: 0x23, ReplyFlags: 0x23, OrigWScale: 7, ReplyWScale: 7}
	adopted := conntrack.TCP{State: conntrack.TCPEstablished, OrigFlags: 0x0a, ReplyFlags: 0x0a}
	return map[string]*conntrack.Flow{
		"dnat": {Has: hasTCP, Status: dnat | seen | assured, TCP: shaken,
			Orig: portTuple(tcp, "203.0.113.2:47274", "203.0.113.1:5201"), Reply: portTuple(tcp, "192.168.1.100:5201", "203.0.113.2:47274")},
		"dnat6": {Has: hasTCP, Status: dnat | seen | assured, TCP: shaken,
			Orig: portTuple(tcp, "[2001:db8::2]:40000", "[2001:db8:1::1]:443"), Reply: portTuple(tcp, "[2001:db8:2::1]:8443", "[2001:db8::2]:40000")},
		"zombie": {Has: hasTCP, Status: snat | seen | assured, TCP: adopted,
			Orig: portTuple(tcp, "192.168.1.100:80", "203.0.113.2:47275"), Reply: portTuple(tcp, "203.0.113.2:47275", "203.0.113.1:8080")},
		"both": {Has: hasTCP | conntrack.AttrMark, Status: dnat | snat | seen | assured, TCP: shaken, Mark: 0x15,
			Orig: portTuple(tcp, "192.168.1.6:40000", "203.0.113.1:8443"), Reply: portTuple(tcp, "192.168.1.100:443", "192.168.1.1:61000")},
		"masquerade": {Has: conntrack.AttrReply, Status: snat | seen,
			Orig: portTuple(udp, "192.168.1.5:5000", "198.51.100.9:53"), Reply: portTuple(udp, "198.51.100.9:53", "203.0.113.1:61000")},
		"unreplied": {Orig: portTuple(udp, "192.168.1.7:5000", "198.51.100.9:53")},
		"zone":      {Has: conntrack.AttrZone, Zone: 7, Orig: portTuple(udp, "192.168.1.7:5000", "198.51.100.9:53")},
		"orig-zone": {Has: conntrack.AttrOrigZone, OrigZone: 8, Orig: portTuple(udp, "192.168.1.7:5001", "198.51.100.9:53")},
		"udplite":   {Orig: portTuple(conntrack.ProtoUDPLite, "192.168.1.7:5000", "198.51.100.9:53")},
		"sctp": {Has: conntrack.AttrSCTP, SCTP: conntrack.SCTP{State: 4, OrigVTag: 5, ReplyVTag: 6},
			Status: seen, Orig: portTuple(sctp, "192.168.1.7:5000", "198.51.100.9:53")},
		"icmp": {Has: conntrack.AttrReply, Status: snat,
			Orig: icmpTuple(conntrack.ProtoICMP, "192.168.1.6", "198.51.100.9", 8), Reply: icmpTuple(conntrack.ProtoICMP, "198.51.100.9", "203.0.113.1", 0)},
		"icmpv6": {Orig: icmpTuple(conntrack.ProtoICMPv6, "2001:db8::1", "2001:db8::2", 128)},
		"gre":    {Orig: portTuple(conntrack.ProtoGRE, "192.168.1.6:1", "198.51.100.9:2")},
		"esp":    {Orig: bareTuple(50, "192.168.1.6", "198.51.100.9")},
		"compat": {Orig: bareTuple(200, "::1.2.3.4", "::ffff:1.2.3.4")},
	}
}

func portTuple(p conntrack.Proto, src, dst string) conntrack.Tuple {
	a, b := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	return conntrack.Tuple{Proto: p, Src: a.Addr(), SrcPort: a.Port(), Dst: b.Addr(), DstPort: b.Port()}
}

func bareTuple(p conntrack.Proto, src, dst string) conntrack.Tuple {
	return conntrack.Tuple{Proto: p, Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst)}
}

func icmpTuple(p conntrack.Proto, src, dst string, kind uint8) conntrack.Tuple {
	t := bareTuple(p, src, dst)
	t.ICMPID, t.ICMPType = 77, kind
	return t
}
