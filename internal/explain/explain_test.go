package explain

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/example"
	"flowcut/selector"
)

// now is the time in these tests.
var now = time.Date(2026, 11, 1, 8, 7, 3, 0, time.UTC)

// settings are those of a gateway that has the values that kernels come with.
func settings() *Settings {
	values := map[string]int{
		keyAcct: 0, keyTimestamp: 0, keyEvents: 2, keyLoose: 1, keyMax: 1000, keyCount: 12, keyUnacked: 300, keyRetrans: 300,
		keyFlowTCP: 30, keyFlowUDP: 30, prefix + "udp_timeout": 30, prefix + "udp_timeout_stream": 120, prefix + "icmp_timeout": 30,
		prefix + "tcp_timeout_established": 432000, prefix + "tcp_timeout_syn_sent": 120, prefix + "tcp_timeout_time_wait": 120,
	}
	return &Settings{Now: now, Values: values, Own: []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("192.168.1.1")}}
}

// flow returns a flow of the examples, as a table has it.
func flow(name string, change func(*conntrack.Flow)) *conntrack.Flow {
	f := example.Flows()[name]
	f.Has |= conntrack.AttrOrig | conntrack.AttrStatus | conntrack.AttrTimeout | conntrack.AttrID
	if f.Has&conntrack.AttrReply == 0 {
		f.Has, f.Reply = f.Has|conntrack.AttrReply, f.Orig.Invert()
	}
	if change != nil {
		change(f)
	}
	return f
}

// about returns what is said on a topic, in one line.
func about(list []Statement, topic string) string {
	var out []string
	for _, s := range list {
		if s.Topic == topic {
			out = append(out, strings.TrimSpace(s.Text+" "+s.Command))
		}
	}
	return strings.Join(out, " ")
}

func subject(name string, change func(*conntrack.Flow)) *Subject {
	return &Subject{Flow: flow(name, change)}
}

// left gives a flow so many seconds.
func left(seconds int) func(*conntrack.Flow) {
	return func(f *conntrack.Flow) { f.Timeout = time.Duration(seconds) * time.Second }
}

// noFlags leaves out what lines and events of the end do not have.
func noFlags(f *conntrack.Flow) { f.TCP.OrigFlags, f.TCP.ReplyFlags = 0, 0 }

