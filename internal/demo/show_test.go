package demo

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sample are results as they look, one that goes on and one that is silent.
func sample() []result {
	var steady, ends []point
	for at := 10 * time.Millisecond; at < 10*time.Second; at += 10 * time.Millisecond {
		steady = append(steady, point{at, 12e9})
		rate := 12e9
		if at > 3*time.Second {
			rate = 0
		}
		ends = append(ends, point{at, rate})
	}
	return []result{
		{
			name: "delete", does: "conntrack -D <&>", deleted: "24", entries: 24, before: 3 * time.Second, points: steady,
			bytes: 10_500_000_000, last: 7 * time.Second, rate: 12e9, idleOpen: 20,
			broken: 1, bystanders: 2, lost: 3, datagrams: 40000,
		},
		{
			name: "flowcut", does: "flowcut cut", deleted: "24", before: 3 * time.Second, points: ends,
			bytes: 1_500, last: 8_340 * time.Microsecond, silent: true, clientsTold: 24, serversTold: 24,
			bystanders: 2, datagrams: 40000,
		},
	}
}

func TestTable(t *testing.T) {
	var out strings.Builder
	if err := table(&out, sample()); err != nil {
		t.Fatal(err)
	}
	want := strings.TrimPrefix(`
                              delete             flowcut
entries deleted               24                 24
entries at the end            24                 0
bytes after the cut           10.5 GB            1.5 kB
time to silence               never              8.3ms
came back                     yes, 12.0 Gbit/s   no
clients told, of 24           0                  24
servers told, of 24           0                  24
idle ones still open, of 20   20                 0
bystanders: broken            1 of 2             0 of 2
bystanders: datagrams lost    3 of 40000         0 of 40000

delete     conntrack -D <&>
flowcut    flowcut cut
`, "\n")
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// elements counts the picture's elements by name and class, and fails on
// what is not XML.
func elements(t *testing.T, svg []byte) map[string]int {
	t.Helper()
	n := make(map[string]int)
	d := xml.NewDecoder(bytes.NewReader(svg))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok {
			key := e.Name.Local
			for _, a := range e.Attr {
				if a.Name.Local == "class" {
					key += "." + a.Value
				}
			}
			n[key]++
		}
	}
}

func TestPicture(t *testing.T) {
	svg := picture(sample())
	n := elements(t, svg)
	for what, want := range map[string]int{
		"polyline.line bad": 1, "polyline.line good": 1, // a line a method
		"line.cut": 2, "rect.paper": 1, "style": 1,
	} {
		if n[what] != want {
			t.Errorf("%d of %s, want %d", n[what], what, want)
		}
	}
	for _, text := range []string{"prefers-color-scheme:dark", "silent after 8.3ms, both ends told", "still 12.0 Gbit/s", ">0 s<", ">-3 s<"} {
		if !bytes.Contains(svg, []byte(text)) {
			t.Errorf("no %q in the picture", text)
		}
	}
}

// A picture of nothing is still one.
func TestPictureEmpty(t *testing.T) {
	elements(t, picture(nil))
	elements(t, picture([]result{{name: "x"}}))
}

// Averages keep the sum: what the line shows is what was received.
func TestCoarse(t *testing.T) {
	got := coarse([]point{{20e6, 1e9}, {40e6, 3e9}, {60e6, 5e9}, {80e6, 1}})
	if diff := cmp.Diff([]point{{60e6, 3e9}}, got, cmp.AllowUnexported(point{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
