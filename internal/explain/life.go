package explain

import (
	"flowcut/conntrack"
)

// phase is a state of a protocol.
type phase struct {
	means string
	next  string // what comes next; "" for nothing
	key   string // sysctl that says how long the kernel waits in it, behind its prefix
	drop  bool   // the kernel may drop a flow in it early although it is ASSURED
}

// prefix begins the names of all settings of connection tracking.
const prefix = "net.netfilter.nf_conntrack_"

// tcpPhases are the states of TCP, by number.
// Source: net/netfilter/nf_conntrack_proto_tcp.c, the table of states and tcp_can_early_drop.
var tcpPhases = [...]phase{
	conntrack.TCPNone:        {means: "no packet of it was seen yet; a program made the entry", next: "the next packet decides"},
	conntrack.TCPSynSent:     {"the originator has sent a SYN, and nobody has answered", "SYN_RECV with the answer; a refusal ends the entry at once", "tcp_timeout_syn_sent", false},
	conntrack.TCPSynRecv:     {"the responder has answered the SYN; the originator's ACK is still to come", "ESTABLISHED with that ACK", "tcp_timeout_syn_recv", false},
	conntrack.TCPEstablished: {"the connection is open, and data may flow both ways", "FIN_WAIT when an end says goodbye, CLOSE when one resets it", "tcp_timeout_established", false},
	conntrack.TCPFinWait:     {"an end has said goodbye (FIN); the other has not acknowledged that", "CLOSE_WAIT with the acknowledgement, LAST_ACK with the other's own FIN", "tcp_timeout_fin_wait", true},
	conntrack.TCPCloseWait:   {"one end's goodbye (FIN) is acknowledged; the other end may still send", "LAST_ACK when that one says goodbye, too", "tcp_timeout_close_wait", true},
	conntrack.TCPLastAck:     {"both ends have said goodbye; the last acknowledgement is still to come", "TIME_WAIT with it", "tcp_timeout_last_ack", true},
	conntrack.TCPTimeWait:    {"the connection is closed at both ends; the entry waits for packets that come late", "the entry ends; a new SYN on the same ports begins a new flow", "tcp_timeout_time_wait", true},
	conntrack.TCPClose:       {"an end has reset the connection", "the entry ends", "tcp_timeout_close", true},
	conntrack.TCPSynSent2:    {"both ends have sent a SYN at once (simultaneous open)", "SYN_RECV, then ESTABLISHED", "", false},
}

// sctpPhases are the states of SCTP, by number.
// Source: net/netfilter/nf_conntrack_proto_sctp.c, the table of states and sctp_can_early_drop.
var sctpPhases = [...]phase{
	conntrack.SCTPNone:            {means: "nothing of the association was seen yet", next: "COOKIE_WAIT with an INIT"},
	conntrack.SCTPClosed:          {"the association is closed or aborted", "the entry ends", "sctp_timeout_closed", false},
	conntrack.SCTPCookieWait:      {"the originator has asked for an association (INIT)", "COOKIE_ECHOED when it has sent the cookie back", "sctp_timeout_cookie_wait", false},
	conntrack.SCTPCookieEchoed:    {"the originator has sent the cookie back", "ESTABLISHED with the acknowledgement", "sctp_timeout_cookie_echoed", false},
	conntrack.SCTPEstablished:     {"the association is open", "SHUTDOWN_SENT or SHUTDOWN_RECD when an end says goodbye, CLOSED when one aborts", "sctp_timeout_established", false},
	conntrack.SCTPShutdownSent:    {"the originator has said goodbye", "SHUTDOWN_ACK_SENT with the answer", "sctp_timeout_shutdown_sent", true},
	conntrack.SCTPShutdownRecd:    {"the responder has said goodbye", "SHUTDOWN_ACK_SENT with the answer", "sctp_timeout_shutdown_recd", true},
	conntrack.SCTPShutdownAckSent: {"a goodbye is answered", "CLOSED when that is acknowledged", "sctp_timeout_shutdown_ack_sent", true},
	conntrack.SCTPHeartbeatSent:   {"a heartbeat tries another path of an association", "ESTABLISHED with its answer", "sctp_timeout_heartbeat_sent", false},
	conntrack.SCTPHeartbeatAcked:  {"a heartbeat on another path was answered", "goodbye or abort", "sctp_timeout_heartbeat_acked", false},
}

