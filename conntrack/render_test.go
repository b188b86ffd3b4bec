package conntrack_test

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/conntrack8"
)

// FuzzRender: whatever flow or expectation the kernel sends, each of
// conntrack(8)'s forms of it is one line without control characters, or a
// document.
func FuzzRender(f *testing.F) {
	for _, b := range conntrack.Fixtures(f) {
		f.Add(b, uint8(0), "conntrack")
		f.Add(b[:len(b)*3/4], uint8(0xff), "\x1b[31m")
	}
	for _, b := range conntrack.ExpectFixtures(f) {
		f.Add(b, uint8(5), "")
	}
	f.Fuzz(func(t *testing.T, b []byte, what uint8, program string) {
		o := conntrack8.Format{
			Extended: what&1 != 0, ID: what&2 != 0, Timestamp: what&4 != 0, KTimestamp: what&8 != 0,
			Now: func() time.Time { return time.Unix(1e9, 0) },
		}
		if what&16 != 0 {
			o.LabelName = func(bit int) string { return strings.Repeat("l", bit%5) }
		}
		done, kind := conntrack8.Done(what%3), conntrack.EventKind(1<<(what%3))
		var events []conntrack.Event
		var x conntrack.Flow
		if conntrack.ParseFlow(b, &x) == nil {
			events = append(events, conntrack.Event{Kind: kind, Flow: &x, PortID: uint32(what)})
		}
		var e conntrack.Expectation
		if conntrack.ParseExpectation(b, &e) == nil {
			events = append(events, conntrack.Event{Kind: kind, Expect: &e})
		}
		save, doc := o, o
		save.Save, doc.XML = true, true
		for i := range events {
			for _, o := range []conntrack8.Format{o, save} {
				checkLine(t, o.AppendEvent(nil, &events[i], program))
				if events[i].Flow != nil {
					checkLine(t, o.AppendFlow(nil, &x, done))
				}
			}
			text := doc.AppendEvent(doc.AppendBegin(nil, "conntrack"), &events[i], program)
			checkDocument(t, string(doc.AppendEnd(text, "conntrack")))
		}
	})
}

// checkLine holds text to be one line that a terminal can show. The tab is
// behind the time of an event.
func checkLine(t *testing.T, text []byte) {
	t.Helper()
	if len(text) == 0 {
		t.Fatal("nothing")
	}
	for _, c := range text {
		if c < ' ' && c != '\t' || c == 0x7f {
			t.Fatalf("%q in %q", c, text)
		}
	}
}

// checkDocument holds text to be XML.
func checkDocument(t *testing.T, text string) {
	t.Helper()
	for dec := xml.NewDecoder(strings.NewReader(text)); ; {
		if _, err := dec.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%v in %q", err, text)
		}
	}
}