// sayings are what is said of flows on a topic.
var sayings = map[string]struct {
	s     *Subject
	topic string
	want  string
}{
	"who":  {subject("dnat", nil), "opened", "203.0.113.2 opened it, to 203.0.113.1 (this host), port 5201."},
	"age":  {subject("dnat", func(f *conntrack.Flow) { f.Has, f.Start = f.Has|conntrack.AttrStart, now.Add(-time.Hour) }), "opened", "203.0.113.2 opened it, to 203.0.113.1 (this host), port 5201, 1h ago."},
	"ping": {subject("icmp", nil), "opened", "192.168.1.6 pings 198.51.100.9 (echo requests with id 77)."},
	"who of a line": {&Subject{Flow: flow("dnat", noFlags), Place: Unasked, Line: true, Known: conntrack.StatusSeenReply}, "opened",
		"203.0.113.2 opened it, to 203.0.113.1 (this host), port 5201, unless it was taken up in mid-stream, which the text does not tell."},
	"who of its end": {&Subject{Flow: flow("dnat", noFlags), Place: Gone, Event: conntrack.EventDestroy}, "opened",
		"203.0.113.2 opened it, to 203.0.113.1 (this host), port 5201, unless it was taken up in mid-stream, which the text does not tell."},
	"who of a SYN": {&Subject{Flow: flow("dnat", func(f *conntrack.Flow) { f.TCP = conntrack.TCP{State: conntrack.TCPSynSent} }), Place: Gone, Line: true}, "opened",
		"203.0.113.2 opened it, to 203.0.113.1 (this host), port 5201."},
	"who of JSON":   {&Subject{Flow: flow("dnat", nil), Place: Gone}, "opened", "203.0.113.2 opened it, to 203.0.113.1 (this host), port 5201."},
	"picked up who": {subject("zombie", nil), "opened", "Who opened it is not known: connection tracking took it up in mid-stream, from a packet of 192.168.1.100 to 203.0.113.2. Often it is the other end that opened it."},

	"dnat": {subject("dnat", nil), "nat", "The destination is translated (DNAT): what is sent to 203.0.113.1:5201 goes to 192.168.1.100:5201. Rules were asked about its first packet alone: to change or remove the rule changes nothing for this flow."},
	"redirect": {subject("dnat", func(f *conntrack.Flow) { f.Orig.Dst, f.Reply.Src = f.Reply.Src, netip.MustParseAddr("192.168.1.1") }), "nat",
		"The destination is translated (REDIRECT, or DNAT to this host): what is sent to 192.168.1.100:5201 goes to 192.168.1.1:5201. Rules were asked about its first packet alone: to change or remove the rule changes nothing for this flow."},
	"masquerade": {subject("masquerade", nil), "nat", "The source is translated (masquerade, or SNAT to an address of this host; the entry does not say which): 198.51.100.9 sees 192.168.1.5:5000 as 203.0.113.1:61000. Rules were asked about its first packet alone: to change or remove the rule changes nothing for this flow."},
	"both":       {subject("both", nil), "nat", "The destination is translated (DNAT): what is sent to 203.0.113.1:8443 goes to 192.168.1.100:443. The source is translated (masquerade, or SNAT to an address of this host; the entry does not say which): 192.168.1.100 sees 192.168.1.6:40000 as 192.168.1.1:61000. Rules were asked about its first packet alone: to change or remove the rule changes nothing for this flow."},
	"none":       {subject("unreplied", nil), "nat", "Nothing is translated: each end sees the other's own address."},
	"no status":  {subject("dnat", func(f *conntrack.Flow) { f.Status &^= conntrack.StatusDstNAT }), "nat", "The two directions differ, but the status says neither SRC_NAT nor DST_NAT: nothing is translated. A program made the entry so."},

	"established":         {subject("dnat", nil), "state", "ESTABLISHED: the connection is open, and data may flow both ways. Next: FIN_WAIT when an end says goodbye, CLOSE when one resets it."},
	"no status, no state": {subject("masquerade", func(f *conntrack.Flow) { f.Has, f.Status = f.Has&^conntrack.AttrStatus, 0 }), "state", "The protocol's state was not told."},
	"no status, no flags": {subject("masquerade", func(f *conntrack.Flow) { f.Has, f.Status = f.Has&^conntrack.AttrStatus, 0 }), "flag", ""},
	"one way":             {subject("unreplied", nil), "state", "One way: only the originator has sent. Next: answered, with the first packet back."},
	"answered":            {subject("masquerade", nil), "state", "Answered: both ends have sent, but not for long. Next: a stream (ASSURED), when packets still come two seconds after the first."},
	"stream":              {subject("masquerade", func(f *conntrack.Flow) { f.Status |= conntrack.StatusAssured }), "state", "Stream: both ends have sent, for more than two seconds."},
	"offloaded":           {subject("dnat", func(f *conntrack.Flow) { f.Status |= conntrack.StatusOffload }), "state", "Offloaded: a flowtable forwards its packets past connection tracking, so the protocol's state is not followed."},

	"kept":       {subject("dnat", left(431990)), "kept", "Without another packet the entry ends in 4d23h (431990 s). Each packet sets it to net.netfilter.nf_conntrack_tcp_timeout_established = 432000 (5d). So the last one came about 10s ago, unless a timeout policy of nftables or iptables says otherwise."},
	"kept more":  {subject("unreplied", left(31)), "kept", "Without another packet the entry ends in 31s. Each packet sets it to net.netfilter.nf_conntrack_udp_timeout = 30. It has more than that: a timeout policy (ct timeout of nftables, CT --timeout of iptables) or a program gave it that, or the setting was larger."},
	"kept stuck": {subject("dnat", left(290)), "kept", "Without another packet the entry ends in 4m50s (290 s). Each packet sets it to net.netfilter.nf_conntrack_tcp_timeout_established = 432000 (5d). So the last one came about 4d23h ago, unless a timeout policy of nftables or iptables says otherwise, or an end repeats itself without an answer, or keeps its window closed: then it is net.netfilter.nf_conntrack_tcp_timeout_max_retrans = 300."},
	"kept unacknowledged": {subject("dnat", func(f *conntrack.Flow) { f.Timeout, f.TCP.OrigFlags = 300*time.Second, 0x33 }), "kept",
		"Without another packet the entry ends in 5m (300 s). Each packet sets it to net.netfilter.nf_conntrack_tcp_timeout_unacknowledged = 300 (5m), since data was not acknowledged. So the last one came within the last second, unless a timeout policy of nftables or iptables says otherwise."},
	"kept unanswered": {subject("zombie", func(f *conntrack.Flow) {
		f.Timeout, f.Status = 299*time.Second, f.Status&^(conntrack.StatusSeenReply|conntrack.StatusAssured)
	}), "kept",
		"Without another packet the entry ends in 4m59s (299 s). Each packet sets it to net.netfilter.nf_conntrack_tcp_timeout_unacknowledged = 300 (5m), since nobody has answered. So the last one came within the last second, unless a timeout policy of nftables or iptables says otherwise."},
	"kept SYN_SENT": {subject("dnat", func(f *conntrack.Flow) {
		f.Timeout, f.TCP = 100*time.Second, conntrack.TCP{State: conntrack.TCPSynSent}
	}), "kept",
		"Without another packet the entry ends in 1m40s (100 s). An answer changes that time, a repeated SYN does not; the first one set it to net.netfilter.nf_conntrack_tcp_timeout_syn_sent = 120 (2m). So that came about 20s ago, unless a timeout policy of nftables or iptables says otherwise."},
	"kept fixed":     {subject("unreplied", func(f *conntrack.Flow) { f.Timeout, f.Status = time.Second, conntrack.StatusFixedTimeout }), "kept", "Without another packet the entry ends in 1s. FIXED_TIMEOUT: packets do not renew that time."},
	"kept unread":    {subject("sctp", left(3)), "kept", "Without another packet the entry ends in 3s. Each packet sets it to net.netfilter.nf_conntrack_sctp_timeout_established, whose value could not be read."},
	"kept offloaded": {subject("dnat", func(f *conntrack.Flow) { f.Status |= conntrack.StatusOffload }), "kept", "It is kept as long as the flowtable has it. That gives it back when no packet has come for net.netfilter.nf_flowtable_tcp_timeout = 30 s."},

	"room":         {subject("unreplied", nil), "room", "When the table is full (12 of 1000 entries now) it may be dropped early, for a new flow: it is not ASSURED."},
	"room assured": {subject("dnat", nil), "room", "When the table is full (12 of 1000 entries now) it stays: it is ASSURED. New flows get the room of others, or none."},
	"room ending":  {subject("dnat", func(f *conntrack.Flow) { f.TCP.State = conntrack.TCPTimeWait }), "room", "When the table is full (12 of 1000 entries now) it may be dropped early although it is ASSURED: it is about to end."},

	"flags": {subject("both", func(f *conntrack.Flow) {
		f.Has |= conntrack.AttrMaster | conntrack.AttrHelper | conntrack.AttrZone
		f.Status |= conntrack.StatusExpected | conntrack.StatusHelper | conntrack.StatusSeqAdjust
		f.Master, f.Helper, f.Zone, f.Labels = f.Orig, "a\x1bb", 7, conntrack.Labels{5}
	}), "flag", "ASSURED: both ends have taken part in the connection. " +
		"EXPECTED: it was announced on the flow tcp 192.168.1.6:40000 -> 203.0.113.1:8443, which has ended. " +
		"SEQ_ADJUST: a helper has changed the length of what is said, so the kernel shifts the sequence numbers. Without the entry the connection breaks. " +
		"HELPER: a rule or a program gave it a helper. " +
		`Helper "a\x1bb": it reads along, to announce and translate further connections. ` +
		"Mark 0x15: a rule or a program has set it; what it means is theirs. " +
		"Labels 0, 2: a rule or a program has set them. " +
		"Zone 7: another zone may have a flow on the same addresses and ports."},
	"expected": {&Subject{Flow: flow("dnat", func(f *conntrack.Flow) {
		f.Has |= conntrack.AttrMaster
		f.Master = f.Orig
		f.Status = conntrack.StatusSeenReply
	}),
		Master: &conntrack.Flow{Helper: "ftp"}}, "flag", "EXPECTED: the helper ftp announced it, on the flow tcp 203.0.113.2:47274 -> 203.0.113.1:5201."},

	"missing": {subject("dnat", nil), "missing", "Packets and bytes: not kept, since net.netfilter.nf_conntrack_acct is 0. Set it to 1 for flows that begin from then on. sysctl -w net.netfilter.nf_conntrack_acct=1 " +
		"When it began: not kept, since net.netfilter.nf_conntrack_timestamp is 0. Set it to 1 for flows that begin from then on. sysctl -w net.netfilter.nf_conntrack_timestamp=1 " +
		"No label is set; it can have some only if the ruleset had to do with labels when it began. " +
		"If nobody listened for events when it began, nobody is told of its end: net.netfilter.nf_conntrack_events is 2."},

	"picked up": {subject("zombie", nil), "picked-up", "Connection tracking has seen no handshake of it. It may have taken it up from a packet in mid-stream, as it does after an entry was deleted while the connection went on; a program may have made or restored it (conntrack -I, conntrackd after a takeover); or the connection is older than the table (a reboot, conntrack -F). " +
		"If its entry was deleted to end it, it has come back, and no rule was asked about the direction it began in. net.netfilter.nf_conntrack_tcp_loose = 1 allows it."},
	"not picked up": {subject("dnat", nil), "picked-up", ""},
	"cut":           {subject("zombie", nil), "cut", "To end it for good, with proof: flowcut cut -p tcp -s 192.168.1.100 -d 203.0.113.2 --sport 80 --dport 47275"},

	"mirrored":     {&Subject{Flow: flow("dnat", nil), Place: Mirrored, Other: flow("zombie", nil)}, "cut", "To end what has come back for good, with proof: flowcut cut -p tcp -s 192.168.1.100 -d 203.0.113.2 --sport 80 --dport 47275"},
	"gone":         {&Subject{Flow: flow("dnat", nil), Place: Gone}, "cut", ""},
	"ended":        {&Subject{Flow: flow("dnat", nil), Place: Gone, Event: conntrack.EventDestroy, Returned: true}, "from", "From the text, which says that it ended. It is not in the table here: it has ended, or it is another host's. It had been deleted and came back: deleting an entry does not end a connection."},
	"unasked line": {&Subject{Flow: flow("masquerade", left(29)), Place: Unasked, Why: "no\nway", Line: true, Known: conntrack.StatusSeenReply}, "from", `From the text. The table could not be asked: no\nway.`},
	"of a line":    {&Subject{Flow: flow("dnat", nil), Place: Unasked, Line: true, Known: conntrack.StatusSeenReply}, "room", ""},
}

