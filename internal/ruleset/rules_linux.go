// Package ruleset looks through the rules of a network namespace for what has to
// do with flows: those of nf_tables, which has the rules of iptables-nft, too,
// and those of iptables-legacy.
package ruleset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"

	"golang.org/x/sys/unix"

	"flowcut/internal/rtnl"
)

const sizeofNfGenMsg = 4 // struct nfgenmsg

// families are how nft(8) writes those of tables.
var families = map[byte]string{
	unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6",
	unix.NFPROTO_NETDEV: "netdev", unix.NFPROTO_BRIDGE: "bridge", unix.NFPROTO_ARP: "arp",
}

// Table is one of nf_tables.
type Table struct {
	Family byte // NFPROTO_IPV4 and so on
	Name   string
	Owner  uint32 // port ID of the socket that it belongs to, 0 for none
}

// String is the table in nft(8)'s words.
func (t Table) String() string { return families[t.Family] + " " + t.Name }

var fenceName = regexp.MustCompile(`^flowcut-[0-9a-f]{8}$`)

// Fence tells whether a flowcut has made it for a cut, or it is a copy of that.
func (t Table) Fence() bool { return fenceName.MatchString(t.Name) }

// fenceChain is the name of a chain of a fence that is made by iptables.
var fenceChain = regexp.MustCompile(`^FLOWCUT-[0-9a-f]{8}(-|$)`)

// Kind is something that rules do.
type Kind string

// What rules do that has to do with flows.
const (
	Notrack   Kind = "notrack"
	Zone      Kind = "zone" // they choose one
	TProxy    Kind = "tproxy"
	Synproxy  Kind = "synproxy"
	Queue     Kind = "queue"
	NAT       Kind = "nat"
	Flow      Kind = "flow"      // go by what else only a flow has: its mark, label, status, direction
	State     Kind = "state"     // go by the state of flows, and not to drop what is in one; or drop what is not tracked
	Untracked Kind = "untracked" // accept all that is not tracked
	Drop      Kind = "drop"      // no rule but the policy of a chain of nf_tables
)

// Use is a rule that does one of these, or a chain.
type Use struct {
	Kind   Kind
	Family byte   // as in Table
	Where  string // table and chain, in nft(8)'s words
}

// Rules are the rules of the calling thread's namespace, read when they are first
// asked for. The zero value is ready.
type Rules struct {
	readTables, readUses bool
	tables               []Table
	errTables            error
	uses                 []Use
	errUses              error

	// Hidden tells that rules of iptables-legacy are not to be seen, from whom is
	// not root. It is known after Of or Uses.
	Hidden bool
}

// Tables returns the tables of nf_tables. A kernel without any is an error that
// [rtnl.Missing] knows.
func (r *Rules) Tables() ([]Table, error) {
	if !r.readTables {
		r.readTables = true
		r.tables, r.errTables = Tables()
	}
	return r.tables, r.errTables
}

// Uses returns what rules do, but for those of fences.
func (r *Rules) Uses() ([]Use, error) {
	if !r.readUses {
		r.readUses = true
		r.uses, r.Hidden, r.errUses = readUses()
	}
	return r.uses, r.errUses
}

// Of returns where rules do something, each place once.
func (r *Rules) Of(what Kind) ([]string, error) {
	uses, err := r.Uses()
	var out []string
	for _, u := range uses {
		if u.Kind == what && !slices.Contains(out, u.Where) {
			out = append(out, u.Where)
		}
	}
	return out, err
}

// dump lists objects of nf_tables of all families. A kernel without any is an
// error that [rtnl.Missing] knows.
func dump(typ uint16) ([][]byte, error) {
	nf, err := rtnl.Dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	defer func() { _ = nf.Close() }()
	return nf.Dump(unix.NFNL_SUBSYS_NFTABLES<<8|typ, []byte{unix.NFPROTO_UNSPEC, 0, 0, 0})
}

// Tables is [Rules.Tables], read anew.
func Tables() ([]Table, error) {
	msgs, err := dump(unix.NFT_MSG_GETTABLE)
	if err != nil {
		return nil, fmt.Errorf("list the tables of nf_tables: %w", err)
	}
	var out []Table
	for _, m := range msgs {
		t, err := parseTable(m)
		if err != nil {
			return nil, fmt.Errorf("list the tables of nf_tables: %w", err)
		}
		out = append(out, t)
	}
	return out, nil
}

func parseTable(data []byte) (t Table, err error) {
	const owner = 7 // NFTA_TABLE_OWNER
	fixed, err := rtnl.Parse(data, sizeofNfGenMsg, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case unix.NFTA_TABLE_NAME:
			t.Name = ad.String()
		case owner:
			t.Owner = be32(ad.Bytes())
		}
	})
	if err == nil {
		t.Family = fixed[0]
	}
	return t, err
}

// readUses goes through all rules and chains but those of fences.
func readUses() (out []Use, hidden bool, err error) {
	for _, l := range []struct {
		what  string
		typ   uint16
		parse func([]byte) ([]Use, error)
	}{{"rules", unix.NFT_MSG_GETRULE, parseRule}, {"chains", unix.NFT_MSG_GETCHAIN, parseChain}} {
		msgs, err := dump(l.typ)
		if err != nil && !rtnl.Missing(err) {
			return nil, false, fmt.Errorf("list the %s of nf_tables: %w", l.what, err)
		}
		for _, m := range msgs {
			found, err := l.parse(m)
			if err != nil {
				return nil, false, fmt.Errorf("list the %s of nf_tables: %w", l.what, err)
			}
			out = append(out, found...)
		}
	}
	legacy, err := readLegacy()
	if hidden = errors.Is(err, os.ErrPermission); hidden {
		err = nil
	}
	return append(out, legacy...), hidden, err
}

// parseChain tells whether the policy of a chain is to drop.
func parseChain(data []byte) ([]Use, error) {
	var in Table
	var chain string
	drops := false
	fixed, err := rtnl.Parse(data, sizeofNfGenMsg, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case unix.NFTA_CHAIN_TABLE:
			in.Name = ad.String()
		case unix.NFTA_CHAIN_NAME:
			chain = ad.String()
		case unix.NFTA_CHAIN_POLICY:
			drops = be32(ad.Bytes()) == verdictDrop
		}
	})
	if err != nil || !drops || in.Fence() {
		return nil, err
	}
	in.Family = fixed[0]
	return []Use{{Drop, in.Family, in.String() + " " + chain}}, nil
}

func parseRule(data []byte) ([]Use, error) {
	var in Table
	var chain string
	var does rule
	fixed, err := rtnl.Parse(data, sizeofNfGenMsg, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case unix.NFTA_RULE_TABLE:
			in.Name = ad.String()
		case unix.NFTA_RULE_CHAIN:
			chain = ad.String()
		case unix.NFTA_RULE_EXPRESSIONS:
			rtnl.Inside(ad, does.expression) // NFTA_LIST_ELEM
		}
	})
	if err != nil || in.Fence() || fenceChain.MatchString(chain) {
		return nil, err
	}
	in.Family = fixed[0]
	return does.uses(in.Family, in.String()+" "+chain), nil
}

// be32 is how the numbers of nf_tables are written.
func be32(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}
