package cut

import (
	"net/netip"
	"testing"

	"flowcut/conntrack"
)

// An entry on a known tuple is the member itself, another flow, or one that
// came back: its ID, its zone and the deletion tell.
func TestKnown(t *testing.T) {
	flow := func(id uint32, zone conntrack.Zone) *conntrack.Flow {
		f := &conntrack.Flow{Has: conntrack.AttrZone, ID: id, Zone: zone}
		f.Orig = conntrack.Tuple{Proto: conntrack.ProtoUDP, Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2"), SrcPort: 1, DstPort: 2}
		f.Reply = f.Orig.Invert()
		return f
	}
	c := new(cutting)
	known := func(f *conntrack.Flow) *member {
		c.listings++
		return c.known(newMember(f, false))
	}
	returned := func() (n int) {
		for _, m := range c.members.list {
			n += int(m.returned)
		}
		return n
	}
	want := func(what string, members, came int) {
		t.Helper()
		if len(c.members.list) != members || returned() != came {
			t.Errorf("%s: %d members, %d returned; want %d and %d", what, len(c.members.list), returned(), members, came)
		}
	}
	first := known(flow(1, 0))
	want("a flow", 1, 0)
	if known(flow(1, 0)) != first {
		t.Error("the same entry is another member")
	}
	second := known(flow(2, 5))
	want("the same tuple in another zone", 2, 0)
	if known(flow(1, 0)) != first || known(flow(2, 5)) != second {
		t.Error("the same entries are other members")
	}
	want("both again", 2, 0)
	if c.known(newMember(flow(2, 5), false)) != nil {
		t.Error("an entry is turned up twice by one listing")
	}
	first.deleted, second.deleted = true, true
	known(flow(1, 0))
	want("put back with the same ID", 2, 1)
	known(flow(3, 0))
	want("a new entry after the deletion", 2, 2)
	reversed := flow(4, 0)
	reversed.Orig, reversed.Reply = reversed.Reply, reversed.Orig
	known(reversed)
	want("one from the other end", 2, 3)
}
