package fence

import (
	"fmt"
	"strings"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/iptables"
	"flowcut/internal/nft"
)

// Our segments as iptables can know them. It cannot ask for a packet's priority,
// so they are told by what they look like: the tag in the IPv4 ID or the flow
// label, the length, and for TCP the window. That anybody can send. So it counts
// only where packets from the wire do not come: from a socket of this host, or
// through loopback.
const (
	TagID    = Tag >> 16     // ID of an IPv4 header
	TagLabel = Tag & 0xfffff // flow label of an IPv6 header
)

// Prefixes of what rules copy to us.
const (
	xtDead  = "dead"
	xtTold  = "told"
	xtSpoke = "spoke"
	xtKnock = "knock"
	xtPast  = "past" // of a packet that is answered past all hooks
)

// xtNoteRate bounds what is copied for packets that anybody can send: at once,
// and in a second.
const xtNoteRate = "-m limit --limit 5000/sec --limit-burst 10000 "

// xtTables are the tables that have rules of ours, in the order in which they are
// made: what notes comes before what stops.
var xtTables = []string{"raw", "mangle", "filter"}

// xtHooks are the chains of these tables that ours are called from, and ours.
var xtHooks = map[string][][2]string{
	"raw":    {{"OUTPUT", ""}},
	"mangle": {{"PREROUTING", "-note"}, {"OUTPUT", "-own"}, {"POSTROUTING", "-out"}},
	"filter": {{"INPUT", "-in"}, {"FORWARD", ""}, {"OUTPUT", "-own"}},
}

// xtLayout lays out the chains of one family.
type xtLayout struct {
	family   nft.Family
	name     string // of the main chain, and the start of all others
	comment  string // of the rules that call ours
	until    time.Time
	group    uint16 // that packets are copied to
	silent   bool
	bridges  bool // call these rules, see pastHooks
	without  Part
	numbers  Numbers
	spare    []conntrack.Tuple
	selected []string // conditions, see xtSay
	except   []string
	chains   int // made for tuples so far
}

// tables returns what makes the chains.
func (l *xtLayout) tables() (changes []iptables.Change) {
	out := map[string]*xtChange{}
	for _, table := range xtTables {
		x := new(xtChange)
		x.chain(l.name)
		for _, h := range xtHooks[table] {
			if h[1] != "" && !strings.Contains(x.chains.String(), ":"+l.name+h[1]+" ") {
				x.chain(l.name + h[1])
			}
		}
		out[table] = x
	}
	l.raw(out["raw"])
	l.mangle(out["mangle"])
	l.filter(out["filter"])
	for _, table := range xtTables {
		for _, h := range xtHooks[table] {
			// What outlives the process does nothing any more from that moment on.
			out[table].do(`-I %s 1 -m time --datestop %s -m comment --comment "%s" -j %s`,
				h[0], l.until.UTC().Format("2006-01-02T15:04:05"), l.comment, l.name+h[1])
		}
		changes = append(changes, iptables.Change{Table: table, Text: out[table].String()})
	}
	return changes
}

// raw keeps our segments from being tracked.
func (l *xtLayout) raw(x *xtChange) {
	for _, m := range l.ours() {
		x.add(l.name, "-m owner --socket-exists "+m+"-j CT --notrack")
	}
}

// mangle notes what must be known before any rule stops the packet, and what
// leaves. What ought to have been stopped by then is stopped here: what was under
// way, or waited in a queue, when the fence rose.
func (l *xtLayout) mangle(x *xtChange) {
	x.add(l.name+"-note", l.answers()...)
	for _, m := range l.ours() { // see layout.noteOut
		x.add(l.name+"-own", "-m owner --socket-exists "+m+"-m conntrack ! --ctstate UNTRACKED -j DROP")
	}
	x.add(l.name+"-own", "-g "+l.name+"-note")
	x.add(l.name+"-out", l.tellings()...)
	x.chain(l.chain("told"))
	x.add(l.name+"-out", "-j "+l.chain("told"))
	x.add(l.name+"-out", l.spareOurs()...)
	x.add(l.name+"-out", "-g "+l.name)
	l.common(x, l.without == 0)
	for _, c := range []string{"cut", "guard", "stop"} {
		// Resets are the gateway's own here, see layout.before. One for a packet
		// that fits no flow may fit one itself.
		if c != "stop" {
			x.add(l.chain(c), "-p tcp --tcp-flags RST RST "+xtNoteRate+l.copied(xtTold))
		}
		x.add(l.chain(c), "-p tcp --tcp-flags RST RST -j RETURN")
		if l.without != 0 {
			x.add(l.chain(c), "-j RETURN") // and count
		}
		x.add(l.chain(c), "-j DROP")
	}
}

