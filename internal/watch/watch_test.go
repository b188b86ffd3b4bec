package watch

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flowcut/conntrack"
	"flowcut/internal/example"
	"flowcut/selector"
)

// story is a connection that is deleted and comes back, and then ends.
func story() []conntrack.Event {
	at := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	known := example.Flows()
	flow := func(name string, id uint32) *conntrack.Flow {
		f := known[name].Clone()
		f.Has |= conntrack.AttrOrig | conntrack.AttrReply | conntrack.AttrStatus | conntrack.AttrID
		if f.Reply.Proto == 0 {
			f.Reply = f.Orig.Invert()
		}
		f.ID = id
		return f
	}
	counted := func(f *conntrack.Flow) *conntrack.Flow {
		f = f.Clone()
		f.Has |= conntrack.AttrOrigCounters | conntrack.AttrReplyCounters
		f.OrigCounters = conntrack.Counters{Packets: 10, Bytes: 1000}
		f.ReplyCounters = conntrack.Counters{Packets: 20, Bytes: 1 << 20}
		return f
	}
	dnat, back, udp := flow("dnat", 1), flow("dnat", 2), flow("unreplied", 3)
	back.Orig, back.Reply = dnat.Reply, dnat.Orig
	back.TCP = known["zombie"].TCP
	return []conntrack.Event{
		{Kind: conntrack.EventSyncBegin},
		{Kind: conntrack.EventSynced},
		{Kind: conntrack.EventNew, Flow: dnat, Time: at},
		{Kind: conntrack.EventNew, Flow: udp, Time: at.Add(10 * time.Millisecond)},
		{Kind: conntrack.EventUpdate, Flow: dnat, Time: at.Add(20 * time.Millisecond)},
		{Kind: conntrack.EventDestroy, Flow: counted(dnat), Time: at.Add(3250 * time.Millisecond), PortID: 7},
		{Kind: conntrack.EventNew, Flow: back, Time: at.Add(3300 * time.Millisecond)},
		{Kind: conntrack.EventUpdate, Flow: back, Time: at.Add(3400 * time.Millisecond)},
		{Kind: conntrack.EventDestroy, Flow: counted(back), Time: at.Add(90 * time.Second)},
		{Kind: conntrack.EventDestroy, Flow: udp, Time: at.Add(91 * time.Second)},
	}
}

// told watches the story and returns what is printed, and said beside it.
func told(t *testing.T, o Options, selection ...string) (out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	o.Out, o.Err = &stdout, &stderr
	var err error
	if o.Selector, err = selector.Parse(selection); err != nil {
		t.Fatal(err)
	}
	w := newWatcher(o)
	for _, e := range story() {
		if err := w.take(&e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.idle(); err != nil {
		t.Fatal(err)
	}
	return stdout.String(), stderr.String()
}

func TestText(t *testing.T) {
	local := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = local })
	want := strings.TrimPrefix(`
12:00:00.000  new      tcp      ESTABLISHED  203.0.113.2:47274 -> 203.0.113.1:5201 => 192.168.1.100:5201
12:00:00.010  new      udp      UNREPLIED    192.168.1.7:5000 -> 198.51.100.9:53
12:00:00.020  update   tcp      ESTABLISHED  203.0.113.2:47274 -> 203.0.113.1:5201 => 192.168.1.100:5201
12:00:03.250  destroy  tcp      ESTABLISHED  203.0.113.2:47274 -> 203.0.113.1:5201 => 192.168.1.100:5201  lived 3.2s, 1.0 MiB, deleted by a program
12:00:03.300  new      tcp      ESTABLISHED  192.168.1.100:5201 => 203.0.113.1:5201 -> 203.0.113.2:47274  RETURNED, 50ms after a program deleted its entry (was 203.0.113.2:47274 -> 203.0.113.1:5201 => 192.168.1.100:5201, lived 3.2s, 1.0 MiB)
12:00:03.400  update   tcp      ESTABLISHED  192.168.1.100:5201 => 203.0.113.1:5201 -> 203.0.113.2:47274  RETURNED
12:01:30.000  destroy  tcp      ESTABLISHED  192.168.1.100:5201 => 203.0.113.1:5201 -> 203.0.113.2:47274  lived 1m26s, 1.0 MiB  RETURNED
12:01:31.000  destroy  udp      UNREPLIED    192.168.1.7:5000 -> 198.51.100.9:53  lived 1m30s
`, "\n")
	out, errs := told(t, Options{})
	if d := cmp.Diff(want, out); d != "" {
		t.Error(d)
	}
	if errs != "flowcut: watching, of the selected flows 0 are there\n" {
		t.Errorf("%q", errs)
	}
	// A selection shows what comes back of it, which it does not mean.
	out, _ = told(t, Options{}, "-g", "-p", "tcp")
	lines := strings.SplitAfter(want, "\n")
	if d := cmp.Diff(lines[0]+strings.Join(lines[2:7], ""), out); d != "" {
		t.Error(d)
	}
}

// Colours change nothing but colours.
func TestColour(t *testing.T) {
	plain, _ := told(t, Options{})
	coloured, _ := told(t, Options{Colour: true})
	if strings.Contains(plain, "\x1b") || !strings.Contains(coloured, "\x1b[1;31mRETURNED\x1b[0m") {
		t.Errorf("%s%s", plain, coloured)
	}
	without := strings.NewReplacer("\x1b[1;31m", "", "\x1b[1;32m", "", "\x1b[0m", "").Replace(coloured)
	if d := cmp.Diff(plain, without); d != "" {
		t.Error(d)
	}
}

