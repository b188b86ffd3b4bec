package cut

import (
	"strings"
	"testing"

	"flowcut/conntrack"
)

// Of an offloaded flow the kernel does not tell the state: it lives until the
// contrary is known, and that it was stopped at once nobody can say.
func TestOffloaded(t *testing.T) {
	f := &conntrack.Flow{Has: conntrack.AttrOrig | conntrack.AttrStatus, Status: conntrack.StatusOffload | conntrack.StatusSeenReply}
	f.Orig.Proto = conntrack.ProtoTCP
	m := newMember(f, false)
	if !m.open || m.closed || !m.offload {
		t.Errorf("open %v, closed %v, offloaded %v", m.open, m.closed, m.offload)
	}
	c := cutting{checked: true}
	c.members.add(m)
	m.dead, m.told = [2]bool{true, true}, [2]bool{true, true}
	c.judge()
	if c.receipt.Proven || !strings.Contains(strings.Join(c.reasons, "; "), "flowtable") {
		t.Errorf("proven %v because %v", c.receipt.Proven, c.reasons)
	}
	m.offload = false
	c = cutting{checked: true, members: c.members}
	if c.judge(); !c.receipt.Proven {
		t.Errorf("not proven because %v", c.reasons)
	}
}
