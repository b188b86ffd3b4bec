package conntrack

import (
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// ftpNet is the standard network with an FTP server on either side, the one
// inside forwarded, and the kernel's helper on the gateway; and a client there.
func ftpNet(t testing.TB) (*lab.Topology, *Client) {
	t.Helper()
	net := labtest.Standard(t, lab.Config{})
	for _, err := range []error{
		net.Clients[0].ListenFTP(21), net.Servers[0].ListenFTP(21), net.Gateway.Forward(21, net.Servers[0]),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, family := range []string{"ip", "ip6"} {
		inside(t, net.Gateway.Host, "nft", `table `+family+` helper {
			ct helper ftp { type "ftp" protocol tcp; l3proto `+family+`; }
			chain pre { type filter hook prerouting priority -150; tcp dport 21 ct helper set "ftp"; }
		}`)
	}
	var c *Client
	if err := net.Gateway.NS.Do(func() (err error) {
		c, err = Dial(Config{})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return net, c
}

// inside runs a program inside a host and returns what it says on its output.
func inside(t testing.TB, h *lab.Host, args ...string) string {
	t.Helper()
	var out []byte
	err := h.NS.Do(func() (err error) {
		out, err = exec.Command(args[0], args[1:]...).Output()
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}

// ask makes the gateway expect four data connections: passive ones from
// outside to the forwarded server, active ones from outside to a client that
// is masqueraded.
func ask(t testing.TB, net *lab.Topology) {
	t.Helper()
	g, inner, outer := net.Gateway, net.Servers[0], net.Clients[0]
	for _, to := range []netip.Addr{g.Public4, g.Public6} {
		f, err := net.Clients[1].FTP(labtest.Context(t), netip.AddrPortFrom(to, 21))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Pasv(labtest.Context(t)); err != nil {
			t.Fatal(err)
		}
	}
	for _, to := range []netip.Addr{outer.Addr4, outer.Addr6} {
		f, err := inner.FTP(labtest.Context(t), netip.AddrPortFrom(to, 21))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Port(labtest.Context(t)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestExpectationsOfHelper holds what the kernel's FTP helper expects to what
// conntrack(8) lists, and deletes it.
func TestExpectationsOfHelper(t *testing.T) {
	net, c := ftpNet(t)
	ask(t, net)
	got := expectations(t, c, FamilyBoth)
	var lines []string
	for i := range got {
		e := &got[i]
		if e.Helper != "ftp" || e.Class != 0 || e.Flags != 0 {
			t.Errorf("helper %q, class %d, flags %#x of %v", e.Helper, e.Class, e.Flags, e.Tuple)
		}
		if e.Func != "nat-follow-master" || e.NAT.SrcPort == 0 || e.NAT.Proto != ProtoTCP {
			t.Errorf("translation of %v: %q, %v", e.Tuple, e.Func, e.NAT)
		}
		if active := e.Master.Src == net.Servers[0].Addr4 || e.Master.Src == net.Servers[0].Addr6; e.NATReply != active {
			t.Errorf("translation of %v in the reply direction: %v", e.Tuple, e.NATReply)
		}
		lines = append(lines, expectLine(e))
	}
	slices.Sort(lines)
	var want []string
	for _, family := range []string{"ipv4", "ipv6"} {
		listed := inside(t, net.Gateway.Host, "conntrack", "-L", "expect", "-f", family)
		for line := range strings.Lines(listed) {
			_, rest, _ := strings.Cut(strings.TrimSpace(line), " ") // without the timeout
			want = append(want, rest)
		}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, lines); diff != "" || len(lines) != 4 {
		t.Fatalf("%d expectations, conntrack(8) against ours (-want +got):\n%s", len(lines), diff)
	}
	for i := range got {
		t.Run(got[i].Tuple.String(), func(t *testing.T) { deleteFound(t, c, &got[i]) })
	}
}

// expectLine writes e as conntrack(8) does, without the timeout.
func expectLine(e *Expectation) string {
	ends := func(prefix string, t Tuple) string {
		return fmt.Sprintf("%ssrc=%v %sdst=%v sport=%d dport=%d ", prefix, t.Src, prefix, t.Dst, t.SrcPort, t.DstPort)
	}
	return fmt.Sprintf("proto=%d %s%s%sclass=%d helper=%s", e.Tuple.Proto,
		ends("", e.Tuple), ends("mask-", e.Mask), ends("master-", e.Master), e.Class, e.Helper)
}

// deleteFound gets and deletes what a dump has shown.
func deleteFound(t *testing.T, c *Client, e *Expectation) {
	back, err := c.GetExpectation(t.Context(), e.Tuple, 0)
	if err != nil {
		t.Fatal(err)
	}
	if back.Timeout > e.Timeout || back.Timeout < e.Timeout-10*time.Second {
		t.Errorf("timeout %v, then %v", e.Timeout, back.Timeout)
	}
	back.Timeout = e.Timeout
	if diff := cmp.Diff(*e, back, cmpAddr); diff != "" {
		t.Errorf("dump and get (-dump +get):\n%s", diff)
	}
	before := len(expectations(t, c, FamilyBoth))
	if n, err := c.DeleteExpectations(t.Context(), []ExpectationKey{e.Key()}, nil); n != 1 || err != nil {
		t.Errorf("deleted %d, %v", n, err)
	}
	if left := len(expectations(t, c, FamilyBoth)); left != before-1 {
		t.Errorf("%d of %d expectations are left", left, before)
	}
}