func TestFlow(t *testing.T) {
	for name, tt := range sayings {
		if got := about(Flow(tt.s, settings()), tt.topic); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, tt.want)
		}
	}
}

// Without settings, as without rights, and of every kind of flow there is
// something to say; topics are in order, and a terminal can show it.
func TestEveryFlow(t *testing.T) {
	for name := range example.Flows() {
		for _, place := range []Place{Listed, Unasked, Gone, Replaced, Mirrored} {
			f := flow(name, nil)
			list := Flow(&Subject{Flow: f, Place: place, Other: f, Line: place == Unasked}, &Settings{Now: now})
			at := 0
			for _, s := range list {
				for at < len(Topics) && Topics[at] != s.Topic {
					at++
				}
				if at == len(Topics) {
					t.Fatalf("%s: topic %s is none, or out of order: %v", name, s.Topic, list)
				}
			}
			text := string(AppendText(nil, f, list, false))
			for line := range strings.Lines(text) {
				for _, r := range strings.TrimSuffix(line, "\n") {
					if !strconv.IsPrint(r) {
						t.Errorf("%s: %q in %q", name, r, line)
					}
				}
				if len(line) > width+1 && !strings.Contains(line, "flowcut cut") && strings.HasPrefix(line, " ") {
					t.Errorf("%s: too wide: %s", name, line)
				}
			}
		}
	}
}

