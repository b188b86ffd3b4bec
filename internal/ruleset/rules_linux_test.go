package ruleset

import (
	"encoding/binary"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"flowcut/internal/lab/labtest"
	"flowcut/internal/netns"
)

// attribute and text write attributes of netlink.
var attribute, text = labtest.Attr, labtest.Text

// Rules with expressions that this kernel was built without (nft_queue) are laid
// out after include/uapi/linux/netfilter/nf_tables.h of Linux 6.18.
func TestParseRule(t *testing.T) {
	expression := func(name string, data ...[]byte) []byte {
		return attribute(1, attribute(1, text(name)), attribute(2, data...)) // NFTA_LIST_ELEM, NFTA_EXPR_NAME, NFTA_EXPR_DATA
	}
	rule := func(table string, expressions ...[]byte) []byte {
		m := append([]byte{unix.NFPROTO_INET, 0, 0, 0}, attribute(1, text(table))...) // NFTA_RULE_TABLE
		m = append(m, attribute(2, text("in"))...)                                    // NFTA_RULE_CHAIN
		return append(m, attribute(4, expressions...)...)                             // NFTA_RULE_EXPRESSIONS
	}
	whole := rule("filter", expression("counter"), expression("queue", attribute(1, []byte{0, 7})))
	got, err := parseRule(whole)
	if diff := cmp.Diff([]Use{{Queue, unix.NFPROTO_INET, "inet filter in"}}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if got, err := parseRule(rule("flowcut-0badcafe", expression("notrack"))); err != nil || got != nil {
		t.Errorf("a fence's rule: %v, %v", got, err)
	}
	short := expression("target", attribute(1, text("CT")), attribute(3, []byte{1})) // NFTA_TARGET_NAME, NFTA_TARGET_INFO
	if got, err := parseRule(rule("raw", short)); err != nil || got != nil {
		t.Errorf("a target without its data: %v, %v", got, err)
	}
	for _, n := range []int{3, len(whole) - 3} {
		if _, err := parseRule(whole[:n]); err == nil {
			t.Errorf("%d of %d bytes are no error", n, len(whole))
		}
	}
}

// Entries of iptables that do not fit into what the kernel sent are an error.
func TestParseLegacy(t *testing.T) {
	l := legacies[0]
	entry := func(target, next uint16, size int) []byte {
		b := make([]byte, size)
		binary.NativeEndian.PutUint16(b[l.offsets:], target)
		binary.NativeEndian.PutUint16(b[l.offsets+2:], next)
		return b
	}
	good := entry(112, 152, 152)
	copy(good[114:], "NOTRACK")
	if got, err := l.parse("raw", make([]byte, 84), append(good, good...)); err != nil || len(got) != 2 || got[0].Kind != Notrack {
		t.Errorf("two entries: %v, %v", got, err)
	}
	for name, bad := range map[string][]byte{
		"too short": good[:60], "next entry beyond the end": entry(112, 200, 152), "no next entry": entry(112, 0, 152),
		"target beyond its entry": entry(140, 152, 152),
	} {
		if _, err := l.parse("raw", make([]byte, 84), bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// What nft(8) and iptables write is read: one rule each, and what it does.
func TestUses(t *testing.T) {
	nft := func(rule string) []string { return []string{"nft", "add", "rule", "ip", "t", "c", rule} }
	iptables := func(program, table, chain string, words ...string) []string {
		return append([]string{program, "-w", "-t", table, "-A", chain}, words...) // other tests may hold the lock
	}
	state := []string{"-m", "conntrack", "--ctstate"}
	for _, tt := range []struct {
		line []string
		want string
	}{
		{nft("tcp dport 80 notrack"), "notrack"},
		{nft("ct state established,related accept"), "state"},
		{nft("ct state established,related,untracked accept"), "untracked"},
		{nft("ct state untracked counter accept"), "untracked"},
		{nft("ct state untracked tcp dport 80 accept"), ""},
		{nft("tcp dport 80 ct state untracked counter accept"), ""},
		{nft("tcp dport 80 ct state established,untracked accept"), ""},
		{nft("ct state untracked drop"), "state"},
		{nft("ct state invalid drop"), ""},
		{nft("ct state invalid,untracked reject"), "state"},
		{nft("ct state != established drop"), "state"},
		{nft("ct state != untracked accept"), "state"},
		{nft("ct state == untracked accept"), "untracked"},
		{nft("ct state vmap { established : accept, untracked : accept }"), "state"},
		{nft("ct state new tcp dport 22 accept"), "state"},
		{nft("ct mark 7 accept"), "flow"},
		{nft("meta mark set ct mark"), "flow"},
		{nft("ct mark set 7"), ""},
		{nft("ct status dnat accept"), "flow"},
		{nft("tcp dport 80 accept"), ""},
		{[]string{"nft", "add", "chain", "ip", "t", "f", "{ type filter hook forward priority 0; policy drop; }"}, "drop"},
		{[]string{"nft", "add", "rule", "ip", "t", "n", "dnat to 192.0.2.1"}, "nat"},
		{[]string{"nft", "add", "rule", "ip", "t", "n", "tcp dport 8080 redirect to :80"}, "nat"},
		{iptables("iptables-nft", "raw", "PREROUTING", "-j", "NOTRACK"), "notrack"},
		{iptables("iptables-nft", "raw", "PREROUTING", "-j", "CT", "--zone", "4"), "zone"},
		{iptables("iptables-nft", "nat", "POSTROUTING", "-j", "MASQUERADE"), "nat"},
		{iptables("iptables-nft", "filter", "FORWARD", append(state, "ESTABLISHED", "-j", "ACCEPT")...), "state"},
		{iptables("iptables-nft", "filter", "FORWARD", append(state, "ESTABLISHED,UNTRACKED", "-j", "ACCEPT")...), "untracked"},
		{iptables("iptables-nft", "filter", "FORWARD", append(state, "INVALID", "-j", "DROP")...), ""},
		{iptables("iptables-nft", "mangle", "PREROUTING", "-j", "CONNMARK", "--restore-mark"), "flow"},
		{iptables("iptables-nft", "mangle", "PREROUTING", "-j", "CONNMARK", "--save-mark"), ""},
		{iptables("iptables-nft", "filter", "FORWARD", "-m", "conntrack", "--ctstatus", "ASSURED", "-j", "ACCEPT"), "flow"},
		{iptables("iptables-legacy", "filter", "FORWARD", "-m", "connmark", "--mark", "7", "-j", "ACCEPT"), "flow"},
		{iptables("iptables-legacy", "filter", "FORWARD", append(state, "UNTRACKED", "-j", "ACCEPT")...), "untracked"},
		{iptables("ip6tables-legacy", "filter", "FORWARD", append(state, "UNTRACKED", "-j", "ACCEPT")...), "untracked"},
		{iptables("ip6tables-legacy", "filter", "FORWARD", append([]string{"-i", "lo"}, append(state, "UNTRACKED", "-j", "ACCEPT")...)...), ""},
		{iptables("iptables-legacy", "filter", "FORWARD", append(state, "INVALID,UNTRACKED", "-j", "DROP")...), "state"},
		{iptables("iptables-legacy", "raw", "PREROUTING", "-j", "CT", "--notrack"), "notrack"},
		{iptables("iptables-legacy", "nat", "PREROUTING", "-p", "tcp", "-j", "DNAT", "--to-destination", "192.0.2.1"), "nat"},
		{iptables("iptables-legacy", "filter", "FORWARD", append(state, "ESTABLISHED", "-j", "ACCEPT")...), "state"},
		{iptables("iptables-legacy", "filter", "FORWARD", append([]string{"-p", "tcp", "-m", "tcp", "--dport", "80"}, append(state, "ESTABLISHED,UNTRACKED", "-j", "ACCEPT")...)...), ""},
		{iptables("iptables-legacy", "filter", "FORWARD", append(state, "INVALID", "-j", "DROP")...), ""},
		{iptables("ip6tables-legacy", "filter", "INPUT", append(state, "ESTABLISHED", "-j", "ACCEPT")...), "state"},
	} {
		ns, err := netns.New()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		err = ns.Do(func() error {
			setUp := exec.Command("nft", "add table ip t; add chain ip t c; add chain ip t n { type nat hook prerouting priority dstnat; }")
			if out, err := setUp.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			if out, err := exec.Command(tt.line[0], tt.line[1:]...).CombinedOutput(); err != nil {
				if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() == 2 || strings.Contains(string(out), "syntax error") {
					t.Errorf("%q: %v: %s", tt.line, err, out) // 2 is what iptables says of wrong usage
				}
				t.Logf("passed over: %q: %v: %s", tt.line, err, out) // this kernel has no such thing
				got = []string{tt.want}
				return nil
			}
			uses, hidden, err := readUses()
			if hidden {
				t.Errorf("%q: hidden", tt.line)
			}
			for _, u := range uses {
				got = append(got, string(u.Kind))
			}
			return err
		})
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != tt.want || err != nil {
			t.Errorf("%q: %q, error %v, want %q", tt.line, got, err, tt.want)
		}
	}
}

// Where a rule of iptables-legacy is has its chain: one that lets pass what is not
// tracked in one chain says nothing of another.
func TestLegacyChains(t *testing.T) {
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	var got []string
	err = ns.Do(func() error {
		script := "set -e; for p in iptables ip6tables; do i=$p-legacy; $i -w -P FORWARD DROP; $i -w -A INPUT -m conntrack --ctstate UNTRACKED -j ACCEPT;" +
			" $i -w -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT; $i -w -N mine; $i -w -A mine -m conntrack --ctstate NEW -j ACCEPT; done"
		if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
			t.Fatalf("iptables-legacy: %v: %s", err, out)
		}
		uses, _, err := readUses()
		for _, u := range uses {
			got = append(got, string(u.Kind)+" "+u.Where)
		}
		return err
	})
	var want []string
	for _, family := range []string{"ip", "ip6"} {
		for _, use := range []string{"untracked " + family + " filter INPUT", "state " + family + " filter FORWARD", "drop " + family + " filter FORWARD", "state " + family + " filter mine"} {
			want = append(want, use+" of iptables-legacy")
		}
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
}
