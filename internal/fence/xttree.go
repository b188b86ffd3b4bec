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
	srcPort: func(from, to uint16) string { return fmt.Sprintf("--ctorigsrcport %d:%d", from, to) },
	dstPort: func(from, to uint16) string { return fmt.Sprintf("--ctorigdstport %d:%d", from, to) },
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
	srcPort: func(from, to uint16) string { return fmt.Sprintf("--sport %d:%d", from, to) },
	dstPort: func(from, to uint16) string { return fmt.Sprintf("--dport %d:%d", from, to) },
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

// xtPorts are what stands for ports in a tuple of the kernel.
func xtPorts(t conntrack.Tuple) (src, dst uint16) {
	if t.IsICMP() {
		return t.ICMPID, uint16(t.ICMPType)<<8 | uint16(t.ICMPCode)
	}
	return t.SrcPort, t.DstPort
}

// xtTree makes chains that find a tuple among many: each rule leads to about a
// sixteenth of what is left, whichever addresses and ports there are.
type xtTree struct {
	*xtChange
	form *xtForm
	name func() string // of a new chain
	then string        // what is done with a packet on one of the tuples
}

// xtLeaf is how many tuples a packet is compared with one by one.
const xtLeaf = 8

// grow adds rules to a chain that leave it for packets on one of the tuples.
func (x *xtTree) grow(chain string, tuples []conntrack.Tuple) {
	by := map[conntrack.Proto][]conntrack.Tuple{}
	for _, t := range tuples {
		by[t.Proto] = append(by[t.Proto], t)
	}
	for p, list := range by {
		match := x.form.proto(p) + " "
		if len(list) <= xtLeaf {
			x.leaves(chain, match, list)
			continue
		}
		next := x.name()
		x.chain(next)
		x.add(chain, match+"-j "+next)
		x.branch(next, match, list)
	}
}

// branch fills a chain that packets of the tuples' protocol come to.
func (x *xtTree) branch(chain, match string, tuples []conntrack.Tuple) {
	if len(tuples) <= xtLeaf {
		x.leaves(chain, match, tuples)
		return
	}
	for _, part := range x.split(tuples) {
		if len(part.tuples) <= 1 {
			x.leaves(chain, match, part.tuples)
			continue
		}
		next := x.name()
		x.chain(next)
		x.add(chain, match+part.match+" -j "+next)
		x.branch(next, match, part.tuples)
	}
}

// leaves adds a rule for each tuple.
func (x *xtTree) leaves(chain, match string, tuples []conntrack.Tuple) {
	f := x.form
	for _, t := range tuples {
		rule := match + f.src(whole(t.Src)) + " " + f.dst(whole(t.Dst)) + " "
		if f.ports(t.Proto) {
			src, dst := xtPorts(t)
			rule += f.srcPort(src, src) + " " + f.dstPort(dst, dst) + " "
		} else if rest, ok := f.rest(t); ok {
			rule += rest + " "
		} else {
			continue
		}
		x.add(chain, rule+x.then)
	}
}

func whole(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// xtPart are the tuples that one match leads to.
type xtPart struct {
	match  string
	tuples []conntrack.Tuple
}

// split parts tuples by what parts them best. They are of one protocol.
func (x *xtTree) split(tuples []conntrack.Tuple) []xtPart {
	src := func(t conntrack.Tuple) netip.Addr { return t.Src }
	dst := func(t conntrack.Tuple) netip.Addr { return t.Dst }
	ways := [][]xtPart{byPrefix(tuples, src, x.form.src), byPrefix(tuples, dst, x.form.dst)}
	if x.form.ports(tuples[0].Proto) {
		srcPort := func(t conntrack.Tuple) uint16 { p, _ := xtPorts(t); return p }
		dstPort := func(t conntrack.Tuple) uint16 { _, p := xtPorts(t); return p }
		ways = append(ways, byPort(tuples, srcPort, x.form.srcPort), byPort(tuples, dstPort, x.form.dstPort))
	}
	largest := func(w []xtPart) (n int) {
		for _, p := range w {
			n = max(n, len(p.tuples))
		}
		return n
	}
	best := slices.MinFunc(ways, func(a, b []xtPart) int { return largest(a) - largest(b) })
	if largest(best) == len(tuples) { // equal in all that can be asked for
		best = nil
		for _, t := range tuples {
			best = append(best, xtPart{tuples: []conntrack.Tuple{t}})
		}
	}
	return best
}

// ways is how many parts a split makes at most.
const xtWays = 16

// byPrefix parts tuples by the first four bits in which their addresses differ.
func byPrefix(tuples []conntrack.Tuple, addr func(conntrack.Tuple) netip.Addr, match func(netip.Prefix) string) []xtPart {
	first := addr(tuples[0])
	common := first.BitLen()
	for _, t := range tuples {
		for common > 0 && !netip.PrefixFrom(first, common).Masked().Contains(addr(t)) {
			common--
		}
	}
	bits := min(common+4, first.BitLen())
	by := map[netip.Prefix][]conntrack.Tuple{}
	for _, t := range tuples {
		p := netip.PrefixFrom(addr(t), bits).Masked()
		by[p] = append(by[p], t)
	}
	var out []xtPart
	for p, list := range by {
		out = append(out, xtPart{match(p), list})
	}
	return out
}

// byPort parts tuples by ranges of ports that hold about as many each.
func byPort(tuples []conntrack.Tuple, port func(conntrack.Tuple) uint16, match func(from, to uint16) string) []xtPart {
	sorted := slices.Clone(tuples)
	slices.SortFunc(sorted, func(a, b conntrack.Tuple) int { return int(port(a)) - int(port(b)) })
	size := (len(sorted) + xtWays - 1) / xtWays
	var out []xtPart
	for len(sorted) > 0 {
		n := min(size, len(sorted))
		last := port(sorted[n-1])
		for n < len(sorted) && port(sorted[n]) == last {
			n++
		}
		out = append(out, xtPart{match(port(sorted[0]), last), sorted[:n]})
		sorted = sorted[n:]
	}
	return out
}
