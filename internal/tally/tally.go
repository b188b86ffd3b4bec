// Package tally counts flows by what they have in common: their server, client, port,
// protocol, NAT target or zone.
package tally

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"flowcut/conntrack"
)

// By is what flows are grouped by.
type By uint8

// The groups that flows can be put in.
const (
	Server    By = iota // the address that the originator sends to
	Client              // the originator's address
	Port                // the protocol and the port that the originator sends to
	Protocol            // the protocol
	NATTarget           // what NAT makes of an end: the address that a flow with DNAT reaches, or that one with SNAT is seen by
	Zone                // the zone of the original direction
)

// All has each By, in order.
var All = []By{Server, Client, Port, Protocol, NATTarget, Zone}

var names = [...]string{"server", "client", "port", "protocol", "nat-target", "zone"}

// String returns a name such as "nat-target".
func (b By) String() string { return names[b] }

// ParseBy reads what String returns.
func ParseBy(s string) (By, error) {
	if i := slices.Index(names[:], s); i >= 0 {
		return By(i), nil
	}
	return 0, fmt.Errorf("unknown group %q, write one of %s", s, strings.Join(names[:], ", "))
}

// Key is what the flows of a group have in common. It is comparable.
type Key struct {
	By    By
	Addr  netip.Addr      // Server, Client, NATTarget
	Proto conntrack.Proto // Port, Protocol
	Port  uint16          // Port
	Zone  conntrack.Zone  // Zone
}

// KeyOf returns the key of a flow's group. There is none, and ok is false, for flows
// without NAT by NATTarget, and for those whose protocol has no ports by Port.
func KeyOf(by By, f *conntrack.Flow) (k Key, ok bool) {
	k.By = by
	switch by {
	case Server:
		k.Addr = f.Orig.Dst
	case Client:
		k.Addr = f.Orig.Src
	case Port:
		k.Proto, k.Port = f.Orig.Proto, f.Orig.DstPort
		return k, f.Orig.HasPorts()
	case Protocol:
		k.Proto = f.Orig.Proto
	case NATTarget:
		return natTarget(f)
	case Zone:
		k.Zone = f.Key().Zone
	}
	return k, true
}

// natTarget prefers what the destination becomes: that a source is masqueraded as
// well is a detail of hairpins.
func natTarget(f *conntrack.Flow) (k Key, ok bool) {
	k.By = NATTarget
	switch o, r := &f.Orig, &f.Reply; {
	case f.Has&conntrack.AttrReply == 0:
		return k, false
	case r.Src != o.Dst:
		k.Addr = r.Src
	case r.Dst != o.Src:
		k.Addr = r.Dst
	default:
		return k, false
	}
	return k, true
}

// String returns what the group is called, such as "tcp/443" for a port.
func (k Key) String() string {
	switch k.By {
	case Port:
		return k.Proto.String() + "/" + strconv.Itoa(int(k.Port))
	case Protocol:
		return k.Proto.String()
	case Zone:
		return strconv.Itoa(int(k.Zone))
	}
	return k.Addr.String()
}

// Args returns the flags of the selector that means the flows of the group: of a NAT
// target those with DNAT to it and of those with SNAT by it only one can be said, so
// dnat tells which.
func (k Key) Args(dnat bool) []string {
	switch k.By {
	case Server:
		return []string{"-d", k.Addr.String()}
	case Client:
		return []string{"-s", k.Addr.String()}
	case Port:
		return []string{"-p", k.Proto.String(), "--dport", strconv.Itoa(int(k.Port))}
	case Protocol:
		return []string{"-p", k.Proto.String()}
	case Zone:
		return []string{"-w", strconv.Itoa(int(k.Zone))}
	}
	if dnat {
		return []string{"--dst-nat=" + addrOf(k.Addr)}
	}
	return []string{"--src-nat=" + addrOf(k.Addr)}
}