// The selection that is offered means the flow, and not its neighbours.
func TestSelection(t *testing.T) {
	for name := range example.Flows() {
		f := flow(name, func(f *conntrack.Flow) { f.ID = 7 })
		words := Selection(f)
		s, err := selector.Parse(words)
		if err != nil || !s.Match(f) || !s.Narrows() {
			t.Errorf("%s: %q: %v, matches: %v", name, words, err, s.Match(f))
		}
		other := f.Clone()
		other.Orig.SrcPort++
		other.ID++
		if s.Match(other) {
			t.Errorf("%s: %q matches another flow", name, words)
		}
	}
	w := writer{set: &Settings{NetNS: "a b'c"}}
	if got := w.netns(); got != ` --netns 'a b'\''c'` {
		t.Error(got)
	}
}

// Every setting that a phase names is asked for.
func TestSysctls(t *testing.T) {
	asked := map[string]bool{}
	for _, k := range Sysctls() {
		if asked[k] {
			t.Errorf("%s twice", k)
		}
		asked[k] = true
	}
	for name := range example.Flows() {
		w := writer{Subject: &Subject{}, set: settings(), f: flow(name, nil), known: ^conntrack.Status(0)}
		if key, _ := w.limit(); !asked[key] {
			t.Errorf("%s: %q is not asked for", name, key)
		}
	}
}
