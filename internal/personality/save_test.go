package personality

import (
	"encoding/json"
	"testing"

	"flowcut/conntrack"
	"flowcut/internal/conntrack8"
	"flowcut/internal/lab/labtest"
)

// FuzzSave: what -o save makes of any flow is a line that -R takes, for a flow with
// the same tuples.
func FuzzSave(f *testing.F) {
	labtest.Seeds(f, "../../conntrack/testdata/flow/*.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		var x conntrack.Flow
		if json.Unmarshal(b, &x) != nil || x.Has&conntrack.AttrOrig == 0 || x.Has&conntrack.AttrReply == 0 ||
			x.Orig.Proto != x.Reply.Proto || x.Orig.Family() != x.Reply.Family() {
			return // the kernel has none of these
		}
		for p, state := range map[conntrack.Proto]conntrack.Attr{
			conntrack.ProtoTCP: conntrack.AttrTCP, conntrack.ProtoSCTP: conntrack.AttrSCTP, conntrack.ProtoDCCP: conntrack.AttrDCCP,
		} {
			if x.Orig.Proto == p && x.Has&state == 0 {
				return // an offloaded flow, for which conntrack(8) lacks the state that it asks for
			}
			if x.Orig.Proto != p {
				x.Has &^= state
			}
		}
		x.Has |= conntrack.AttrTimeout
		x.Has &^= conntrack.AttrSecMark // which no kernel sends, and -A does not take
		text := string((&conntrack8.Format{Save: true}).AppendFlow(nil, &x, conntrack8.Listed))
		words, err := splitLine(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		l, err := parse(words)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		got, _, err := l.flow()
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if got.Orig != x.Orig {
			t.Fatalf("%s: %v, want %v", text, got.Orig, x.Orig)
		}
	})
}
