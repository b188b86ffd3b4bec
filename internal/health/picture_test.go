package health

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func TestSpark(t *testing.T) {
	for _, c := range []struct {
		values  []float64
		top     float64
		columns int
		want    string
	}{
		{nil, 1, 8, ""},
		{[]float64{0, 1, 4, 7}, 7, 8, "▁▂▅█"},
		{[]float64{0, 0, 7, 0, 0, 0}, 7, 3, "▁█▁"}, // the largest of each column
		{[]float64{9, 5}, 7, 2, "█▆"},              // more than the top
		{[]float64{3}, 0, 2, "▁"},
		{[]float64{0.001, 0}, 1000, 2, "▂▁"}, // what is not nothing is seen
	} {
		if got := Spark(c.values, c.top, c.columns); got != c.want {
			t.Errorf("%v to %v: %q, want %q", c.values, c.top, got, c.want)
		}
	}
}

// rising are points of a table that fills and then loses 50 packets a second.
func rising() []Point {
	begin := time.Unix(1_000_000, 0).UTC()
	var all []Point
	for i := range 11 {
		all = append(all, Point{
			At: begin.Add(time.Duration(i) * time.Second), Count: min(1000, uint32(200*i)), Max: 1000,
			New: uint64(200 * i), Lost: uint64(50 * max(0, i-5)),
		})
	}
	return all
}

func TestSparks(t *testing.T) {
	want := [][3]string{
		{"entries", "▁▃▄▆▇██████", "1000"}, {"new flows a second", "██████████", "200"},
		{"lost a second: drops and early drops", "▁▁▁▁▁█████", "50"},
	}
	for i, row := range Sparks(rising(), 40) {
		if row != want[i] {
			t.Errorf("%q, want %q", row, want[i])
		}
	}
}

// Fewer points than there are show the same rates, from the first to the last.
func TestThin(t *testing.T) {
	all := rising()
	got := thin(all, 6)
	if len(got) != 6 || got[0] != all[0] || got[3] != all[6] || got[5] != all[10] {
		t.Errorf("%+v", got)
	}
	if rows := Sparks(all, 5); rows[1][2] != "200" || rows[2][1] != "▁▁▅██" {
		t.Errorf("%q", rows)
	}
}

// A picture is well-formed, has a course for each row and a line at the limit.
func TestPicture(t *testing.T) {
	for _, points := range [][]Point{nil, rising()[:1], rising()} {
		picture := string(Picture(points))
		d := xml.NewDecoder(strings.NewReader(picture))
		for {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%d points: %v\n%s", len(points), err, picture)
			}
		}
		courses, limits := strings.Count(picture, "<polyline"), strings.Count(picture, `class="limit"`)
		if len(points) > 1 && (courses != 3 || limits != 1) {
			t.Errorf("%d courses, %d limits", courses, limits)
		}
	}
}
