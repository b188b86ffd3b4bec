package conntrack8

import (
	"errors"
	"regexp"
	"slices"
	"testing"
	"time"

	"flowcut/conntrack"
)

// expectOutputs are values of -o that matter to expectations, and two that do not.
var expectOutputs = map[string]Format{
	"id,extended":   {ID: true, Extended: true},
	"timestamp":     {Timestamp: true},
	"xml":           {XML: true},
	"xml,timestamp": {XML: true, Timestamp: true},
}

// clock is the time before an expectation, which is ours to the second at best.
var clock = regexp.MustCompile(`^\[(\d{10})\.[\d ]{6}\]\t`)

// masters returns flows with a helper, and what each expects: ftp's may
// expect one flow.
func masters() (flows []conntrack.Flow, expected []conntrack.Expectation) {
	for i, a := range [][3]string{
		{"10.0.0.1:40000", "10.0.0.2:21", "10.0.0.2:9876"},
		{"10.0.0.1:40001", "10.0.0.2:21", "10.0.0.2:9877"},
		{"[2001:db8::1]:40000", "[2001:db8::2]:21", "[2001:db8::2]:9876"},
		{"[2001:db8::1]:40001", "[2001:db8::2]:21", "[2001:db8::2]:9877"},
	} {
		orig := ports(conntrack.ProtoTCP, a[0], a[1])
		flows = append(flows, conntrack.Flow{
			Has: conntrack.AttrTCP | conntrack.AttrHelper, Orig: orig, Helper: "ftp", Timeout: time.Hour,
			TCP: conntrack.TCP{State: conntrack.TCPEstablished},
		})
		e := conntrack.Expectation{Master: orig, Tuple: ports(conntrack.ProtoTCP, a[0], a[2]), Timeout: time.Hour}
		if i%2 == 1 {
			e.Flags = conntrack.ExpectPermanent | conntrack.ExpectInactive
		}
		expected = append(expected, e)
	}
	return flows, expected
}

func TestExpectationsLikeConntrack(t *testing.T) {
	c := lab(t)
	flows, expected := masters()
	for _, f := range flows {
		if err := c.Create(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
	}
	if got := shown(t, "-L", "expect", "-o", "xml"); len(got) > 0 {
		t.Fatalf("before any is made: %q", got)
	}
	for _, e := range expected {
		if err := c.CreateExpectation(t.Context(), &e); err != nil {
			t.Fatal(err)
		}
	}
	for o, f := range expectOutputs {
		f.zone = testZone
		for name, family := range map[string]conntrack.Family{"ipv4": conntrack.FamilyIPv4, "ipv6": conntrack.FamilyIPv6} {
			agree(t, "-L expect -o "+o+" -f "+name, func() ([]string, []string) {
				a := shown(t, "-L", "expect", "-o", o, "-f", name)
				var b []string
				for e, err := range c.DumpExpectations(t.Context(), family) {
					if err != nil {
						t.Fatal(err)
					}
					b = append(b, string(f.AppendExpectation(nil, e)))
				}
				if len(b) != 2 {
					t.Fatalf("%d expectations, want 2", len(b))
				}
				return timeless(a), timeless(b)
			})
		}
	}
}

// timeless returns lines without the fraction of the second.
func timeless(lines []string) []string {
	var out []string
	for _, l := range lines {
		out = append(out, clock.ReplaceAllString(l, "[$1]"))
	}
	slices.Sort(out)
	return out
}

func TestExpectationEventsLikeConntrack(t *testing.T) {
	c := lab(t)
	flows, expected := masters()
	if err := c.Create(t.Context(), &flows[1]); err != nil {
		t.Fatal(err)
	}
	e := &expected[1]
	expect := func() error { return c.CreateExpectation(t.Context(), e) }
	flush := func() error { return c.FlushExpectations(t.Context()) }
	for o, f := range expectOutputs {
		f.zone = testZone
		next, stop := watch(t, func() error { return errors.Join(expect(), flush()) }, "-E", "expect", "-o", o)
		agree(t, "-E expect -o "+o, func() ([]string, []string) {
			if err := expect(); err != nil {
				t.Fatal(err)
			}
			kept, err := c.GetExpectation(t.Context(), e.Tuple, 0)
			if err != nil {
				t.Fatal(err)
			}
			a := []string{next()}
			b := []string{string(f.AppendEvent(nil, &conntrack.Event{Kind: conntrack.EventNew, Expect: &kept, PortID: 1}, "x"))}
			if err := flush(); err != nil {
				t.Fatal(err)
			}
			a = append(a, next())
			b = append(b, string(f.AppendEvent(nil, &conntrack.Event{Kind: conntrack.EventDestroy, Expect: &kept, PortID: 1}, "x")))
			return timeless(a), timeless(b)
		})
		stop()
	}
}
