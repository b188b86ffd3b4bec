// Package nft is the small part of the nf_tables protocol that a fence needs:
// typed rules that encode themselves and print themselves as nft(8) writes
// them, batches that the kernel takes whole or not at all, and the counters
// and sets read back.
package nft

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Family is the address family of a table.
type Family uint8

// Families, enum nf_inet_hooks' NFPROTO_ values.
const (
	IPv4 Family = unix.NFPROTO_IPV4
	IPv6 Family = unix.NFPROTO_IPV6
)

func (f Family) String() string {
	if f == IPv6 {
		return "ip6"
	}
	return "ip"
}

// AddrType is the type of the family's addresses.
func (f Family) AddrType() Type {
	if f == IPv6 {
		return TypeIPv6
	}
	return TypeIPv4
}

// EtherType is what [MetaProtocol] is for packets of the family.
func (f Family) EtherType() []byte {
	if f == IPv6 {
		return Port(unix.ETH_P_IPV6)
	}
	return Port(unix.ETH_P_IP)
}

// Table is a table with all that is in it.
type Table struct {
	Family Family
	Name   string
	Owned  bool // only the socket that made it may change it; it dies with the socket. Kernel 5.12
	Sets   []*Set
	Chains []*Chain
}

// Set is a named set.
type Set struct {
	Name     string
	Key      []Type
	Interval bool          // elements are ranges: a start and an end each
	Dynamic  bool          // rules add elements
	Size     uint32        // most elements, 0: no limit; dynamic sets need one
	Timeout  time.Duration // elements live that long, 0: for ever
	Timed    bool          // elements may have a time of their own; so they may where Timeout is not 0
	Elements []Element
}

// Element is one key of a set, each part padded to four bytes.
type Element struct {
	Key     []byte
	End     bool          // first key behind a range, not a part of it
	Timeout time.Duration // the element lives that long, 0: as the set has it
}

// Chain is a chain, with a hook a base chain.
type Chain struct {
	Name       string
	Hook       *Hook
	DropPolicy bool
	Rules      []Rule
}

// Hook says where a base chain is called.
type Hook struct {
	Type     string // "filter" or "nat"
	Num      uint32
	Priority int32
}

// Hooks, enum nf_inet_hooks.
const (
	Prerouting  = unix.NF_INET_PRE_ROUTING
	Input       = unix.NF_INET_LOCAL_IN
	Forward     = unix.NF_INET_FORWARD
	Output      = unix.NF_INET_LOCAL_OUT
	Postrouting = unix.NF_INET_POST_ROUTING
)

// Rule is a list of statements, run until a condition fails or a verdict falls.
type Rule struct {
	Comment    string // shown by nft(8), and the rule's name when counters are read
	Statements []Statement
}

// NewRule returns a rule with a comment, at most 127 bytes.
func NewRule(comment string, s ...Statement) Rule { return Rule{comment, s} }

func (r Rule) String() string {
	words := make([]string, len(r.Statements))
	for i, s := range r.Statements {
		words[i] = s.String()
	}
	if r.Comment != "" {
		words = append(words, fmt.Sprintf("comment %q", r.Comment))
	}
	return strings.Join(words, " ")
}

// String returns the table as a file for nft(8). Elements of sets are counted,
// not listed; the owner flag is left out, since nft(8) would drop the table at
// its exit.
func (t *Table) String() string { return t.text(false) }

// File is String with all elements, so that nft(8) makes the same table of it.
// Keys have one part.
func (t *Table) File() string { return t.text(true) }

func (t *Table) text(elements bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s %s {\n", t.Family, t.Name)
	for _, s := range t.Sets {
		s.write(&b, elements)
	}
	for _, c := range t.Chains {
		c.write(&b)
	}
	b.WriteString("}\n")
	return b.String()
}

func (s *Set) write(b *strings.Builder, elements bool) {
	fmt.Fprintf(b, "\tset %s {\n\t\ttype %s\n", s.Name, typeNames(s.Key))
	var flags []string
	if s.Interval {
		flags = append(flags, "interval")
	}
	if s.Dynamic {
		flags = append(flags, "dynamic")
	}
	if s.timed() {
		flags = append(flags, "timeout")
	}
	if s.Size != 0 {
		fmt.Fprintf(b, "\t\tsize %d\n", s.Size)
	}
	if flags != nil {
		fmt.Fprintf(b, "\t\tflags %s\n", strings.Join(flags, ","))
	}
	if s.Timeout != 0 {
		fmt.Fprintf(b, "\t\ttimeout %dms\n", s.Timeout.Milliseconds())
	}
	switch {
	case len(s.Elements) == 0:
	case elements:
		fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(s.words(), ", "))
	default:
		fmt.Fprintf(b, "\t\t# %d elements\n", len(s.Elements))
	}
	b.WriteString("\t}\n")
}

func (s *Set) timed() bool { return s.Timed || s.Timeout != 0 }

// words are the elements as nft(8) writes them, ranges from end to end.
func (s *Set) words() []string {
	var out []string
	for i, el := range s.Elements {
		if el.End {
			continue
		}
		word := format(s.Key[0], el.Key)
		if s.Interval {
			last := bytes.Repeat([]byte{0xff}, len(el.Key))
			if i+1 < len(s.Elements) && s.Elements[i+1].End {
				last = before(s.Elements[i+1].Key)
			}
			if !bytes.Equal(last, el.Key) {
				word += "-" + format(s.Key[0], last)
			}
		}
		if el.Timeout != 0 {
			word += fmt.Sprintf(" timeout %dms", el.Timeout.Milliseconds())
		}
		out = append(out, word)
	}
	return out
}

// before returns the big-endian number one less, of which there must be one.
func before(key []byte) []byte {
	out := bytes.Clone(key)
	for i := len(out) - 1; i >= 0; i-- {
		if out[i]--; out[i] != 0xff {
			break
		}
	}
	return out
}

func typeNames(key []Type) string {
	names := map[Type]string{TypeIPv4: "ipv4_addr", TypeIPv6: "ipv6_addr", TypeProto: "inet_proto", TypeEther: "ether_type", TypePort: "inet_service", TypeMark: "mark"}
	out := make([]string, len(key))
	for i, t := range key {
		out[i] = names[t]
	}
	return strings.Join(out, " . ")
}

func (c *Chain) write(b *strings.Builder) {
	fmt.Fprintf(b, "\tchain %s {\n", c.Name)
	if c.Hook != nil {
		policy := "accept"
		if c.DropPolicy {
			policy = "drop"
		}
		hooks := [...]string{Prerouting: "prerouting", Input: "input", Forward: "forward", Output: "output", Postrouting: "postrouting"}
		fmt.Fprintf(b, "\t\ttype %s hook %s priority %d; policy %s;\n", c.Hook.Type, hooks[c.Hook.Num], c.Hook.Priority, policy)
	}
	for _, r := range c.Rules {
		fmt.Fprintf(b, "\t\t%s\n", r)
	}
	b.WriteString("\t}\n")
}

// Types of a key, from its operands.
func (k Key) Types() []Type {
	out := make([]Type, len(k))
	for i, o := range k {
		out[i] = o.typ
	}
	return out
}

// Concat joins the parts of a key, each padded to four bytes.
func Concat(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(out, p...)
		for len(out)%4 != 0 {
			out = append(out, 0)
		}
	}
	return slices.Clip(out)
}
