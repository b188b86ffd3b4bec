package bypass

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/example"
	"flowcut/internal/ruleset"
)

// What may break is said, of the families that are meant, and what does no harm is not.
func TestJudge(t *testing.T) {
	const ip, ip6, inet, bridge = unix.NFPROTO_IPV4, unix.NFPROTO_IPV6, unix.NFPROTO_INET, unix.NFPROTO_BRIDGE
	helped, offloaded := *example.Flows()["unreplied"], *example.Flows()["unreplied"]
	helped.Helper = "ftp\x1b"
	offloaded.Status |= conntrack.StatusOffload
	for _, tt := range []struct {
		words, refused, warned string // pieces of what is said, in their order; "" for nothing
		uses                   []ruleset.Use
		flows                  []*conntrack.Flow
		hidden                 bool
		unseen                 bool // the caller's own connection
	}{
		{words: "--dport 53"},
		{words: "--dport 53", warned: "rules translate addresses (ip nat post)", uses: []ruleset.Use{{Kind: ruleset.NAT, Family: ip, Where: "ip nat post"}, {Kind: ruleset.NAT, Family: ip, Where: "ip nat post"}}},
		{words: "-f ipv6 --dport 53", uses: []ruleset.Use{{Kind: ruleset.NAT, Family: ip, Where: "ip nat post"}}},
		{words: "-f ipv6 --dport 53", warned: "rules translate addresses (ip6 nat post; inet nat post)", uses: []ruleset.Use{{Kind: ruleset.NAT, Family: ip6, Where: "ip6 nat post"}, {Kind: ruleset.NAT, Family: inet, Where: "inet nat post"}, {Kind: ruleset.NAT, Family: bridge, Where: "bridge b c"}}},
		{words: "--dport 53", warned: "(ip filter forward, policy drop)|nft insert rule ip filter forward ct state untracked accept", uses: []ruleset.Use{{Kind: ruleset.State, Family: ip, Where: "ip filter forward"}, {Kind: ruleset.Drop, Family: ip, Where: "ip filter forward"}}},
		{words: "--dport 53", uses: []ruleset.Use{{Kind: ruleset.State, Family: ip, Where: "ip filter forward"}, {Kind: ruleset.Untracked, Family: ip, Where: "ip filter forward"}}},
		{words: "--dport 53", warned: "(ip filter input)|", uses: []ruleset.Use{{Kind: ruleset.State, Family: ip, Where: "ip filter input"}, {Kind: ruleset.Untracked, Family: ip, Where: "ip filter forward"}}},
		{words: "--dport 53", warned: "iptables-legacy -t filter -I INPUT -m conntrack --ctstate UNTRACKED -j ACCEPT", uses: []ruleset.Use{{Kind: ruleset.State, Family: ip, Where: "ip filter INPUT of iptables-legacy"}, {Kind: ruleset.Untracked, Family: ip, Where: "ip filter FORWARD of iptables-legacy"}}},
		{words: "--dport 53", warned: "INPUT of iptables-legacy, policy drop)|ip6tables-legacy -t filter -I INPUT ", uses: []ruleset.Use{{Kind: ruleset.State, Family: ip6, Where: "ip6 filter INPUT of iptables-legacy"}, {Kind: ruleset.Drop, Family: ip6, Where: "ip6 filter INPUT of iptables-legacy"}}},
		{words: "--dport 53", warned: "what else only a flow has, such as its mark (ip t c)", uses: []ruleset.Use{{Kind: ruleset.Flow, Family: ip, Where: "ip t c"}}},
		{words: "--dport 53", warned: "cannot see which connection this is run through|(ip t c)|such as its mark", uses: []ruleset.Use{{Kind: ruleset.Flow, Family: ip, Where: "ip t c"}}, unseen: true},
		{words: "--dport 53", unseen: true},
		{words: "--dport 53", warned: "SYNPROXY (ip t c)", uses: []ruleset.Use{{Kind: ruleset.Synproxy, Family: ip, Where: "ip t c"}}},
		{words: "--dport 53", warned: "zones (ip t c)", uses: []ruleset.Use{{Kind: ruleset.Zone, Family: ip, Where: "ip t c"}, {Kind: ruleset.Queue, Family: ip, Where: "ip t c"}}},
		{words: "--dport 53", warned: `1 flow with the helper "ftp\x1b": `, flows: []*conntrack.Flow{&helped}},
		{words: "--dport 53", warned: "1 flow in a flowtable", flows: []*conntrack.Flow{&offloaded}},
		{words: "--dport 53", warned: "iptables-legacy are not to be seen", hidden: true},
		{words: "--dport 53", refused: "1 flow would break: |such as 192.168.1.5:5000 => 203.0.113.1:61000 -> 198.51.100.9:53", flows: []*conntrack.Flow{example.Flows()["masquerade"]}},
	} {
		sel := parse(t, tt.words)
		s := survey{o: Options{Selector: sel, Hidden: tt.unseen}, meant: meant{sel}, uses: tt.uses, hidden: tt.hidden}
		for _, f := range tt.flows {
			if !s.meant.flow(f) {
				t.Fatalf("%s does not mean %v", tt.words, f.Orig)
			}
			s.note(f)
		}
		refusals, warnings := s.judge()
		for _, x := range []struct {
			said []string
			want string
		}{{refusals, tt.refused}, {warnings, tt.warned}} {
			text := strings.Join(x.said, "\n")
			if x.want == "" && text != "" || len(x.said) > 1 && !tt.unseen {
				t.Errorf("%s: said %q, want %q", tt.words, text, x.want)
			}
			for piece := range strings.SplitSeq(x.want, "|") {
				if !strings.Contains(text, piece) {
					t.Errorf("%s: said %q, want %q", tt.words, text, piece)
				}
			}
		}
	}
}
