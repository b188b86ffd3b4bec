package cli

import (
	"strings"
	"testing"

	"flowcut/internal/doctor"
	"flowcut/internal/show"

	"github.com/google/go-cmp/cmp"
)

func TestAppendExamination(t *testing.T) {
	long := strings.Repeat("word ", 20)
	r := &doctor.Report{Checks: []doctor.Check{
		{Name: "a", Group: "kernel", State: doctor.OK, Found: "well", Means: "not shown"},
		{Name: "b", Group: "kernel", State: doctor.Note, Found: "this", Means: "the same", Do: "cmd"},
		{Name: "c", Group: "kernel", State: doctor.Note, Found: "that", Means: "the same", Do: "cmd"},
		{Name: "d", Group: "table", State: doctor.Fail, Found: long, Means: long},
		{Name: "e", Group: "table", State: doctor.Warning, Found: strings.Repeat("x", 90) + " y"},
	}}
	const want = `a cut could not be proven here

kernel
  ok       a                    well
  note     b                    this
  note     c                    that
           means  the same
           do     cmd

table
  fail     d                    word word word word word word word word word
                                word word word word word word word word word
                                word word
           means  word word word word word word word word word word word word
                  word word word word word word word word
  warning  e                    xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
                                y
`
	if diff := cmp.Diff(want, string(appendExamination(nil, r, false))); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
	coloured := string(appendExamination(nil, r, true))
	for _, part := range []string{
		show.Red + "a cut could not be proven here" + show.Normal + "\n", "  " + show.Green + "ok     " + show.Normal + "  a  ", "  note     b  ",
		"  " + show.Red + "fail   " + show.Normal + "  d  ", "  " + show.Red + "warning" + show.Normal + "  e  ",
	} {
		if !strings.Contains(coloured, part) {
			t.Errorf("coloured: no %q in %q", part, coloured)
		}
	}
	for _, c := range []struct {
		report doctor.Report
		want   string
	}{
		{doctor.Report{Provable: true}, show.Green + "a cut can be proven here" + show.Normal + "\n"},
		{doctor.Report{Denied: true}, show.Red + "not permitted to look at all that decides whether a cut can be proven here" + show.Normal + "\n"},
	} {
		if got := string(appendExamination(nil, &c.report, true)); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
