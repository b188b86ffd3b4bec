package conntrack

import (
	"encoding/binary"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// eventMessage is the datagram of an event.
func eventMessage(typ msgType, flags msgFlags, port uint32, family Family, attrs []byte) []byte {
	b, start := beginMessage(nil, header{typ: typ, flags: flags}, family, versionPlain)
	binary.NativeEndian.PutUint16(b[start+6:], uint16(flags)) // no NLM_F_REQUEST
	binary.NativeEndian.PutUint32(b[start+12:], port)
	return endMessage(append(b, attrs...), start)
}

func TestParseEvent(t *testing.T) {
	flow := fixtures(t)["destroy_event"]
	at := time.Unix(0, 0x18ea56a451a8df95).UTC()
	tests := map[string]struct {
		b    []byte
		want Event // Flow and Expect are not compared
		err  string
	}{
		"destroy": {
			b:    eventMessage(msgDelete, 0, 77, FamilyIPv4, flow),
			want: Event{Kind: EventDestroy, PortID: 77, Time: at},
		},
		"new": {
			b:    eventMessage(msgNew, flagCreate|flagExcl, 0, FamilyIPv4, flow),
			want: Event{Kind: EventNew, Time: at},
		},
		"update": {
			b:    eventMessage(msgNew, 0, 1<<31, FamilyIPv4, flow),
			want: Event{Kind: EventUpdate, PortID: 1 << 31, Time: at},
		},
		"no time": {
			b:    eventMessage(msgNew, 0, 0, FamilyIPv4, fixtures(t)["udp_mark"]),
			want: Event{Kind: EventUpdate},
		},
		"another type": {b: eventMessage(msgGetStats, 0, 5, FamilyIPv4, flow)},
		"short time": {
			b:   eventMessage(msgNew, 0, 0, FamilyIPv4, appendUint32(nil, attrTimestampEvent, 1)),
			err: "CTA_TIMESTAMP_EVENT: 4 bytes, want 8",
		},
		"bad flow": {
			b:   eventMessage(msgDelete, 0, 0, FamilyIPv4, appendUint16(nil, attrMark, 1)),
			err: "CTA_MARK: 2 bytes, want 4",
		},
		"bad expectation": {
			b:   eventMessage(msgExpDelete, 0, 0, FamilyIPv4, nil),
			err: "expectation message: no CTA_EXPECT_MASTER",
		},
		"no family": {
			b:   eventMessage(msgDelete, 0, 0, FamilyIPv4, nil)[:16],
			err: "message of 20 bytes in 16",
		},
	}
	for name, tt := range tests {
		var r eventRoom
		_, _, err := r.parse(tt.b)
		if msg := errorText(err); msg != tt.err {
			t.Errorf("%s: error %q, want %q", name, msg, tt.err)
			continue
		}
		got := r.ev
		if (got.Flow != nil) != (tt.want.Kind != 0) || got.Expect != nil {
			t.Errorf("%s: flow %v, expectation %v", name, got.Flow, got.Expect)
		}
		got.Flow = nil
		if got != tt.want {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}
}

// errorText is "" for no error.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestEventKindString(t *testing.T) {
	for k, want := range map[EventKind]string{
		0: "", EventNew: "new", EventDestroy: "destroy", EventOverrun: "overrun", EventSyncBegin: "sync-begin",
		EventSync: "sync", EventSynced: "synced", EventAll: "new|update|destroy",
	} {
		if got := k.String(); got != want {
			t.Errorf("kind %d: %q, want %q", k, got, want)
		}
	}
}

// TestMerge: what one flow has replaces what another has, each attribute alone.
func TestMerge(t *testing.T) {
	for name, b := range fixtures(t) {
		full := mustParse(t, b)
		var got Flow
		got.Merge(full)
		if diff := cmp.Diff(full, &got, cmpAddr); diff != "" {
			t.Errorf("%s into nothing (-want +got):\n%s", name, diff)
		}
		got.Merge(&Flow{})
		if diff := cmp.Diff(full, &got, cmpAddr); diff != "" {
			t.Errorf("nothing into %s (-want +got):\n%s", name, diff)
		}
		if full.Has&AttrHelper != 0 && len(full.HelpInfo) > 0 {
			full.HelpInfo[0]++
			if got.HelpInfo[0] == full.HelpInfo[0] {
				t.Errorf("%s: HelpInfo is shared", name)
			}
		}
	}
}

func TestPicture(t *testing.T) {
	a, b := tuple(ProtoUDP, "10.0.0.1:1", "10.0.0.2:2"), tuple(ProtoUDP, "10.0.0.1:2", "10.0.0.2:2")
	flow := func(k EventKind, o Tuple, id uint32, f Flow) *Event {
		f.Has |= AttrOrig | AttrID
		f.Orig, f.ID = o, id
		return &Event{Kind: k, Flow: &f}
	}
	stream := func(k EventKind) *Event { return &Event{Kind: k} }
	zone := Flow{Has: AttrZone, Zone: 3}
	mark := Flow{Has: AttrMark, Mark: 9}
	tests := map[string]struct {
		events []*Event
		want   map[Key]Mark
	}{
		"new and update": {
			[]*Event{flow(EventNew, a, 1, mark), flow(EventUpdate, a, 1, Flow{}), flow(EventUpdate, b, 2, Flow{})},
			map[Key]Mark{{a, 0, 1}: 9, {b, 0, 2}: 0},
		},
		"destroyed": {
			[]*Event{flow(EventNew, a, 1, mark), flow(EventNew, a, 1, zone), flow(EventDestroy, a, 1, Flow{}), flow(EventDestroy, b, 1, Flow{})},
			map[Key]Mark{{a, 3, 1}: 0},
		},
		"the same ID again": {
			[]*Event{flow(EventNew, a, 1, mark), flow(EventNew, a, 1, Flow{})},
			map[Key]Mark{{a, 0, 1}: 0},
		},
		"an expectation": {
			[]*Event{{Kind: EventNew, Expect: &Expectation{Tuple: a}}, {Kind: EventDestroy, Expect: &Expectation{Tuple: a}}},
			map[Key]Mark{},
		},
		"overrun alone": {
			[]*Event{flow(EventNew, a, 1, mark), stream(EventOverrun)},
			map[Key]Mark{{a, 0, 1}: 9},
		},
		"listing": {
			[]*Event{
				flow(EventNew, a, 1, mark), flow(EventNew, a, 2, mark), flow(EventNew, a, 3, mark), stream(EventOverrun),
				flow(EventUpdate, a, 3, Flow{}), stream(EventSyncBegin), flow(EventSync, a, 2, Flow{}),
				flow(EventNew, b, 4, Flow{}), flow(EventSync, b, 5, Flow{}), flow(EventDestroy, b, 5, Flow{}), stream(EventSynced),
			},
			map[Key]Mark{{a, 0, 2}: 9, {b, 0, 4}: 0},
		},
		"listing begun again": {
			[]*Event{
				stream(EventSyncBegin), flow(EventSync, a, 1, mark), stream(EventOverrun), stream(EventSyncBegin),
				flow(EventSync, a, 2, mark), stream(EventSynced), stream(EventSyncBegin), stream(EventOverrun),
			},
			map[Key]Mark{{a, 0, 2}: 9},
		},
	}
	for name, tt := range tests {
		p := NewPicture((*Flow).Merge)
		for _, e := range tt.events {
			p.Apply(e)
		}
		checkPicture(t, name, p, tt.want)
	}
}

// checkPicture compares the marks in a picture.
func checkPicture(t *testing.T, name string, p *Picture[Flow], want map[Key]Mark) {
	t.Helper()
	got := make(map[Key]Mark)
	for k, f := range p.All() {
		got[k] = f.Mark
		if p.Get(k) != f || f.Key() != k {
			t.Errorf("%s: %v is not under its key %v", name, f, k)
		}
	}
	if !maps.Equal(got, want) || p.Len() != len(want) {
		t.Errorf("%s: %v, want %v", name, got, want)
	}
}

// FuzzEvent: no panic, never a value and an error, and an event of flows or of
// expectations, not of both or none.
func FuzzEvent(f *testing.F) {
	for _, b := range fixtures(f) {
		for _, typ := range []msgType{msgNew, msgDelete} {
			f.Add(eventMessage(typ, 0, 1, FamilyIPv4, b))
		}
		f.Add(eventMessage(msgNew, flagCreate|flagExcl, 0, FamilyIPv6, b))
	}
	data := tuple(ProtoTCP, "10.0.0.2:0", "10.0.0.1:4000")
	expect, err := appendExpectation(nil, &Expectation{Master: data.Invert(), Tuple: data, Mask: data})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(eventMessage(msgExpNew, flagCreate, 0, FamilyIPv4, expect))
	f.Add(eventMessage(msgExpDelete, 0, 3, FamilyIPv4, expect))
	f.Add(eventMessage(msgExpNew, 0, 3, FamilyIPv4, nil))
	f.Add(eventMessage(msgNew, 0, 3, FamilyIPv4, appendUint16(nil, attrMark, 1)))
	f.Add(eventMessage(msgNew, 0, 3, FamilyIPv4, appendUint16(nil, attrTimestampEvent, 1)))
	f.Add(endMessage(eventMessage(msgNew, 0, 3, FamilyIPv4, nil)[:nlHeaderLen], 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r eventRoom
		for len(b) > 0 {
			rest, _, err := r.parse(b)
			if err != nil {
				if r.ev != (Event{}) || rest != nil {
					t.Fatalf("%+v and %v", r.ev, err)
				}
				return
			}
			if len(rest) >= len(b) {
				t.Fatal("no progress")
			}
			b = rest
			if r.ev.Kind&^EventAll != 0 || (r.ev.Kind == 0) != (r.ev.Flow == nil && r.ev.Expect == nil) ||
				r.ev.Flow != nil && r.ev.Expect != nil {
				t.Fatalf("%+v", r.ev)
			}
		}
	})
}
