package fence

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"flowcut/conntrack"
)

// xtChange is what iptables-restore is given for one table: all chains come
// before the rules that go to them.
type xtChange struct {
	chains, rules strings.Builder
}

// chain declares a chain, empty.
func (x *xtChange) chain(name string) { fmt.Fprintf(&x.chains, ":%s - [0:0]\n", name) }

// add appends rules to a chain.
func (x *xtChange) add(chain string, rules ...string) {
	for _, r := range rules {
		fmt.Fprintf(&x.rules, "-A %s %s\n", chain, r)
	}
}

// do adds a command.
func (x *xtChange) do(format string, args ...any) { fmt.Fprintf(&x.rules, format+"\n", args...) }

func (x *xtChange) String() string { return x.chains.String() + x.rules.String() }

// xtForm is how rules ask for a tuple: that of a packet's flow, or that of the
// packet itself where it has none.
type xtForm struct {
	proto            func(conntrack.Proto) string
	src, dst         func(netip.Prefix) string
	srcPort, dstPort func(from, to uint16) string
	ports            func(conntrack.Proto) bool // there are rules for them
	rest             func(conntrack.Tuple) (rule string, ok bool)
}

// xtFlow asks for the original tuple of the flow.
var xtFlow = &xtForm{
	proto:   func(p conntrack.Proto) string { return fmt.Sprint("-m conntrack --ctproto ", uint8(p)) },
	src:     func(p netip.Prefix) string { return "--ctorigsrc " + p.String() },
	dst:     func(p netip.Prefix) string { return "--ctorigdst " + p.String() },
	srcPort: func(from, to uint16) string { return "--ctorigsrcport " + xtPortRange(from, to) },
	dstPort: func(from, to uint16) string { return "--ctorigdstport " + xtPortRange(from, to) },
	ports: func(p conntrack.Proto) bool {
		return p.HasPorts() || p == conntrack.ProtoICMP || p == conntrack.ProtoICMPv6
	},
	rest: func(conntrack.Tuple) (string, bool) { return "", true },
}

// xtPacket asks for the packet's header. Ports of protocols that have no match
// of their own everywhere are looked for where the kernel's are, behind an IP
// header; of ICMP nothing tells two flows apart, and it is left to its flow.
var xtPacket = &xtForm{
	proto:   func(p conntrack.Proto) string { return fmt.Sprint("-p ", uint8(p)) },
	src:     func(p netip.Prefix) string { return "-s " + p.String() },
	dst:     func(p netip.Prefix) string { return "-d " + p.String() },
	srcPort: func(from, to uint16) string { return "--sport " + xtPortRange(from, to) },
	dstPort: func(from, to uint16) string { return "--dport " + xtPortRange(from, to) },
	ports:   func(p conntrack.Proto) bool { return p == conntrack.ProtoTCP || p == conntrack.ProtoUDP },
	rest: func(t conntrack.Tuple) (string, bool) {
		src, dst := xtPorts(t)
		start := "0>>22&0x3c@0"
		if t.Src.Is6() {
			start = "40"
		}
		if t.HasPorts() {
			return fmt.Sprintf(`-m u32 --u32 "%s=%#x"`, start, uint32(src)<<16|uint32(dst)), true
		}
		return "", !t.IsICMP()
	},
}

func xtPortRange(from, to uint16) string {
	if from == to {
		return fmt.Sprint(from)
	}
	return fmt.Sprintf("%d:%d", from, to)
}

// xtPorts are what stands for ports in a tuple of the kernel.
func xtPorts(t conntrack.Tuple) (src, dst uint16) {
	if t.IsICMP() {
		return t.ICMPID, uint16(t.ICMPType)<<8 | uint16(t.ICMPCode)
	}
	return t.SrcPort, t.DstPort
}

// xtField is a field of a tuple, as bits.
type xtField uint8

const (
	xtSrc xtField = 1 << iota
	xtDst
	xtSrcPort
	xtDstPort
)

var xtFields = []xtField{xtSrc, xtDst, xtSrcPort, xtDstPort}

// addr returns an address of a tuple.
func (f xtField) addr(t conntrack.Tuple) netip.Addr {
	if f == xtSrc {
		return t.Src
	}
	return t.Dst
}

// port returns what stands for a port in a tuple.
func (f xtField) port(t conntrack.Tuple) uint16 {
	src, dst := xtPorts(t)
	if f == xtSrcPort {
		return src
	}
	return dst
}

// xtTree makes chains that find a tuple among many: each rule leads to about a
// sixteenth of what is left, whichever addresses and ports there are. What all
// tuples of a chain have in common is asked for once, on the way to it: that
// iptables-restore reads a port takes 0.1 ms.
type xtTree struct {
	*xtChange
	form *xtForm
	name func() string // of a new chain
	then string        // what is done with a packet on one of the tuples
}

// xtLeaf is how many tuples a packet is compared with one by one, xtWays how many
// parts a split makes at most.
const (
	xtLeaf = 8
	xtWays = 16
)

// grow adds rules to a chain that leave it for packets on one of the tuples.
func (x *xtTree) grow(chain string, tuples []conntrack.Tuple) {
	by := map[conntrack.Proto][]conntrack.Tuple{}
	for _, t := range tuples {
		by[t.Proto] = append(by[t.Proto], t)
	}
	for p, list := range by {
		if _, ok := x.form.rest(list[0]); !ok && !x.form.ports(p) {
			continue // nothing tells its flows apart
		}
		x.branch(chain, x.form.proto(p)+" ", 0, list)
	}
}

