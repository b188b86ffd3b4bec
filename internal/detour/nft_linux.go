package detour

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"flowcut/internal/netns"
	"flowcut/internal/rtnl"
)

const sizeofNfGenMsg = 4 // struct nfgenmsg

// Attributes of a flowtable, enum nft_flowtable_attributes.
const (
	attrFlowtableTable = 1 // NFTA_FLOWTABLE_TABLE
	attrFlowtableName  = 2 // NFTA_FLOWTABLE_NAME
	attrFlowtableHook  = 3 // NFTA_FLOWTABLE_HOOK
	attrFlowtableFlags = 7 // NFTA_FLOWTABLE_FLAGS
)

// Where the hooks of flowtables and chains have their devices, and how these
// are named.
const (
	attrFlowtableDevices = 3 // NFTA_FLOWTABLE_HOOK_DEVS
	attrHookDevices      = 4 // NFTA_HOOK_DEVS, since Linux 5.5
	attrDeviceName       = 1 // NFTA_DEVICE_NAME
	attrDevicePrefix     = 2 // NFTA_DEVICE_PREFIX, since Linux 6.17
)

// families are how nft(8) writes those that can have flowtables.
var families = map[byte]string{
	unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_NETDEV: "netdev",
}

// hook is where a flowtable or a base chain sits.
type hook struct {
	num      uint32
	names    []string // of devices
	prefixes []string
}

func (h hook) on(d *device) bool {
	return slices.Contains(h.names, d.name) ||
		slices.ContainsFunc(h.prefixes, func(p string) bool { return strings.HasPrefix(d.name, p) })
}

// parse reads the attributes of a hook; devices is the one with its devices.
func (h *hook) parse(ad *rtnl.Attr, devices uint16) {
	rtnl.Inside(ad, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case unix.NFTA_HOOK_HOOKNUM: // NFTA_FLOWTABLE_HOOK_NUM is the same
			h.num = bigEndian(ad)
		case devices:
			rtnl.Inside(ad, func(ad *rtnl.Attr) {
				switch ad.Type() {
				case attrDeviceName:
					h.names = append(h.names, ad.String())
				case attrDevicePrefix:
					h.prefixes = append(h.prefixes, ad.String())
				}
			})
		}
		if ad.Type() == unix.NFTA_HOOK_DEV && devices == attrHookDevices {
			h.names = append(h.names, ad.String())
		}
	})
}

// bigEndian returns a number as nf_tables writes it.
func bigEndian(ad *rtnl.Attr) (v uint32) {
	ad.Do(func(b []byte) error {
		if len(b) != 4 {
			return fmt.Errorf("attribute %d has %d bytes, not 4", ad.Type(), len(b))
		}
		v = binary.BigEndian.Uint32(b)
		return nil
	})
	return v
}

// readNFTables looks at flowtables, and at rules that forward what comes in.
func (s *scan) readNFTables() error {
	nf, err := rtnl.Dial(unix.NETLINK_NETFILTER)
	if err != nil {
		if rtnl.Missing(err) {
			return nil
		}
		return err
	}
	defer func() { _ = nf.Close() }()
	msgs, err := dumpTables(nf, unix.NFT_MSG_GETFLOWTABLE, unix.NFPROTO_UNSPEC)
	if err != nil {
		return fmt.Errorf("list flowtables: %w", err)
	}
	for _, m := range msgs {
		if err := s.judgeFlowtable(m); err != nil {
			return fmt.Errorf("list flowtables: %w", err)
		}
	}
	return s.readForwards(nf)
}

// Flowtables tells whether the namespace has flowtables, and whether one of them
// gives flows to hardware. netNS is as for [Find].
func Flowtables(netNS int) (some, hardware bool, err error) {
	err = netns.DoFd(netNS, func() error {
		msgs, err := flowtables()
		for _, m := range msgs {
			f, bad := parseFlowtable(m)
			some, hardware, err = true, hardware || f.hardware, errors.Join(err, bad)
		}
		return err
	})
	if err != nil {
		return some, hardware, fmt.Errorf("detour: list flowtables: %w", err)
	}
	return some, hardware, nil
}

func flowtables() ([][]byte, error) {
	nf, err := rtnl.Dial(unix.NETLINK_NETFILTER)
	if rtnl.Missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = nf.Close() }()
	return dumpTables(nf, unix.NFT_MSG_GETFLOWTABLE, unix.NFPROTO_UNSPEC)
}