// dccpPhases are the states of DCCP, by number; kernels from 6.16 on have none.
// Source: net/netfilter/nf_conntrack_proto_dccp.c of 6.15.
var dccpPhases = [...]phase{
	conntrack.DCCPNone:     {means: "nothing was seen yet", next: "REQUEST"},
	conntrack.DCCPRequest:  {"the client has asked for a connection", "RESPOND with the answer", "dccp_timeout_request", false},
	conntrack.DCCPRespond:  {"the server has answered", "PARTOPEN with the client's acknowledgement", "dccp_timeout_respond", false},
	conntrack.DCCPPartOpen: {"the client has acknowledged the answer", "OPEN with what the server sends next", "dccp_timeout_partopen", false},
	conntrack.DCCPOpen:     {"the connection is open", "CLOSEREQ or CLOSING when an end says goodbye", "dccp_timeout_open", false},
	conntrack.DCCPCloseReq: {"the server has asked the client to close", "CLOSING", "dccp_timeout_closereq", true},
	conntrack.DCCPClosing:  {"an end has said goodbye", "TIMEWAIT with the answer", "dccp_timeout_closing", true},
	conntrack.DCCPTimeWait: {"the connection is closed; the entry waits for packets that come late", "the entry ends", "dccp_timeout_timewait", true},
}

// datagramPhase is the state of protocols that have none, which follows from who
// has sent.
func (w *writer) datagramPhase() (name string, p phase) {
	one, both := "One way", "Answered"
	switch proto := w.f.Orig.Proto; proto {
	case conntrack.ProtoUDP, conntrack.ProtoUDPLite:
		switch {
		case !w.is(conntrack.StatusSeenReply):
			return one, phase{"only the originator has sent", "answered, with the first packet back", "udp_timeout", false}
		case w.is(conntrack.StatusAssured):
			return "Stream", phase{"both ends have sent, for more than two seconds", "", "udp_timeout_stream", false}
		}
		return both, phase{"both ends have sent, but not for long", "a stream (ASSURED), when packets still come two seconds after the first", "udp_timeout", false}
	case conntrack.ProtoICMP, conntrack.ProtoICMPv6:
		key := "icmp_timeout"
		if proto == conntrack.ProtoICMPv6 {
			key = "icmpv6_timeout"
		}
		if w.is(conntrack.StatusSeenReply) {
			return both, phase{"the question was answered", "", key, false}
		}
		return "Unanswered", phase{"the question was not answered", "answered, with an answer of the same id", key, false}
	case conntrack.ProtoGRE:
		if w.is(conntrack.StatusSeenReply) {
			return "Stream", phase{"both ends have sent", "", "gre_timeout_stream", false}
		}
		return one, phase{"only the originator has sent", "a stream, with the first packet back", "gre_timeout", false}
	}
	if w.is(conntrack.StatusSeenReply) {
		return both, phase{"both ends have sent", "", "generic_timeout", false}
	}
	return one, phase{"only the originator has sent", "answered, with the first packet back", "generic_timeout", false}
}

// phase returns the flow's state. ok is false where it is not known.
func (w *writer) phase() (name string, p phase, ok bool) {
	f := w.f
	switch {
	case w.has(conntrack.AttrTCP):
		return at(f.TCP.State.String(), int(f.TCP.State), tcpPhases[:])
	case w.has(conntrack.AttrSCTP):
		return at(f.SCTP.State.String(), int(f.SCTP.State), sctpPhases[:])
	case w.has(conntrack.AttrDCCP):
		return at(f.DCCP.State.String(), int(f.DCCP.State), dccpPhases[:])
	}
	switch f.Orig.Proto {
	case conntrack.ProtoTCP, conntrack.ProtoSCTP, conntrack.ProtoDCCP:
		return "", phase{}, false
	}
	if w.known&conntrack.StatusSeenReply == 0 {
		return "", phase{}, false
	}
	name, p = w.datagramPhase()
	return name, p, true
}

func at(name string, n int, phases []phase) (string, phase, bool) {
	if n >= len(phases) || phases[n].means == "" {
		return name, phase{}, false
	}
	return name, phases[n], true
}

// state says where the flow is in its life.
func (w *writer) state() {
	name, p, ok := w.phase()
	switch {
	case w.offloaded():
		w.say("state", "Offloaded: a flowtable forwards its packets past connection tracking, so the protocol's state is not followed.")
	case !ok && name != "":
		w.say("state", "%s, a state of which nothing more is known here.", name)
	case !ok:
		w.say("state", "The protocol's state was not told.")
	case w.ended() || p.next == "":
		w.say("state", "%s: %s.", name, p.means)
	default:
		w.say("state", "%s: %s. Next: %s.", name, p.means, p.next)
	}
}
