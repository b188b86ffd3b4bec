package bypass_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/bypass"
	"flowcut/internal/fence"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/selector"
)

// moves waits until each end has received more than it had.
func moves(t *testing.T, what string, ends lab.Ends) {
	t.Helper()
	for _, e := range ends {
		had := e.Received.Bytes()
		labtest.Until(t, what, func() bool { return e.Received.Bytes() > had+3 })
	}
}

// Flows that are translated are left alone unless that is forced, whether their
// originators' packets are meant or the answers alone. They do break then.
func TestTranslated(t *testing.T) {
	net := labtest.Standard(t, lab.Config{Clients: 1, Servers: 1})
	server := net.Servers[0]
	labtest.Listen(t, server.Host, beside)
	if err := net.Gateway.Forward(beside, server); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ public, inside netip.Addr }{{net.Gateway.Public4, server.Addr4}, {net.Gateway.Public6, server.Addr6}} {
		talk := lab.Streams{Kind: lab.Talk, To: netip.AddrPortFrom(x.public, beside), Interval: time.Millisecond}
		ends := labtest.Dial(t, net.Clients[0].Host, talk)
		before := labtest.Ruleset(t, net.Gateway.Host)
		for _, dst := range []netip.Addr{x.public, x.inside} {
			words := []string{"bypass", "add", "-p", "tcp", "--dport", "5201", "-d", dst.String()}
			_, stderr := flowcut(t, net.Gateway.Host, 1, words...)
			if !strings.Contains(stderr, "1 flow would break") || !strings.Contains(stderr, x.inside.String()) || !strings.Contains(stderr, "--force") {
				t.Errorf("%q: %s", words, stderr)
			}
			out, _ := flowcut(t, net.Gateway.Host, 0, append(words, "--dry-run", "-o", "json")...)
			var r bypass.Report
			if err := json.Unmarshal([]byte(out), &r); err != nil || r.Entries.Deleted != 1 || r.Entries.Translated != 1 || len(r.Warnings) < 3 || !r.DryRun {
				t.Errorf("%q: %+v, %v", words, r, err)
			}
		}
		if after := labtest.Ruleset(t, net.Gateway.Host); after != before {
			t.Errorf("rules were changed:\n%s", after)
		}
		moves(t, "the connection goes on", ends)
		_, stderr := flowcut(t, net.Gateway.Host, 0, "bypass", "add", "-p", "tcp", "--dport", "5201", "-d", x.inside.String(), "--for", "1h", "--force")
		if !strings.Contains(stderr, "rules translate addresses (") || !strings.Contains(stderr, "nat post") {
			t.Errorf("forced: %s", stderr)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if again, err := net.Clients[0].Dial(ctx, talk); err == nil {
			t.Errorf("a new connection %s: what comes back is translated all the same", again[0].Local)
		}
		cancel()
		flowcut(t, net.Gateway.Host, 0, "bypass", "remove", "--all")
		moves(t, "a new connection passes when it is removed", labtest.Dial(t, net.Clients[0].Host, talk))
	}
}

// Where rules go by state, and drop the rest, that is said with what to do; and
// what is said is true: connections stand still until that is done.
func TestStateful(t *testing.T) {
	net := labtest.Standard(t, lab.Config{Clients: 1, Servers: 1, NoRules: true})
	server, gateway := net.Servers[0], net.Gateway
	labtest.Listen(t, server.Host, attacked)
	labtest.Listen(t, server.Host, beside)
	to := lab.Streams{Kind: lab.Talk, To: netip.AddrPortFrom(server.Addr4, attacked), Interval: time.Millisecond}
	rules := "table ip filter { chain forward { type filter hook forward priority 0; policy drop; ct state established,related accept; ct state new accept; }; }"
	nftables(t, gateway.Host, rules)
	ends := labtest.Dial(t, net.Clients[0].Host, to)
	beyond := to
	beyond.To = netip.AddrPortFrom(server.Addr4, beside)
	others := labtest.Dial(t, net.Clients[0].Host, beyond)
	moves(t, "tracked, it goes on", ends)
	_, stderr := flowcut(t, gateway.Host, 0, "bypass", "add", "-p", "tcp", "--dport", "80", "-d", server.Addr4.String())
	advice := regexp.MustCompile(`nft (insert rule ip filter forward ct state untracked accept)`).FindStringSubmatch(stderr)
	if !strings.Contains(stderr, "rules go by the state of flows (ip filter forward, policy drop)") || advice == nil {
		t.Fatalf("said: %s", stderr)
	}
	had := ends[0].Received.Bytes()
	moves(t, "others go on", others)
	if now := ends[0].Received.Bytes(); now > had+5 {
		t.Errorf("it went on for %d bytes in spite of the policy", now-had)
	}
	nftables(t, gateway.Host, advice[1])
	moves(t, "with what is advised it goes on", ends)
	if _, stderr := flowcut(t, gateway.Host, 0, "bypass", "add", "-p", "tcp", "--dport", "80", "-d", server.Addr4.String()); stderr != "" {
		t.Errorf("with what is advised: %s", stderr)
	}
	if told := append(ends, ends.Peers()...).Told(nil); told != 2 {
		t.Errorf("%d of 2 ends were told nothing", told)
	}
}