// filter stops packets. REJECT works in no other table.
func (l *xtLayout) filter(x *xtChange) {
	// Resets that the gateway makes must reach their ends, see layout.pre.
	x.add(l.name+"-in", "-i lo -p tcp --tcp-flags RST RST -j RETURN")
	for _, m := range l.ours() {
		x.add(l.name+"-in", "-i lo "+m+"-j RETURN")
	}
	x.add(l.name+"-in", "-g "+l.name)
	x.add(l.name+"-own", "-p tcp --tcp-flags RST RST -j RETURN")
	x.add(l.name+"-own", l.spareOurs()...)
	x.add(l.name+"-own", "-g "+l.name)
	l.common(x, l.without&PartFence == 0)
	if l.without&PartFence == 0 {
		x.add(l.chain("cut"), "-m conntrack --ctstatus CONFIRMED -g "+l.chain("stop"))
	} else {
		x.add(l.chain("cut"), "-m conntrack --ctstatus CONFIRMED -j RETURN")
	}
	// A handshake on the tuple of a flow that is cut has to wait: when it is
	// done, nothing would tell its flow from the old one.
	x.add(l.chain("cut"), "-p tcp --syn -j DROP", "-g "+l.chain("guard"))
	if l.without&PartGuard != 0 {
		x.add(l.chain("guard"), "-j RETURN")
	}
	x.add(l.chain("guard"),
		"-m conntrack --ctstate UNTRACKED",
		xtNoteRate+l.copied(xtKnock),
		"-g "+l.chain("stop"))
	x.add(l.chain("stop"), l.stop()...)
}

// common makes the chains that stand in mangle and filter alike: packets on cut
// tuples go to cut or guard, those of flows that are selected to stop.
func (l *xtLayout) common(x *xtChange, selects bool) {
	for _, c := range []string{"packet", "flow", "cut", "guard", "stop", "selected", "new", "hold"} {
		x.chain(l.chain(c))
	}
	icmp, _ := l.icmp()
	x.add(l.name, "-p "+icmp+" -m conntrack --ctstate RELATED -j RETURN")
	for _, t := range l.spare {
		for _, t := range []conntrack.Tuple{t, t.Invert()} {
			src, dst := xtPorts(t)
			x.add(l.name,
				fmt.Sprintf("-m conntrack --ctproto %d --ctorigsrc %s --ctorigdst %s --ctorigsrcport %d --ctorigdstport %d -j RETURN", t.Proto, t.Src, t.Dst, src, dst),
				fmt.Sprintf("-m conntrack --ctproto %d --ctrepldst %s --ctreplsrc %s --ctrepldstport %d --ctreplsrcport %d -j RETURN", t.Proto, t.Src, t.Dst, src, dst))
		}
	}
	x.add(l.name, "-m conntrack --ctstate INVALID,UNTRACKED -g "+l.chain("packet"), "-j "+l.chain("flow"))
	for _, m := range l.except {
		x.add(l.name, m+"-j RETURN")
	}
	x.add(l.name, "-m conntrack --ctstatus CONFIRMED -g "+l.chain("selected"), "-g "+l.chain("new"))
	if selects {
		for _, m := range l.selected {
			x.add(l.chain("selected"), m+"-g "+l.chain("stop"))
			x.add(l.chain("new"), m+"-g "+l.chain("hold"))
		}
	}
	// What is new and meant waits until it is known which flows are old.
	x.add(l.chain("hold"), "-j DROP")
}

func (l *xtLayout) chain(name string) string { return l.name + "-" + name }

func (l *xtLayout) icmp() (proto, portUnreachable string) {
	if l.family == nft.IPv6 {
		return "icmpv6", "--icmpv6-type 1/4"
	}
	return "icmp", "--icmp-type 3/3"
}

// copied is the target that copies a packet to us.
func (l *xtLayout) copied(prefix string) string {
	return fmt.Sprintf("-j NFLOG --nflog-group %d --nflog-prefix %s", l.group, prefix)
}

// stop ends the way of a packet and tells its sender.
func (l *xtLayout) stop() []string {
	if l.silent {
		return []string{"-j DROP"}
	}
	with := "icmp-port-unreachable"
	if l.family == nft.IPv6 {
		with = "icmp6-port-unreachable"
	}
	var unseen []string
	if l.bridges {
		unseen = []string{"-p tcp ! --tcp-flags RST RST -m physdev --physdev-is-in " + xtNoteRate + l.copied(xtPast)}
	}
	return append(unseen,
		"-p tcp --tcp-flags SYN,RST,ACK ACK "+xtNoteRate+l.copied(xtSpoke),
		"-p tcp -j REJECT --reject-with tcp-reset",
		"-j REJECT --reject-with "+with)
}