func addrOf(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

// Sum is what the flows of a group come to. Packets and bytes are of both
// directions, and zero where the kernel does not count them.
type Sum struct {
	Flows     int
	Packets   uint64
	Bytes     uint64
	Unreplied int // of the flows, those that nobody has answered

	// Rate is bytes a second. One listing of flows does not tell it: who has two
	// adds it to what Add returns.
	Rate float64

	// Oldest is when the first of the flows began that have timestamps.
	Oldest time.Time
}

// Add adds a flow.
func (s *Sum) Add(f *conntrack.Flow) {
	s.Flows++
	s.Packets += f.OrigCounters.Packets + f.ReplyCounters.Packets
	s.Bytes += f.OrigCounters.Bytes + f.ReplyCounters.Bytes
	if f.Status&conntrack.StatusSeenReply == 0 {
		s.Unreplied++
	}
	if f.Has&conntrack.AttrStart != 0 && (s.Oldest.IsZero() || f.Start.Before(s.Oldest)) {
		s.Oldest = f.Start
	}
}

// Row is a group and its sum.
type Row struct {
	Key
	Sum
}

// Tally is the sums of all groups of one kind. Its memory is bounded: beyond the
// most groups that it keeps it gives up the smaller half, so that the sums of groups
// that come up again later are too small; see [Tally.Dropped].
type Tally struct {
	by      By
	most    int
	sums    map[Key]*Sum
	dropped int
}

// DefaultGroups is how many groups a Tally keeps, some 100 bytes each.
const DefaultGroups = 1 << 17

// New returns an empty Tally. most of 0 means [DefaultGroups].
func New(by By, most int) *Tally {
	if most == 0 {
		most = DefaultGroups
	}
	return &Tally{by: by, most: most, sums: make(map[Key]*Sum)}
}

// By returns what the flows are grouped by.
func (t *Tally) By() By { return t.by }

// Add adds a flow and returns the sum of its group, nil if it belongs to none. The
// flow is not kept; the sum may be changed until the next Add.
func (t *Tally) Add(f *conntrack.Flow) *Sum {
	k, ok := KeyOf(t.by, f)
	if !ok {
		return nil
	}
	s := t.sums[k]
	if s == nil {
		if len(t.sums) >= t.most {
			t.drop()
		}
		s = new(Sum)
		t.sums[k] = s
	}
	s.Add(f)
	return s
}

// Remove takes a flow out that has ended, and the bytes that were counted of it.
// A group without flows is no more. What else was counted of the flow stays.
func (t *Tally) Remove(f *conntrack.Flow, bytes uint64) {
	k, ok := KeyOf(t.by, f)
	s := t.sums[k]
	if !ok || s == nil {
		return
	}
	s.Flows--
	s.Bytes -= min(s.Bytes, bytes)
	s.Unreplied = min(s.Unreplied, s.Flows)
	if s.Flows <= 0 {
		delete(t.sums, k)
	}
}

// drop gives up the half of the groups with the fewest flows.
func (t *Tally) drop() {
	flows := make([]int, 0, len(t.sums))
	for _, s := range t.sums {
		flows = append(flows, s.Flows)
	}
	slices.Sort(flows)
	limit, left := flows[len(flows)/2], len(flows)/2
	for k, s := range t.sums {
		if s.Flows < limit {
			delete(t.sums, k)
			t.dropped++
		}
	}
	for k, s := range t.sums {
		if len(t.sums) <= left {
			break
		}
		if s.Flows == limit {
			delete(t.sums, k)
			t.dropped++
		}
	}
}

// Len returns the number of groups that are kept.
func (t *Tally) Len() int { return len(t.sums) }

// Dropped returns how many groups were given up. If it is not 0, all sums are "at
// least".
func (t *Tally) Dropped() int { return t.dropped }

// Get returns the sum of a group, zero if it is not there.
func (t *Tally) Get(k Key) Sum {
	if s := t.sums[k]; s != nil {
		return *s
	}
	return Sum{}
}

// Top returns the n groups that come first by less, the greatest sum of flows first
// if that is nil; groups that are equal are in the order of their names.
func (t *Tally) Top(n int, less func(a, b *Row) int) []Row {
	if less == nil {
		less = func(a, b *Row) int { return cmp.Compare(b.Flows, a.Flows) }
	}
	order := func(a, b *Row) int {
		return cmp.Or(less(a, b), a.Addr.Compare(b.Addr), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Zone, b.Zone))
	}
	first := NewFirsts(n, order)
	var r Row // one for all, or each would need memory of its own
	for k, sum := range t.sums {
		if r = (Row{k, *sum}); first.Wants(&r) {
			first.Add(r)
		}
	}
	return first.Values()
}