func TestJSON(t *testing.T) {
	out, _ := told(t, Options{Format: "json"}, "-p", "tcp")
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if len(lines) != 6 {
		t.Fatalf("%d lines:\n%s", len(lines), out)
	}
	earlier := `"earlier":{"orig":{"src":"203.0.113.2","dst":"203.0.113.1","proto":"tcp","sport":47274,"dport":5201},` +
		`"reply":{"src":"192.168.1.100","dst":"203.0.113.2","proto":"tcp","sport":5201,"dport":47274},"reversed":true,` +
		`"began":"2026-11-26T12:00:00Z","ended":"2026-11-26T12:00:03.25Z","duration_ms":3250,"portid":7,"packets":30,"bytes":1049576},`
	for i, want := range []string{
		`{"event":"new","time":"2026-11-26T12:00:00Z","returned":false,"flow":`,
		`{"event":"update","time":"2026-11-26T12:00:00.02Z","returned":false,"flow":`,
		`{"event":"destroy","time":"2026-11-26T12:00:03.25Z","returned":false,"portid":7,"duration_ms":3250,"flow":`,
		`{"event":"new","time":"2026-11-26T12:00:03.3Z","returned":true,` + earlier + `"flow":`,
		`{"event":"update","time":"2026-11-26T12:00:03.4Z","returned":true,` + earlier + `"flow":`,
		`{"event":"destroy","time":"2026-11-26T12:01:30Z","returned":true,"duration_ms":86700,` + earlier + `"flow":`,
	} {
		if !strings.HasPrefix(lines[i], want) {
			t.Errorf("line %d is\n%s\nwant\n%s", i, lines[i], want)
		}
		if !json.Valid([]byte(lines[i])) {
			t.Errorf("line %d is not JSON: %s", i, lines[i])
		}
	}
}

// Where the end of a flow was not announced little is known of it.
func TestUnannounced(t *testing.T) {
	events := story()
	dnat, back := events[2].Flow, events[6].Flow
	for format, want := range map[string]string{
		"text": "RETURNED, its entry had gone unannounced (was 203.0.113.2:47274 -> 203.0.113.1:5201 => 192.168.1.100:5201)\n",
		"json": `"proto":"tcp","sport":5201,"dport":47274},"reversed":true},"flow":`,
	} {
		var out bytes.Buffer
		w := newWatcher(Options{Format: format, Out: &out, Err: io.Discard})
		for _, e := range []conntrack.Event{
			{Kind: conntrack.EventSyncBegin}, {Kind: conntrack.EventSync, Flow: dnat}, {Kind: conntrack.EventSynced},
			{Kind: conntrack.EventNew, Flow: back},
		} {
			if err := w.take(&e); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.idle(); err != nil || !strings.Contains(out.String(), want) || strings.Count(out.String(), "\n") != 1 {
			t.Errorf("%s: %v\n%s", format, err, &out)
		}
	}
}

// A return that was lost in an overrun is found by the listing, told once.
func TestLost(t *testing.T) {
	events := story()
	dnat, gone, back := events[2].Flow, events[5].Flow, events[6].Flow
	var out, errs bytes.Buffer
	w := newWatcher(Options{Format: "json", Out: &out, Err: &errs})
	for _, e := range []conntrack.Event{
		{Kind: conntrack.EventSyncBegin}, {Kind: conntrack.EventSynced},
		{Kind: conntrack.EventNew, Flow: dnat},
		{Kind: conntrack.EventDestroy, Flow: gone},
		{Kind: conntrack.EventOverrun},
		{Kind: conntrack.EventSyncBegin}, {Kind: conntrack.EventSync, Flow: back}, {Kind: conntrack.EventSynced},
		{Kind: conntrack.EventNew, Flow: back},
	} {
		if err := w.take(&e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.idle(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		var l struct {
			Event    string
			Returned bool
			Time     time.Time
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.Time.IsZero() {
			t.Fatalf("%v: %s", err, line)
		}
		if l.Returned {
			l.Event += " returned"
		}
		got = append(got, l.Event)
	}
	if d := cmp.Diff([]string{"new", "destroy", "overrun", "new returned"}, got); d != "" {
		t.Error(d)
	}
	if !strings.Contains(errs.String(), "events were lost") || !strings.Contains(errs.String(), "has been listed again") {
		t.Errorf("%s", &errs)
	}
}

// An event allocates nothing, whatever is selected and printed.
func TestAllocs(t *testing.T) {
	for _, format := range []string{"text", "json", "conntrack"} {
		sel, err := selector.Parse([]string{"-p", "tcp", "--host", "192.168.0.0/16"})
		if err != nil {
			t.Fatal(err)
		}
		w := newWatcher(Options{Format: format, Selector: sel, Out: io.Discard, Err: io.Discard, Colour: true})
		events := story()
		for i := range events {
			events[i].Time = time.Time{}
		}
		for _, e := range events[:2] {
			if err := w.take(&e); err != nil {
				t.Fatal(err)
			}
		}
		var e conntrack.Event
		round := func() {
			for i := range events[2:] {
				e = events[2+i]
				if err := w.take(&e); err != nil {
					t.Fatal(err)
				}
			}
		}
		round()
		if n := testing.AllocsPerRun(1000, round); n > 0 {
			t.Errorf("%s: %v allocations in %d events", format, n, len(events)-2)
		}
	}
}