func dumpTables(nf *rtnl.Conn, typ uint16, family byte) ([][]byte, error) {
	msgs, err := nf.Dump(unix.NFNL_SUBSYS_NFTABLES<<8|typ, []byte{family, 0, 0, 0})
	if err != nil && !rtnl.Missing(err) {
		return nil, err
	}
	return msgs, nil
}

// flowtable is one of nf_tables.
type flowtable struct {
	table, name string
	hook        hook
	hardware    bool // gives its flows to hardware
}

func parseFlowtable(data []byte) (f flowtable, err error) {
	const offload = 1 // NFT_FLOWTABLE_HW_OFFLOAD
	fixed, err := rtnl.Parse(data, sizeofNfGenMsg, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case attrFlowtableTable:
			f.table = ad.String()
		case attrFlowtableName:
			f.name = ad.String()
		case attrFlowtableHook:
			f.hook.parse(ad, attrFlowtableDevices)
		case attrFlowtableFlags:
			f.hardware = bigEndian(ad)&offload != 0
		}
	})
	if err == nil {
		f.table = families[fixed[0]] + " " + f.table
	}
	return f, err
}

func (s *scan) judgeFlowtable(data []byte) error {
	f, err := parseFlowtable(data)
	if err != nil {
		return err
	}
	hardware := ""
	if f.hardware {
		hardware = ", with hardware offload"
	}
	for _, d := range s.working() {
		if f.hook.on(d) {
			s.report(Flowtable, d, "%s %s%s", f.table, f.name, hardware)
		}
	}
	return nil
}

// chain is one of the family netdev.
type chain struct{ table, name string }

// readForwards looks for rules of the family netdev, the only one that has
// fwd. A rule in a chain that no hook calls counts for all that hooks call in
// its table, for which of them jump to it is not followed.
func (s *scan) readForwards(nf *rtnl.Conn) error {
	chains, err := dumpTables(nf, unix.NFT_MSG_GETCHAIN, unix.NFPROTO_NETDEV)
	if err != nil || len(chains) == 0 {
		return err
	}
	hooks := map[chain]hook{}
	for _, m := range chains {
		if err := parseChain(m, hooks); err != nil {
			return fmt.Errorf("list chains: %w", err)
		}
	}
	rules, err := dumpTables(nf, unix.NFT_MSG_GETRULE, unix.NFPROTO_NETDEV)
	if err != nil {
		return fmt.Errorf("list rules: %w", err)
	}
	for _, m := range rules {
		in, forwards, err := parseRuleOfChain(m)
		if err != nil {
			return fmt.Errorf("list rules: %w", err)
		}
		if forwards {
			s.reportForward(in, hooks)
		}
	}
	return nil
}

func (s *scan) reportForward(in chain, hooks map[chain]hook) {
	_, base := hooks[in]
	for at, h := range hooks {
		if at.table != in.table || base && at != in || h.num != unix.NF_NETDEV_INGRESS {
			continue
		}
		for _, d := range s.working() {
			if h.on(d) {
				s.report(Forward, d, "table %s, chain %s", in.table, in.name)
			}
		}
	}
}

// parseChain adds the hook of a chain, if it has one.
func parseChain(data []byte, hooks map[chain]hook) error {
	var c chain
	var h *hook
	_, err := rtnl.Parse(data, sizeofNfGenMsg, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case unix.NFTA_CHAIN_TABLE:
			c.table = ad.String()
		case unix.NFTA_CHAIN_NAME:
			c.name = ad.String()
		case unix.NFTA_CHAIN_HOOK:
			h = &hook{}
			h.parse(ad, attrHookDevices)
		}
	})
	if h != nil {
		hooks[c] = *h
	}
	return err
}

// parseRuleOfChain tells where a rule is and whether it has a fwd.
func parseRuleOfChain(data []byte) (in chain, forwards bool, err error) {
	_, err = rtnl.Parse(data, sizeofNfGenMsg, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case unix.NFTA_RULE_TABLE:
			in.table = ad.String()
		case unix.NFTA_RULE_CHAIN:
			in.name = ad.String()
		case unix.NFTA_RULE_EXPRESSIONS:
			rtnl.Inside(ad, func(ad *rtnl.Attr) { // NFTA_LIST_ELEM
				rtnl.Inside(ad, func(ad *rtnl.Attr) {
					forwards = forwards || ad.Type() == unix.NFTA_EXPR_NAME && ad.String() == "fwd"
				})
			})
		}
	})
	return in, forwards, err
}
