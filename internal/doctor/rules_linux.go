package doctor

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

// table is one of nf_tables.
type table struct {
	family byte
	name   string
	owner  uint32 // port ID of the socket that it belongs to, 0 for none
}

// String is the table in nft(8)'s words.
func (t table) String() string { return families[t.family] + " " + t.name }

var fenceName = regexp.MustCompile(`^flowcut-[0-9a-f]{8}$`)

// fence tells whether a flowcut has made it, or a copy of what one made.
func (t table) fence() bool { return fenceName.MatchString(t.name) }

// fenceChain is the name of a chain of a fence that is made by iptables.
var fenceChain = regexp.MustCompile(`^FLOWCUT-[0-9a-f]{8}(-|$)`)

// What rules do that a cut has to do with.
const (
	useNotrack  = "notrack"
	useZone     = "zone"
	useTProxy   = "tproxy"
	useSynproxy = "synproxy"
	useQueue    = "queue"
)

// use is a rule that does one of these.
type use struct {
	what  string
	where string // table and chain
}

// rules are the rules of the namespace, read when they are first asked for.
type rules struct {
	readTables, readUses bool
	found                []table
	errTables            error
	used                 []use
	errUses              error
	hidden               bool // those of iptables-legacy, from whom is not root
}

func (r *rules) tables() ([]table, error) {
	if !r.readTables {
		r.readTables = true
		r.found, r.errTables = readTables()
	}
	return r.found, r.errTables
}

// of returns where rules do something, each place once.
func (r *rules) of(what string) ([]string, error) {
	if !r.readUses {
		r.readUses = true
		r.used, r.hidden, r.errUses = readUses()
	}
	var out []string
	for _, u := range r.used {
		if u.what == what && !slices.Contains(out, u.where) {
			out = append(out, u.where)
		}
	}
	return out, r.errUses
}

// dumpNFTables lists objects of nf_tables of all families. A kernel without any is an
// error that [rtnl.Missing] knows.
func dumpNFTables(typ uint16) ([][]byte, error) {
	nf, err := rtnl.Dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	defer func() { _ = nf.Close() }()
	return nf.Dump(unix.NFNL_SUBSYS_NFTABLES<<8|typ, []byte{unix.NFPROTO_UNSPEC, 0, 0, 0})
}

func readTables() ([]table, error) {
	msgs, err := dumpNFTables(unix.NFT_MSG_GETTABLE)
	if err != nil {
		return nil, fmt.Errorf("list the tables of nf_tables: %w", err)
	}
	var out []table
	for _, m := range msgs {
		t, err := parseTable(m)
		if err != nil {
			return nil, fmt.Errorf("list the tables of nf_tables: %w", err)
		}
		out = append(out, t)
	}
	return out, nil
}

func parseTable(data []byte) (t table, err error) {
	const owner = 7 // NFTA_TABLE_OWNER
	fixed, err := rtnl.Parse(data, sizeofNfGenMsg, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case unix.NFTA_TABLE_NAME:
			t.name = ad.String()
		case owner:
			t.owner = be32(ad.Bytes())
		}
	})
	if err == nil {
		t.family = fixed[0]
	}
	return t, err
}

// readUses goes through all rules but those of fences: of nf_tables, which has
// those of iptables-nft, too, and of the older iptables, unless that is hidden.
func readUses() (out []use, hidden bool, err error) {
	msgs, err := dumpNFTables(unix.NFT_MSG_GETRULE)
	if err != nil && !rtnl.Missing(err) {
		return nil, false, fmt.Errorf("list the rules of nf_tables: %w", err)
	}
	for _, m := range msgs {
		found, err := parseRule(m)
		if err != nil {
			return nil, false, fmt.Errorf("list the rules of nf_tables: %w", err)
		}
		out = append(out, found...)
	}
	legacy, err := readLegacy()
	if hidden = errors.Is(err, os.ErrPermission); hidden {
		err = nil
	}
	return append(out, legacy...), hidden, err
}

func parseRule(data []byte) ([]use, error) {
	var in table
	var chain string
	var what []string
	fixed, err := rtnl.Parse(data, sizeofNfGenMsg, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case unix.NFTA_RULE_TABLE:
			in.name = ad.String()
		case unix.NFTA_RULE_CHAIN:
			chain = ad.String()
		case unix.NFTA_RULE_EXPRESSIONS:
			rtnl.Inside(ad, func(ad *rtnl.Attr) { // NFTA_LIST_ELEM
				if w := parseExpression(ad); w != "" {
					what = append(what, w)
				}
			})
		}
	})
	if err != nil || in.fence() || fenceChain.MatchString(chain) {
		return nil, err
	}
	in.family = fixed[0]
	var out []use
	for _, w := range what {
		out = append(out, use{w, fmt.Sprintf("%s %s", in, chain)})
	}
	return out, nil
}

// parseExpression returns what an expression does, "" for nothing of interest.
func parseExpression(ad *rtnl.Attr) (what string) {
	var name string
	var data []byte
	rtnl.Inside(ad, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case unix.NFTA_EXPR_NAME:
			name = ad.String()
		case unix.NFTA_EXPR_DATA:
			data = ad.Bytes()
		}
	})
	switch name {
	case "notrack", "tproxy", "synproxy", "queue":
		return name
	case "target", "ct":
		ad.Do(func([]byte) (err error) {
			if name == "ct" {
				what, err = parseCT(data)
			} else {
				what, err = parseTarget(data)
			}
			return err
		})
	}
	return what
}

// parseCT tells whether a ct expression sets a zone.
func parseCT(data []byte) (what string, err error) {
	key, sets := uint32(0), false
	err = rtnl.Each(data, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case unix.NFTA_CT_KEY:
			key = be32(ad.Bytes())
		case unix.NFTA_CT_SREG:
			sets = true
		}
	})
	if sets && key == unix.NFT_CT_ZONE {
		return useZone, err
	}
	return "", err
}

// parseTarget reads a target of iptables inside a rule of nf_tables.
func parseTarget(data []byte) (what string, err error) {
	const info = 3 // NFTA_TARGET_INFO
	var name string
	var body []byte
	err = rtnl.Each(data, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case unix.NFTA_TARGET_NAME:
			name = ad.String()
		case info:
			body = ad.Bytes()
		}
	})
	return judgeTarget(name, body), err
}

// judgeTarget says what a target of iptables does. That of CT begins with
// flags and a zone, struct xt_ct_target_info.
func judgeTarget(name string, info []byte) string {
	const notrack, zoneMark = 1 << 0, 1 << 4 // XT_CT_NOTRACK, XT_CT_ZONE_MARK
	switch name {
	case "NOTRACK":
		return useNotrack
	case "TPROXY":
		return useTProxy
	case "SYNPROXY":
		return useSynproxy
	case "NFQUEUE":
		return useQueue
	case "CT":
		if len(info) < 4 {
			return ""
		}
		flags, zone := binary.NativeEndian.Uint16(info), binary.NativeEndian.Uint16(info[2:])
		switch {
		case flags&notrack != 0:
			return useNotrack
		case zone != 0 || flags&zoneMark != 0:
			return useZone
		}
	}
	return ""
}
