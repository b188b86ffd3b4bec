package explain

import (
	"fmt"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/sysctl"
)

// Settings beside those of phases that statements go by.
const (
	keyAcct      = prefix + "acct"
	keyTimestamp = prefix + "timestamp"
	keyEvents    = prefix + "events"
	keyLoose     = prefix + "tcp_loose"
	keyMax       = prefix + "max"
	keyCount     = prefix + "count"
	keyUnacked   = prefix + "tcp_timeout_unacknowledged"
	keyRetrans   = prefix + "tcp_timeout_max_retrans"
	keyFlowTCP   = "net.netfilter.nf_flowtable_tcp_timeout"
	keyFlowUDP   = "net.netfilter.nf_flowtable_udp_timeout"
)

// Sysctls returns the names of all settings that statements go by.
func Sysctls() []string {
	keys := []string{keyAcct, keyTimestamp, keyEvents, keyLoose, keyMax, keyCount, keyUnacked, keyRetrans, keyFlowTCP, keyFlowUDP}
	for _, k := range []string{"udp_timeout", "udp_timeout_stream", "icmp_timeout", "icmpv6_timeout", "gre_timeout", "gre_timeout_stream", "generic_timeout"} {
		keys = append(keys, prefix+k)
	}
	for _, list := range [][]phase{tcpPhases[:], sctpPhases[:], dccpPhases[:]} {
		for _, p := range list {
			if p.key != "" {
				keys = append(keys, prefix+p.key)
			}
		}
	}
	return keys
}

// limit returns the setting that says how long the flow is kept after a packet, and
// why it is that one where the state alone does not say so.
func (w *writer) limit() (key, why string) {
	_, p, ok := w.phase()
	if !ok || p.key == "" {
		return "", ""
	}
	key = prefix + p.key
	if !w.has(conntrack.AttrTCP) {
		return key, ""
	}
	state, known := w.value(key)
	unacked, too := w.value(keyUnacked)
	if known && too && unacked >= state {
		return key, ""
	}
	switch {
	case (w.f.TCP.OrigFlags|w.f.TCP.ReplyFlags)&conntrack.TCPDataUnacked != 0:
		return keyUnacked, "data was not acknowledged"
	case w.f.TCP.State == conntrack.TCPEstablished && w.isNot(conntrack.StatusSeenReply):
		return keyUnacked, "nobody has answered"
	}
	return key, ""
}

// kept says how long the kernel keeps the entry, and which setting says so.
func (w *writer) kept() {
	switch {
	case w.ended():
		return
	case w.offloaded():
		w.keptOffloaded()
		return
	}
	if w.has(conntrack.AttrTimeout) {
		left := span(w.f.Timeout)
		if w.f.Timeout >= time.Minute {
			left += fmt.Sprintf(" (%d s)", int64(w.f.Timeout/time.Second))
		}
		if w.Place == Unasked {
			w.say("kept", "When this was written, the entry was to end in %s without another packet.", left)
		} else {
			w.say("kept", "Without another packet the entry ends in %s.", left)
		}
	}
	key, why := w.limit()
	switch {
	case w.is(conntrack.StatusFixedTimeout):
		w.say("kept", "FIXED_TIMEOUT: packets do not renew that time.")
	case key == "" && w.has(conntrack.AttrTCP) && w.f.TCP.State == conntrack.TCPSynSent2:
		w.say("kept", "No setting says how long the kernel waits in this state.")
	case key != "":
		w.renewed(key, why)
	}
}

// renewed says what packets set the remaining time to, and what follows from that.
func (w *writer) renewed(key, why string) {
	if why != "" {
		why = ", since " + why
	}
	what, last := "Each packet sets", "the last one"
	if w.has(conntrack.AttrTCP) && w.f.TCP.State == conntrack.TCPSynSent {
		what, last = "An answer changes that time, a repeated SYN does not; the first one set", "that"
	}
	v, ok := w.value(key)
	if !ok {
		missing := "could not be read"
		if w.set.Values[key] == sysctl.Absent {
			missing = "this kernel does not have"
		}
		w.say("kept", "%s it to %s, whose value %s%s.", what, key, missing, why).Sysctl = key
		return
	}
	limit := time.Duration(v) * time.Second
	set := fmt.Sprint(v)
	if limit >= time.Minute {
		set += " (" + span(limit) + ")"
	}
	s := w.say("kept", "%s it to %s = %s%s.", what, key, set, why)
	s.Sysctl = key
	if !w.has(conntrack.AttrTimeout) || w.Place == Unasked {
		return
	}
	if w.f.Timeout > limit {
		s.Text += " It has more than that: a timeout policy (ct timeout of nftables, CT --timeout of iptables) or a program gave it that, or the setting was larger."
		return
	}
	idle := "within the last second" // what is left is cut to whole seconds
	if d := limit - w.f.Timeout; d > time.Second {
		idle = "about " + span(d) + " ago"
	}
	s.Text += fmt.Sprintf(" So %s came %s, unless a timeout policy of nftables or iptables says otherwise%s.", last, idle, w.orStuck(limit))
}

// orStuck names the other reason for little time on a TCP flow.
func (w *writer) orStuck(limit time.Duration) string {
	v, ok := w.value(keyRetrans)
	stuck := time.Duration(v) * time.Second
	if !ok || !w.has(conntrack.AttrTCP) || stuck >= limit || w.f.Timeout > stuck {
		return ""
	}
	return fmt.Sprintf(", or an end repeats itself without an answer, or keeps its window closed: then it is %s = %d", keyRetrans, v)
}

func (w *writer) keptOffloaded() {
	key := keyFlowTCP
	if w.f.Orig.Proto != conntrack.ProtoTCP {
		key = keyFlowUDP
	}
	s := w.say("kept", "It is kept as long as the flowtable has it.")
	if v, ok := w.value(key); ok {
		s.Text += fmt.Sprintf(" That gives it back when no packet has come for %s = %d s.", key, v)
		s.Sysctl = key
	}
}

// room says what becomes of the flow when the table is full.
func (w *writer) room() {
	if w.ended() || w.offloaded() {
		return
	}
	_, p, _ := w.phase()
	full := "When the table is full"
	count, counted := w.value(keyCount)
	if most, ok := w.value(keyMax); ok && counted && most > 0 && w.Place == Listed {
		full += fmt.Sprintf(" (%d of %d entries now)", count, most)
	}
	switch {
	case w.isNot(conntrack.StatusAssured):
		w.say("room", "%s it may be dropped early, for a new flow: it is not ASSURED.", full).Sysctl = keyMax
	case w.is(conntrack.StatusAssured) && p.drop:
		w.say("room", "%s it may be dropped early although it is ASSURED: it is about to end.", full).Sysctl = keyMax
	case w.is(conntrack.StatusAssured):
		w.say("room", "%s it stays: it is ASSURED. New flows get the room of others, or none.", full).Sysctl = keyMax
	}
}
