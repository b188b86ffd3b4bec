package selector

import (
	"errors"
	"fmt"
	"strings"

	"flowcut/internal/oneline"
)

// setPrefix begins an item that names a set of nf_tables.
const setPrefix = "@nft:"

const hintSet = "write @nft:FAMILY/TABLE/SET, such as @nft:inet/f2b-table/addr-set-sshd"

// set returns the ranges in the set of nf_tables that FAMILY/TABLE/SET names.
// The name of a set may have a slash, that of a table not here.
func (p *parser) set(ref string) ([]AddrRange, *Error) {
	value := setPrefix + ref
	family, rest, _ := strings.Cut(ref, "/")
	table, name, _ := strings.Cut(rest, "/")
	if family == "" || table == "" || name == "" {
		return nil, wrong(value, "not the name of a set", hintSet)
	}
	switch family {
	case "ip", "ip6", "inet":
	case "arp", "bridge", "netdev":
		return nil, wrong(value, "sets of the family "+family+" are not read", "name one of the family ip, ip6 or inet")
	default:
		return nil, wrong(value, "unknown family "+oneline.Value(family), hintSet)
	}
	const most = 255 // NFT_NAME_MAXLEN, with the zero
	if len(table) > most || len(name) > most {
		return nil, wrong(value, fmt.Sprintf("a name of more than %d bytes, which no table or set has", most), hintSet)
	}
	if p.nft == nil {
		return nil, wrong(value, "sets of nf_tables cannot be read here", "give the addresses, or a file with them")
	}
	rs, err := p.nft(family, table, name)
	if err == nil {
		return rs, nil
	}
	if bad, ok := errors.AsType[*Error](err); ok {
		bad.Value = value
		return nil, bad
	}
	p.failed = err
	return nil, &Error{Value: value, Err: err}
}
