package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/conntrack8"
	"flowcut/internal/example"
	"flowcut/internal/netns"
)

// explained runs the command on a text and returns what it says.
func explained(t *testing.T, ns *netns.NS, text string) explanation {
	t.Helper()
	var out, errs bytes.Buffer
	args := []string{"explain", "-o", "json", "--netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()), "-"}
	if code := Run(t.Context(), args, strings.NewReader(text), &out, &errs); code != codeOK {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	var e explanation
	if err := json.Unmarshal(out.Bytes(), &e); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	return e
}

// written is a namespace whose flows are written down.
type written struct {
	*testing.T
	ns *netns.NS
	c  *conntrack.Client
}

// make makes an entry, and returns it as it is in the table.
func (w written) make(f *conntrack.Flow) *conntrack.Flow {
	w.Helper()
	f.Has |= conntrack.AttrStatus | conntrack.AttrTimeout | conntrack.AttrReply
	f.Timeout = time.Hour
	if err := w.c.Create(w.Context(), f); err != nil {
		w.Fatal(err)
	}
	got, err := w.c.Get(w.Context(), f.Orig, f.Zone)
	if err != nil {
		w.Fatal(err)
	}
	return &got
}

func (w written) remove(f *conntrack.Flow) {
	w.Helper()
	if n, err := w.c.Delete(w.Context(), []conntrack.Key{f.Key()}, nil); n != 1 || err != nil {
		w.Fatalf("%d deleted, %v", n, err)
	}
}

// want explains a text, and holds it to where its flow is, and to its id.
func (w written) want(step, text, place string, id uint32) {
	w.Helper()
	if e := explained(w.T, w.ns, text); e.Place != place || e.Flow.ID != id {
		w.Errorf("%s: %s, id %d, want %s, id %d", step, e.Place, e.Flow.ID, place, id)
	}
}

// What is written down is looked for in the table, and told from what has come
// after it: another flow on its tuple, or itself in the other direction.
func TestExplainFinds(t *testing.T) {
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	c, err := conntrack.Dial(conntrack.Config{NetNS: ns.Fd()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	w := written{t, ns, c}
	line := func(f *conntrack.Flow, o conntrack8.Format) string {
		return string(o.AppendFlow(nil, f, conntrack8.Listed))
	}

	f := w.make(example.Flows()["dnat"])
	short, long, object := line(f, conntrack8.Format{}), line(f, conntrack8.Format{ID: true, Extended: true}), string(f.AppendJSON(nil))
	for _, text := range []string{short, long, object} {
		w.want("there", text, "listed", f.ID)
	}
	destroyed := `{"event":"destroy","returned":false,"flow":` + object + `}`
	w.want("ended, and there again", destroyed, "replaced", f.ID)
	other := f.Clone()
	other.ID++
	w.want("another one's id", string(other.AppendJSON(nil)), "replaced", other.ID)

	w.remove(f)
	w.want("deleted", short, "gone", 0)
	w.want("deleted", destroyed, "gone", f.ID)

	// It comes back as connection tracking would take it up from the server's side.
	back := example.Flows()["zombie"]
	back.Orig, back.Reply = f.Reply, f.Orig
	back = w.make(back)
	if !back.PickedUp() {
		t.Fatal("the flow in the other direction does not look picked up")
	}
	w.want("come back", short, "mirrored", 0)
	w.remove(back)
	back.Reply = f.Reply.Invert() // not translated any more
	w.make(back)
	w.want("come back untranslated", destroyed, "mirrored", f.ID)
}

// A line that is too long is named, and what was before it is explained.
func TestExplainLongLine(t *testing.T) {
	const good = "udp 17 29 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1 mark=0 use=1\n"
	code, out, errs := runLine([]string{"explain"}, good+strings.Repeat("a", 10<<20)+"\n")
	if code != codeFailed || !strings.HasPrefix(out, "udp 10.0.0.1:1 -> ") || errs != "flowcut: line 2 is longer than 1 MiB: no flow is, nothing from there on was read\n" {
		t.Errorf("exit code %d, %q, %q", code, out, errs)
	}
}