// branch adds rules for tuples of a protocol. What is known of a packet that
// comes to the chain need not be asked again; match begins each rule.
func (x *xtTree) branch(chain, match string, known xtField, tuples []conntrack.Tuple) {
	if len(tuples) == 1 {
		x.add(chain, match+x.exactly(tuples[0], ^known)+x.rest(tuples[0])+x.then)
		return
	}
	if same := x.common(tuples) &^ known; same != 0 {
		x.lead(chain, match+x.exactly(tuples[0], same), match, known|same, tuples)
		return
	}
	if len(tuples) <= xtLeaf {
		for _, t := range tuples {
			x.branch(chain, match, known, []conntrack.Tuple{t})
		}
		return
	}
	for _, part := range x.split(tuples) {
		if len(part.tuples) == 1 {
			x.branch(chain, match, known, part.tuples)
		} else {
			x.lead(chain, match+part.match, match, known|part.known, part.tuples)
		}
	}
}

// lead makes a chain for tuples, with a rule that leads to it.
func (x *xtTree) lead(chain, rule, match string, known xtField, tuples []conntrack.Tuple) {
	next := x.name()
	x.chain(next)
	x.add(chain, rule+"-j "+next)
	x.branch(next, match, known, tuples)
}

// common returns the fields in which tuples are equal.
func (x *xtTree) common(tuples []conntrack.Tuple) (same xtField) {
	for _, f := range xtFields {
		first := tuples[0]
		differs := func(t conntrack.Tuple) bool { return f.port(t) != f.port(first) }
		if f == xtSrc || f == xtDst {
			differs = func(t conntrack.Tuple) bool { return f.addr(t) != f.addr(first) }
		}
		if x.asks(f, first) && !slices.ContainsFunc(tuples, differs) {
			same |= f
		}
	}
	return same
}

// asks tells whether rules can ask for a field of such tuples.
func (x *xtTree) asks(f xtField, t conntrack.Tuple) bool {
	return f == xtSrc || f == xtDst || x.form.ports(t.Proto)
}

// exactly asks for fields of a tuple.
func (x *xtTree) exactly(t conntrack.Tuple, fields xtField) (match string) {
	src, dst := xtPorts(t)
	for _, f := range xtFields {
		if fields&f == 0 || !x.asks(f, t) {
			continue
		}
		switch f {
		case xtSrc:
			match += x.form.src(whole(t.Src)) + " "
		case xtDst:
			match += x.form.dst(whole(t.Dst)) + " "
		case xtSrcPort:
			match += x.form.srcPort(src, src) + " "
		case xtDstPort:
			match += x.form.dstPort(dst, dst) + " "
		}
	}
	return match
}

// rest asks for what the form has no fields for.
func (x *xtTree) rest(t conntrack.Tuple) string {
	if x.form.ports(t.Proto) {
		return ""
	}
	rest, _ := x.form.rest(t)
	return rest + " "
}

func whole(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// xtPart are the tuples that one match leads to, and the fields in which they
// are equal by it.
type xtPart struct {
	match  string
	known  xtField
	tuples []conntrack.Tuple
}

// split parts tuples by what parts them best. They are of one protocol.
func (x *xtTree) split(tuples []conntrack.Tuple) (best []xtPart) {
	largest := len(tuples)
	for _, f := range xtFields {
		if !x.asks(f, tuples[0]) {
			continue
		}
		parts := x.byPort(tuples, f)
		if f == xtSrc || f == xtDst {
			parts = x.byPrefix(tuples, f)
		}
		n := 0
		for _, p := range parts {
			n = max(n, len(p.tuples))
		}
		if n < largest {
			best, largest = parts, n
		}
	}
	if best == nil { // equal in all that can be asked for
		for _, t := range tuples {
			best = append(best, xtPart{tuples: []conntrack.Tuple{t}})
		}
	}
	return best
}

// byPrefix parts tuples by the first four bits in which their addresses differ.
func (x *xtTree) byPrefix(tuples []conntrack.Tuple, f xtField) (out []xtPart) {
	first := f.addr(tuples[0])
	common := first.BitLen()
	for _, t := range tuples {
		for common > 0 && !netip.PrefixFrom(first, common).Masked().Contains(f.addr(t)) {
			common--
		}
	}
	bits := min(common+4, first.BitLen())
	by := map[netip.Prefix][]conntrack.Tuple{}
	for _, t := range tuples {
		p := netip.PrefixFrom(f.addr(t), bits).Masked()
		by[p] = append(by[p], t)
	}
	match := x.form.src
	if f == xtDst {
		match = x.form.dst
	}
	for p, list := range by {
		part := xtPart{match: match(p) + " ", tuples: list}
		if p.IsSingleIP() {
			part.known = f
		}
		out = append(out, part)
	}
	return out
}

// byPort parts tuples by ranges of ports that hold about as many each.
func (x *xtTree) byPort(tuples []conntrack.Tuple, f xtField) (out []xtPart) {
	sorted := slices.Clone(tuples)
	slices.SortFunc(sorted, func(a, b conntrack.Tuple) int { return int(f.port(a)) - int(f.port(b)) })
	match := x.form.srcPort
	if f == xtDstPort {
		match = x.form.dstPort
	}
	size := (len(sorted) + xtWays - 1) / xtWays
	for len(sorted) > 0 {
		n := min(size, len(sorted))
		from, to := f.port(sorted[0]), f.port(sorted[n-1])
		for n < len(sorted) && f.port(sorted[n]) == to {
			n++
		}
		part := xtPart{match: match(from, to) + " ", tuples: sorted[:n]}
		if from == to {
			part.known = f
		}
		out = append(out, part)
		sorted = sorted[n:]
	}
	return out
}