func nftables(t *testing.T, h *lab.Host, text string) {
	t.Helper()
	err := h.NS.Do(func() error {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(text + "\n")
		out, err := cmd.CombinedOutput()
		t.Logf("nft: %s", out)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The caller's own connection is not given to rules that may drop it.
func TestOwn(t *testing.T) {
	net := labtest.Standard(t, lab.Config{Clients: 1, Servers: 1, NoRules: true})
	own := []conntrack.Tuple{{Proto: conntrack.ProtoTCP, Src: net.Clients[0].Addr4, SrcPort: 40000, Dst: net.Gateway.Public4, DstPort: 22}}
	add := func(words string, o bypass.Options) error {
		s, err := selector.Parse(strings.Fields(words))
		if err != nil {
			t.Fatal(err)
		}
		o.NetNS, o.Selector, o.Own = net.Gateway.NS.Fd(), s, own
		_, err = bypass.Add(t.Context(), o)
		return err
	}
	if err := add("--dport 22", bypass.Options{}); err != nil {
		t.Errorf("without rules: %v", err)
	}
	tracks(t, net.Gateway, admitting)
	if err := add("--dport 22", bypass.Options{}); err != nil {
		t.Errorf("with rules that admit it: %v", err)
	}
	nftables(t, net.Gateway.Host, "flush ruleset\ntable inet filter { chain input { type filter hook input priority 0; policy drop; ct state established accept; }; }")
	for words, refused := range map[string]bool{"--dport 22": true, "-s 203.0.113.0/24": true, "--dport 23": false, "-f ipv6 --dport 22": false} {
		err := add(words, bypass.Options{})
		r, is := errors.AsType[*bypass.RefusedError](err)
		if is != refused || is && !strings.Contains(r.Error(), "inet filter input, policy drop") {
			t.Errorf("%s: %v", words, err)
		}
	}
	if err := add("--dport 22", bypass.Options{Force: true}); err != nil {
		t.Errorf("forced: %v", err)
	}
}

// What the gateway sends itself is not tracked either, nor what comes back.
func TestOwnTraffic(t *testing.T) {
	net := labtest.Standard(t, lab.Config{Clients: 1, Servers: 1, NoRules: true})
	tracks(t, net.Gateway, admitting)
	server := net.Servers[0]
	labtest.Listen(t, server.Host, attacked)
	labtest.Listen(t, net.Gateway.Host, beside)
	s := &scene{t: t, Topology: net}
	var err error
	if s.ct, err = conntrack.Dial(conntrack.Config{NetNS: net.Gateway.NS.Fd()}); err != nil {
		t.Fatal(err)
	}
	defer s.ct.Close()
	dial := func() (ends lab.Ends) {
		for _, to := range []netip.Addr{server.Addr4, server.Addr6} {
			ends = append(ends, labtest.Dial(t, net.Gateway.Host, lab.Streams{Kind: lab.Talk, To: netip.AddrPortFrom(to, attacked), Interval: time.Millisecond})...)
		}
		return ends
	}
	old := dial()
	if v4, v6 := s.attackedEntries(); v4 != 1 || v6 != 1 {
		t.Fatalf("before: %d and %d entries", v4, v6)
	}
	s.flowcut(0, "bypass", "add", "-p", "tcp", "--dport", "80", "--for", "1h")
	moves(t, "old and new ones go on", append(old, dial()...))
	if v4, v6 := s.attackedEntries(); v4 != 0 || v6 != 0 {
		t.Errorf("in force: %d and %d entries", v4, v6)
	}
}

// With the last bypass its table goes, but not while a packet waits in a queue of
// the namespace: that would be lost.
func TestQueued(t *testing.T) {
	net := labtest.Standard(t, lab.Config{Clients: 1, Servers: 1, NoRules: true})
	gateway, server := net.Gateway, net.Servers[0]
	q, err := gateway.Queue(7)
	if err != nil {
		t.Fatal(err)
	}
	if err := gateway.NS.Do(func() error {
		return exec.Command("iptables", "-w", "-t", "mangle", "-A", "FORWARD", "-p", "udp", "-j", "NFQUEUE", "--queue-num", "7").Run()
	}); err != nil {
		t.Fatal(err)
	}
	udp := []byte{0x9c, 0x40, 0, beside & 0xff, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if err := net.Clients[0].Inject(t.Context(), lab.Packet(net.Clients[0].Addr4, server.Addr4, 17, udp)); err != nil {
		t.Fatal(err)
	}
	held := func() uint32 {
		f, err := fence.New(fence.Config{NetNS: gateway.NS.Fd()})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close() //nolint:errcheck // nothing was changed
		queues, err := f.Queues()
		if err != nil || len(queues) != 1 {
			t.Fatalf("%+v, %v", queues, err)
		}
		return queues[0].Waiting
	}
	labtest.Until(t, "a packet waits", func() bool { return held() == 1 })
	flowcut(t, gateway.Host, 0, "bypass", "add", "-p", "tcp", "--dport", "80")
	flowcut(t, gateway.Host, 0, "bypass", "remove", "1")
	rules := labtest.Ruleset(t, gateway.Host)
	if held() != 1 || !strings.Contains(rules, bypass.Name) || strings.Contains(rules, "bypass1") {
		t.Errorf("%d wait, rules\n%s", held(), rules)
	}
	if err := q.Release(); err != nil {
		t.Fatal(err)
	}
	labtest.Until(t, "none waits", func() bool { return held() == 0 })
	if out, _ := flowcut(t, gateway.Host, 0, "bypass", "list", "-o", "json"); out != "" {
		t.Errorf("listed: %s", out)
	}
	if rules := labtest.Ruleset(t, gateway.Host); strings.Contains(rules, bypass.Name) {
		t.Errorf("left:\n%s", rules)
	}
}
