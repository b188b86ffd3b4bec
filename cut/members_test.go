package cut

import (
	"strings"
	"testing"

	"flowcut/conntrack"
	"flowcut/selector"
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
	c := newCutting(Options{}, selector.Selector{})
	c.checked = true
	c.members.add(m)
	m.dead, m.told = [2]bool{true, true}, [2]bool{true, true}
	c.report()
	if r := c.requests[0].receipt; r.Proven || !strings.Contains(r.Reason, "flowtable") {
		t.Errorf("proven %v because %v", r.Proven, r.Reason)
	}
	m.offload = false
	c.report()
	if r := c.requests[0].receipt; !r.Proven {
		t.Errorf("not proven because %v", r.Reason)
	}
}
