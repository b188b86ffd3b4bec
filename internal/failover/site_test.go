//go:build linux

package failover

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/selector"
)

const (
	port  = 5201 // of the server, cut
	other = 5202 // and not
)

// site is a pair of gateways, both with a daemon and with both ports of the
// server forwarded.
type site struct {
	*lab.Pair
	t       testing.TB
	daemons [2]*daemon
}

// plan says what a site is like.
type plan struct {
	settings
	sysctls map[string]string
	late    bool // daemons are started by the test
}

func newSite(t testing.TB, c plan) *site {
	t.Helper()
	p, err := lab.NewPair(labtest.Context(t), c.sysctls)
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	s := &site{Pair: p, t: t}
	for _, port := range []uint16{port, other} {
		labtest.Listen(t, p.Server.Host, port)
		for _, g := range p.Gateways {
			must(t, g.Forward(port, p.Server))
		}
	}
	for _, g := range p.Gateways {
		// What the server sends over UDP by itself would begin a new flow, which
		// the lab's rules admit.
		for _, family := range []string{"ip", "ip6"} {
			shell(t, g.Host, "nft", "table "+family+" strict { chain forward { type filter hook forward priority -10; iifname lan udp sport 5201 ct state new drop; }; }")
		}
	}
	if !c.late {
		s.start(c.settings)
	}
	return s
}

// start starts both daemons.
func (s *site) start(set settings) {
	s.t.Helper()
	for n := range s.daemons {
		s.daemons[n] = start(s.t, s.Pair, n, set)
	}
}

// at is where clients reach a port.
func (s *site) at(port uint16, v6 bool) netip.AddrPort {
	if v6 {
		return netip.AddrPortFrom(s.Gateways[0].Public6, port)
	}
	return netip.AddrPortFrom(s.Gateways[0].Public4, port)
}

// off turns the DMZ off for the port that is cut, on both gateways.
func (s *site) off() {
	s.t.Helper()
	for _, g := range s.Gateways {
		must(s.t, g.Unforward(port))
	}
}

// toServer selects what comes to the port that is cut.
func (s *site) toServer() selector.Selector {
	s.t.Helper()
	return parse(s.t, "--dst-nat", "--reply-src", s.Server.Addr4.String()+","+s.Server.Addr6.String(), "--dport", text(port))
}

func parse(t testing.TB, args ...string) selector.Selector {
	t.Helper()
	sel, err := selector.Parse(args)
	must(t, err)
	return sel
}

// cut cuts on a gateway and logs the receipt.
func (s *site) cut(n int, o cut.Options) *cut.Receipt {
	s.t.Helper()
	o.NetNS = s.Gateways[n].NS.Fd()
	r, err := cut.Run(labtest.Context(s.t), o)
	must(s.t, err)
	b, err := json.Marshal(r)
	must(s.t, err)
	s.t.Logf("receipt %s", b)
	return r
}

// quick are options for a cut whose guard need not stand long.
func quick(sel selector.Selector) cut.Options {
	return cut.Options{Selector: sel, Settle: 200 * time.Millisecond, Hold: 400 * time.Millisecond}
}

// flows returns the entries of gateway n that a selector means.
func (s *site) flows(n int, sel selector.Selector) (out []*conntrack.Flow) {
	s.t.Helper()
	c, err := conntrack.Dial(conntrack.Config{NetNS: s.Gateways[n].NS.Fd()})
	must(s.t, err)
	defer c.Close()
	for f, err := range c.Dump(labtest.Context(s.t), conntrack.Filter{}) {
		must(s.t, err)
		if sel.Match(f) {
			out = append(out, f.Clone())
		}
	}
	return out
}

// delete deletes entries of gateway n as conntrack -D does.
func (s *site) delete(n int, sel selector.Selector) {
	s.t.Helper()
	c, err := conntrack.Dial(conntrack.Config{NetNS: s.Gateways[n].NS.Fd()})
	must(s.t, err)
	defer c.Close()
	var keys []conntrack.Key
	for _, f := range s.flows(n, sel) {
		keys = append(keys, f.Key())
	}
	_, err = c.Delete(labtest.Context(s.t), keys, nil)
	must(s.t, err)
}

// replicated waits until the standby knows n flows to a port.
func (s *site) replicated(n int, port uint16, words ...string) {
	s.t.Helper()
	labtest.Until(s.t, fmt.Sprintf("the standby knows %d flows to %d", n, port), func() bool {
		return s.daemons[1].count("-e", append(words, dport(port))...) == n
	})
}

func dport(port uint16) string { return fmt.Sprintf("dport=%d ", port) }

// takeOver makes the other gateway fail and gateway n take over.
func (s *site) takeOver(n int) {
	s.t.Helper()
	must(s.t, s.Fail(s.Gateways[1-n]))
	must(s.t, s.TakeOver(labtest.Context(s.t), s.Gateways[n]))
	s.daemons[n].primary()
}

// shell runs a program inside a host.
func shell(t testing.TB, h *lab.Host, args ...string) string {
	t.Helper()
	var out []byte
	err := h.NS.Do(func() (err error) {
		out, err = exec.Command(args[0], args[1:]...).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// both returns the ends of connections at both sides.
func both(es ...lab.Ends) lab.Ends {
	var out lab.Ends
	for _, e := range es {
		out = append(append(out, e...), e.Peers()...)
	}
	return out
}

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

func text[T int | uint16](port T) string { return fmt.Sprint(port) }
