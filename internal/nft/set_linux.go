package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"flowcut/internal/rtnl"
)

// Inet is the family of tables for IPv4 and IPv6, NFPROTO_INET. Fences do not
// use it, but the sets of others are there.
const Inet Family = unix.NFPROTO_INET

// families are those whose sets can hold what a flow has, by nft(8)'s names.
var families = map[string]Family{"ip": IPv4, "ip6": IPv6, "inet": Inet}

// ParseFamily reads a family of tables as nft(8) writes it: ip, ip6 or inet.
func ParseFamily(name string) (f Family, ok bool) {
	f, ok = families[name]
	return f, ok
}

// Numbers of enum nft_set_elem_flags, nft_set_attributes and
// nft_set_elem_attributes that x/sys/unix lacks.
const (
	elemCatchAll = 0x2  // NFT_SET_ELEM_CATCHALL
	elemKeyEnd   = 0x0a // NFTA_SET_ELEM_KEY_END
)

// SetHeader is what the kernel says of a named set or map that anybody made.
type SetHeader struct {
	Family   Family
	Table    string
	Name     string
	KeyType  uint32 // nft(8)'s number of the key's type; a concatenation has six bits a part
	KeyLen   int    // bytes
	Interval bool   // elements are ranges

	anonymous bool // belongs to one rule
}

// Type is the type of the keys in words, such as "ipv4_addr" or
// "inet_proto . inet_service"; types that are not known are numbers.
func (s SetHeader) Type() string {
	const bits = 6 // TYPE_BITS of nft(8)
	var name string
	for t := s.KeyType; ; t >>= bits {
		part, ok := keyTypes[t&(1<<bits-1)]
		if !ok {
			part = fmt.Sprintf("type %d", t&(1<<bits-1))
		}
		if name != "" {
			part += " . " + name
		}
		name = part
		if t>>bits == 0 {
			return name
		}
	}
}

// keyTypes are enum datatypes of nft(8), those that sets are made of.
var keyTypes = map[uint32]string{
	TypeIPv4.ID: "ipv4_addr", TypeIPv6.ID: "ipv6_addr", 9: "ether_addr", TypeProto.ID: "inet_proto",
	TypePort.ID: "inet_service", TypeMark.ID: "mark", 41: "ifname",
}

// Addrs tells whether the keys are addresses.
func (s SetHeader) Addrs() bool {
	return s.KeyType == TypeIPv4.ID && s.KeyLen == TypeIPv4.Len || s.KeyType == TypeIPv6.ID && s.KeyLen == TypeIPv6.Len
}

// String is the set's name as nft(8) would take it, with slashes.
func (s SetHeader) String() string {
	for name, f := range families {
		if f == s.Family {
			return name + "/" + s.Table + "/" + s.Name
		}
	}
	return fmt.Sprintf("%d/%s/%s", uint8(s.Family), s.Table, s.Name)
}

