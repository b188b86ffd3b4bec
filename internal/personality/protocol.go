package personality

import (
	"bufio"
	"os"
	"slices"
	"strings"
	"sync"

	"flowcut/conntrack"
)

// protocol is a protocol and the options that -p adds for it.
type protocol struct {
	name    string
	number  conntrack.Proto
	options []option
	pairs   [2]pair

	once sync.Once
	all  []name // see names
}

// ports are the options of protocols with ports. The cells are in the columns
// of the matrix.
var ports = []option{
	//L G D U I A E F h L I D G E
	{"o P o o P P o . . . R R R .", "sport", []string{"orig-port-src"}, 0, needsValue, (*line).setSrcPort},
	{"o P o o P P o . . . R R R .", "dport", []string{"orig-port-dst"}, 0, needsValue, (*line).setDstPort},
	{"o P o o P P o . . . . R R .", "reply-port-src", nil, 0, needsValue, (*line).setReplySrcPort},
	{"o P o o P P o . . . . R R .", "reply-port-dst", nil, 0, needsValue, (*line).setReplyDstPort},
	{". . . . . . . . . . R . . .", "mask-port-src", nil, 0, needsValue, (*line).setMaskSrcPort},
	{". . . . . . . . . . R . . .", "mask-port-dst", nil, 0, needsValue, (*line).setMaskDstPort},
	{". . . . . . . . . . R . . .", "tuple-port-src", nil, 0, needsValue, (*line).setTupleSrcPort},
	{". . . . . . . . . . R . . .", "tuple-port-dst", nil, 0, needsValue, (*line).setTupleDstPort},
}

// keys are the options of GRE.
var keys = []option{
	//L G D U I A E F h L I D G E
	{"o P o o P P o . . . R R R .", "srckey", []string{"orig-key-src"}, 0, needsValue, (*line).setSrcKey},
	{"o P o o P P o . . . R R R .", "dstkey", []string{"orig-key-dst"}, 0, needsValue, (*line).setDstKey},
	{"o P o o P P o . . . R R R .", "reply-key-src", nil, 0, needsValue, (*line).setReplySrcKey},
	{"o P o o P P o . . . R R R .", "reply-key-dst", nil, 0, needsValue, (*line).setReplyDstKey},
	{". . . . . . . . . . R . . .", "mask-key-src", nil, 0, needsValue, (*line).setMaskSrcKey},
	{". . . . . . . . . . R . . .", "mask-key-dst", nil, 0, needsValue, (*line).setMaskDstKey},
	{". . . . . . . . . . R . . .", "tuple-key-src", nil, 0, needsValue, (*line).setTupleSrcKey},
	{". . . . . . . . . . R . . .", "tuple-key-dst", nil, 0, needsValue, (*line).setTupleDstKey},
}

// vtags are the options that SCTP has beside ports and a state.
var vtags = []option{
	//L G D U I A E F h L I D G E
	{". o . o R R . . . . R . . .", "orig-vtag", nil, 0, needsValue, (*line).setOrigVTag},
	{". o . o R R . . . . R . . .", "reply-vtag", nil, 0, needsValue, (*line).setReplyVTag},
}

// role is the option that DCCP has beside ports and a state.
var role = []option{
	//L G D U I A E F h L I D G E
	{". . . . R R . . . . R . . .", "role", nil, 0, needsValue, (*line).setRole},
}

// state is the option of a protocol with states.
func state(set func(*line, string) error) []option {
	return []option{
		//L G D U I A E F h L I D G E
		{"o o o o R R o . . . . . . .", "state", nil, 0, needsValue, set},
	}
}

// icmp returns the options of ICMP or ICMPv6.
func icmp(prefix string) []option {
	return []option{
		//L G D U I A E F h L I D G E
		{"o R o o R R o . . . . . . .", prefix + "-type", nil, 0, needsValue, (*line).setICMPType},
		{"o R o o R R o . . . . . . .", prefix + "-code", nil, 0, needsValue, (*line).setICMPCode},
		{"o o o o o o o . . . . . . .", prefix + "-id", nil, 0, needsValue, (*line).setICMPID},
	}
}

var portPairs = [2]pair{
	{"sport", "dport", "`--sport' and `--dport'"},
	{"reply-port-src", "reply-port-dst", "`--reply-port-src' and `--reply-port-dst'"},
}

var keyPairs = [2]pair{
	{"srckey", "dstkey", "`--srckey' and `--dstkey'"},
	{"reply-key-src", "reply-key-dst", "`--reply-key-src' and `--reply-key-dst'"},
}

// protocols are the protocols with options of their own.
var protocols = [...]protocol{
	{name: "tcp", number: conntrack.ProtoTCP, options: slices.Concat(ports, state((*line).setTCPState)), pairs: portPairs},
	{name: "udp", number: conntrack.ProtoUDP, options: ports, pairs: portPairs},
	{name: "udplite", number: conntrack.ProtoUDPLite, options: ports, pairs: portPairs},
	{name: "sctp", number: conntrack.ProtoSCTP, options: slices.Concat(ports, state((*line).setSCTPState), vtags), pairs: portPairs},
	{name: "dccp", number: conntrack.ProtoDCCP, options: slices.Concat(ports, state((*line).setDCCPState), role), pairs: portPairs},
	{name: "icmp", number: conntrack.ProtoICMP, options: icmp("icmp")},
	{name: "icmpv6", number: conntrack.ProtoICMPv6, options: icmp("icmpv6")},
	{name: "gre", number: conntrack.ProtoGRE, options: keys, pairs: keyPairs},
}

// names returns the names of all options that there are after -p.
func (p *protocol) names() []name {
	p.once.Do(func() {
		p.all = globalNames()
		for i := range p.options {
			o := &p.options[i]
			p.all = append(p.all, name{o.name, o.arg, found{option: o}})
			for _, alias := range o.aliases {
				p.all = append(p.all, name{alias, o.arg, found{option: o}})
			}
		}
	})
	return p.all
}

// protocolsFile has the names of protocols that conntrack(8) has no options for.
const protocolsFile = "/etc/protocols"

// findProtocol reads what -p takes: a name of ours, a name of the system's, or a
// number in any base of C.
func findProtocol(word string) (*protocol, error) {
	for i := range protocols {
		if strings.EqualFold(protocols[i].name, word) {
			return &protocols[i], nil
		}
	}
	number, ok := systemProtocol(word)
	if !ok {
		if number, ok = cNumber(word, 255); !ok {
			return nil, usage("`%s' unsupported protocol", word)
		}
		for i := range protocols {
			if uint64(protocols[i].number) == number {
				return &protocols[i], nil
			}
		}
	}
	return &protocol{name: "unknown", number: conntrack.Proto(number)}, nil
}

// systemProtocol looks a name up in protocolsFile. A system without the file
// has no such names.
func systemProtocol(word string) (uint64, bool) {
	f, err := os.Open(protocolsFile)
	if err != nil {
		return 0, false
	}
	defer func() { _ = f.Close() }() // it was only read
	for s := bufio.NewScanner(f); s.Scan(); {
		text, _, _ := strings.Cut(s.Text(), "#")
		fields := strings.Fields(text)
		if len(fields) < 2 || fields[0] != word && !slices.Contains(fields[2:], word) {
			continue
		}
		return cNumber(fields[1], 255)
	}
	return 0, false
}