// number is a condition on a number of the TCP header.
func (l *xtLayout) number(offset int, mask, v uint32) string {
	at := fmt.Sprintf("0>>22&0x3c@%d", offset)
	if l.family == nft.IPv6 {
		at = fmt.Sprintf("4>>8&0xff=6&&%d", 40+offset) // without extension headers
	}
	return fmt.Sprintf(`-m u32 --u32 "%s&%#x=%#x" `, at, mask, v&mask)
}

// answers copies the answers of ends that have no connection any more, see
// layout.answers.
func (l *xtLayout) answers() []string {
	const seq, acked = 4, 8
	toSYN := l.number(acked, 1<<32-1, l.numbers.ISN+1)
	return []string{
		"-p tcp --tcp-flags RST RST " + l.number(seq, anyHalf, l.numbers.Ack) + l.copied(xtDead),
		"-p tcp --tcp-flags RST RST " + toSYN + l.copied(xtDead),
		"-p tcp --tcp-flags SYN,RST SYN " + toSYN + l.copied(xtDead),
	}
}

// tellings copies the resets and ICMP errors of ours that leave. A reset is
// related to a flow only if it is an answer of this host to a packet of it.
func (l *xtLayout) tellings() []string {
	icmp, unreachable := l.icmp()
	return []string{
		"-p tcp --tcp-flags RST RST -m conntrack --ctstate RELATED " + xtNoteRate + l.copied(xtTold),
		"-p " + icmp + " " + unreachable + " -m conntrack --ctstate RELATED,INVALID,UNTRACKED " + xtNoteRate + l.copied(xtTold),
	}
}

// tellingsOnTuples copies the other resets that may be ours. Those of others to
// ends of cut flows have not come so far once these are guarded.
func (l *xtLayout) tellingsOnTuples() string {
	return "-p tcp --tcp-flags RST RST -m conntrack --ctstate INVALID,UNTRACKED " + xtNoteRate + l.copied(xtTold)
}

// spareOurs lets our segments go.
func (l *xtLayout) spareOurs() (out []string) {
	for _, m := range l.ours() {
		out = append(out, "-m owner --socket-exists "+m+"-j RETURN")
	}
	return out
}

// ours are conditions for our segments: a bare TCP segment with a window of
// 1024, and a port unreachable that quotes a header and eight bytes.
func (l *xtLayout) ours() []string {
	if l.family == nft.IPv6 {
		return []string{
			fmt.Sprintf(`-p tcp -m u32 --u32 "0&0xfffff=%#x&&4>>16=20&&52&0xf000ffff=0x50000400" `, TagLabel),
			fmt.Sprintf(`-p icmpv6 --icmpv6-type 1/4 -m u32 --u32 "0&0xfffff=%#x&&4>>16=56" `, TagLabel),
		}
	}
	return []string{
		fmt.Sprintf(`-p tcp -m u32 --u32 "0&0xffff=40&&4>>16=%#x&&0>>22&0x3c@12&0xf000ffff=0x50000400" `, TagID),
		fmt.Sprintf(`-p icmp --icmp-type 3/3 -m u32 --u32 "0&0xffff=56&&4>>16=%#x" `, TagID),
	}
}

// guard returns what stops packets on tuples. From the first time on the selector
// is not asked any more: the rules know which flows are old, and what is new is
// the ruleset's business.
func (l *xtLayout) guard(tuples []conntrack.Tuple) []iptables.Change {
	x := new(xtChange)
	x.do("-F %s", l.chain("selected"))
	x.do("-F %s", l.chain("new"))
	name := func() string {
		l.chains++
		return fmt.Sprintf("%s-%x", l.name, l.chains)
	}
	(&xtTree{x, xtFlow, name, "-g " + l.chain("cut")}).grow(l.chain("flow"), tuples)
	(&xtTree{x, xtPacket, name, "-g " + l.chain("guard")}).grow(l.chain("packet"), tuples)
	changes := both(x.String())
	x.do("-F %s", l.chain("told"))
	x.add(l.chain("told"), l.tellingsOnTuples())
	changes[1].Text = x.String()
	return changes
}

// both returns a change of the tables that have the same chains: what stops first.
func both(text string) []iptables.Change {
	return []iptables.Change{{Table: "filter", Text: text}, {Table: "mangle", Text: text}}
}

// lower returns what takes the selector away.
func (l *xtLayout) lower() string {
	x := new(xtChange)
	x.do("-F %s", l.chain("selected"))
	x.do("-F %s", l.chain("new"))
	return x.String()
}