// HasTable tells whether there is a table.
func (c *Conn) HasTable(f Family, name string) (bool, error) {
	_, err := c.get(unix.NFT_MSG_GETTABLE, f, func(e *encoder) { e.str(unix.NFTA_TABLE_NAME, name) })
	switch {
	case errors.Is(err, os.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("nft: look for table %s: %w", name, err)
	}
	return true, nil
}

// Set returns the header of a named set; the error wraps os.ErrNotExist when
// there is none.
func (c *Conn) Set(f Family, table, name string) (SetHeader, error) {
	set, err := c.get(unix.NFT_MSG_GETSET, f, func(e *encoder) {
		e.str(unix.NFTA_SET_TABLE, table)
		e.str(unix.NFTA_SET_NAME, name)
	})
	if err != nil {
		return SetHeader{}, fmt.Errorf("nft: look for set %s in table %s: %w", name, table, err)
	}
	return parseHeader(set)
}

// Sets returns the headers of all named sets and maps in tables of the
// families ip, ip6 and inet.
func (c *Conn) Sets() ([]SetHeader, error) {
	msgs, err := c.dump(unix.NFT_MSG_GETSET, unix.NFPROTO_UNSPEC, func(*encoder) {})
	if err != nil {
		return nil, fmt.Errorf("nft: list sets: %w", err)
	}
	var out []SetHeader
	for _, m := range msgs {
		s, err := parseHeader(m)
		if err != nil {
			return nil, err
		}
		if !s.anonymous && slices.Contains([]Family{IPv4, IPv6, Inet}, s.Family) {
			out = append(out, s)
		}
	}
	return out, nil
}

// get asks for one object.
func (c *Conn) get(typ uint16, f Family, fill func(e *encoder)) ([]byte, error) {
	e := &encoder{b: []byte{byte(f), 0, 0, 0}} // struct nfgenmsg
	fill(e)
	return c.nl.Ask(unix.NFNL_SUBSYS_NFTABLES<<8|typ, 0, e.b)
}

// atRest reads until no transaction ran meanwhile. The kernel marks a dump that
// was interrupted between two of its messages, not within one.
func (c *Conn) atRest(read func() ([][]byte, error)) ([][]byte, error) {
	const tries = 100
	for range tries {
		before, err := c.Generation()
		if err != nil {
			return nil, err
		}
		msgs, err := read()
		if err != nil {
			return nil, err
		}
		if after, err := c.Generation(); err != nil || after == before {
			return msgs, err
		}
	}
	return nil, errInterrupted
}

// Generation returns the number of the last transaction, when that is over:
// an empty one, which has no number, waits for it.
func (c *Conn) Generation() (uint32, error) {
	if err := c.nl.Batch([]rtnl.Message{bracket(unix.NFNL_MSG_BATCH_BEGIN), bracket(unix.NFNL_MSG_BATCH_END)}); err != nil {
		return 0, fmt.Errorf("nft: generation of the ruleset: %w", err)
	}
	gen, err := c.get(unix.NFT_MSG_GETGEN, unix.NFPROTO_UNSPEC, func(*encoder) {})
	if err != nil {
		return 0, fmt.Errorf("nft: generation of the ruleset: %w", err)
	}
	var id uint32
	err = walk(gen, unix.NFTA_GEN_ID, func(v []byte) error { id = u32(v); return nil })
	return id, err
}

func parseHeader(data []byte) (s SetHeader, err error) {
	if len(data) < 4 {
		return s, fmt.Errorf("nft: a set in %d bytes", len(data))
	}
	s.Family = Family(data[0])
	err = attrs(data[4:], func(typ uint16, v []byte) error {
		switch typ {
		case unix.NFTA_SET_TABLE:
			s.Table = str(v)
		case unix.NFTA_SET_NAME:
			s.Name = str(v)
		case unix.NFTA_SET_KEY_TYPE:
			s.KeyType = u32(v)
		case unix.NFTA_SET_KEY_LEN:
			s.KeyLen = int(u32(v))
		case unix.NFTA_SET_FLAGS:
			s.Interval = u32(v)&unix.NFT_SET_INTERVAL != 0
			s.anonymous = u32(v)&unix.NFT_SET_ANONYMOUS != 0
		}
		return nil
	})
	if err != nil {
		return SetHeader{}, err
	}
	return s, nil
}

// AddrRange is a range of addresses, both ends included.
type AddrRange struct{ From, To netip.Addr }

// Ranges returns the addresses that are in a set now, sorted; Addrs must hold
// for it. Elements whose time is over are not in it any more. While packets add
// to the set, an element may be left out.
func (c *Conn) Ranges(s SetHeader) ([]AddrRange, error) {
	msgs, err := c.atRest(func() ([][]byte, error) {
		return c.dump(unix.NFT_MSG_GETSETELEM, s.Family, func(e *encoder) {
			e.str(unix.NFTA_SET_ELEM_LIST_TABLE, s.Table)
			e.str(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
		})
	})
	if err != nil {
		return nil, fmt.Errorf("nft: list set %s: %w", s, err)
	}
	r := ranger{set: s}
	for _, m := range msgs {
		err := walk(m, unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(elems []byte) error {
			return attrs(elems, func(_ uint16, elem []byte) error { return r.add(elem) })
		})
		if err != nil {
			return nil, err
		}
	}
	return r.ranges(), nil
}

// ranger makes ranges of elements.
type ranger struct {
	set    SetHeader
	whole  []AddrRange
	bounds []bound
}

// bound is a key of an interval set: the first of a range, or the first behind one.
type bound struct {
	addr netip.Addr
	end  bool
}

func (r *ranger) add(elem []byte) error {
	var key, last []byte
	var flags uint32
	err := attrs(elem, func(typ uint16, v []byte) error {
		switch typ {
		case unix.NFTA_SET_ELEM_KEY:
			return find(v, unix.NFTA_DATA_VALUE, func(v []byte) error { key = v; return nil })
		case elemKeyEnd:
			return find(v, unix.NFTA_DATA_VALUE, func(v []byte) error { last = v; return nil })
		case unix.NFTA_SET_ELEM_FLAGS:
			flags = u32(v)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if flags&elemCatchAll != 0 {
		r.whole = append(r.whole, AddrRange{r.first(), r.last()})
		return nil
	}
	from, ok := netip.AddrFromSlice(key)
	if !ok || len(key) != r.set.KeyLen {
		return fmt.Errorf("nft: set %s: a key of %d bytes", r.set, len(key))
	}
	to, isRange := netip.AddrFromSlice(last)
	switch {
	case isRange && (len(last) != len(key) || to.Less(from)), !isRange && last != nil:
		return fmt.Errorf("nft: set %s: a range from %x to %x", r.set, key, last)
	case isRange:
		r.whole = append(r.whole, AddrRange{from, to})
	case !r.set.Interval:
		r.whole = append(r.whole, AddrRange{from, from})
	default:
		r.bounds = append(r.bounds, bound{from, flags&unix.NFT_SET_ELEM_INTERVAL_END != 0})
	}
	return nil
}

// first returns the lowest address there is.
func (r *ranger) first() netip.Addr {
	a, _ := netip.AddrFromSlice(make([]byte, r.set.KeyLen))
	return a
}

// last returns the highest address there is.
func (r *ranger) last() netip.Addr {
	a, _ := netip.AddrFromSlice(bytes.Repeat([]byte{0xff}, r.set.KeyLen))
	return a
}

// ranges pairs the bounds: a range goes to the next bound, the last one to the
// last address. An end without a beginning is what is left of a range whose
// time is over, or nft(8)'s mark before the first.
func (r *ranger) ranges() []AddrRange {
	slices.SortFunc(r.bounds, func(a, b bound) int {
		if c := a.addr.Compare(b.addr); c != 0 || a.end == b.end {
			return c
		}
		if a.end {
			return -1
		}
		return 1
	})
	out := r.whole
	for i, b := range r.bounds {
		switch {
		case b.end:
		case i+1 == len(r.bounds):
			out = append(out, AddrRange{b.addr, r.last()})
		case r.bounds[i+1].addr != b.addr:
			out = append(out, AddrRange{b.addr, r.bounds[i+1].addr.Prev()})
		}
	}
	slices.SortFunc(out, func(a, b AddrRange) int { return a.From.Compare(b.From) })
	return out
}

func u32(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(v)
}
