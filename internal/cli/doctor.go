package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"flowcut/internal/doctor"
	"flowcut/internal/show"
)

// newDoctor makes "flowcut doctor".
func newDoctor(time.Time) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor [flags]",
		Short: "Tell whether a cut can be proven on this gateway, and what to mend",
		Long: `doctor looks at the kernel, the rights of the caller, settings, how full the
table is, at everything that may move packets past the rules, at programs and
rules that have to do with flows, and at what other flowcuts have left behind.
It says what it found, what that means and what to do. It changes nothing, but
for --remove-leftovers.

Exit code: 0 a cut can be proven here; 1 it could not, or a leftover could not be
removed; 2 wrong usage; 3 not permitted to look at all that decides.`,
		Example: `  flowcut doctor
  flowcut doctor --netns gateway -o json
  flowcut doctor --remove-leftovers`,
		Args: noWords,
	}
	var o doctor.Options
	cmd.Flags().SortFlags = false
	cmd.Flags().BoolVar(&o.RemoveLeftovers, "remove-leftovers", false, "remove rules of cuts that are over")
	out := addOutput(cmd, "text", "json")
	ns := addNetNS(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o.NetNS = ns.which
		return ns.inside(func() error { return examine(cmd.Context(), cmd.OutOrStdout(), o, out.format) })
	}
	return cmd
}

func examine(ctx context.Context, w io.Writer, o doctor.Options, format string) error {
	r, err := doctor.Examine(ctx, o)
	if r == nil {
		return err
	}
	printed := printReport(w, r, format)
	switch {
	case err != nil:
		return &exitError{codeFailed, err}
	case r.Denied:
		return &exitError{codeRefused, nil}
	case !r.Provable:
		return &exitError{codeFailed, nil}
	}
	return printed
}

func printReport(w io.Writer, r *doctor.Report, format string) error {
	if format == "json" {
		return json.NewEncoder(w).Encode(r)
	}
	_, err := w.Write(appendExamination(nil, r, terminal(w)))
	return err
}

// Columns of an examination, which is as wide as a terminal usually is.
const (
	colName  = 2 + len(doctor.Warning) + 2
	colFound = colName + len("cap_dac_read_search") + 2
	width    = 80
)

// appendExamination appends a report for a person: the verdict, then a line a
// check, and more of what is not as it should be.
func appendExamination(b []byte, r *doctor.Report, colour bool) []byte {
	verdict, paint := "a cut can be proven here", show.Green
	switch {
	case r.Denied:
		verdict, paint = "not permitted to look at all that decides whether a cut can be proven here", show.Red
	case !r.Provable:
		verdict, paint = "a cut could not be proven here", show.Red
	}
	b = fmt.Appendf(b, "%s\n", painted(verdict, paint, colour))
	for i, c := range r.Checks {
		if i == 0 || c.Group != r.Checks[i-1].Group {
			b = fmt.Appendf(b, "\n%s\n", c.Group)
		}
		b = appendCheck(b, c, colour)
		if i+1 == len(r.Checks) || !sameAdvice(c, r.Checks[i+1]) {
			b = appendAdvice(b, c)
		}
	}
	return b
}

// sameAdvice tells whether two checks say the same about what they found, so
// that it need not be said twice.
func sameAdvice(a, b doctor.Check) bool {
	return a.Group == b.Group && a.State == b.State && a.Means == b.Means && a.Do == b.Do
}

func appendCheck(b []byte, c doctor.Check, colour bool) []byte {
	paint := map[doctor.State]string{doctor.OK: show.Green, doctor.Warning: show.Red, doctor.Fail: show.Red}[c.State]
	state := fmt.Sprintf("%-*s", len(doctor.Warning), c.State)
	b = fmt.Appendf(b, "  %s  ", painted(state, paint, colour && paint != ""))
	b = fmt.Appendf(b, "%-*s", colFound-colName, c.Name)
	return appendWrapped(b, c.Found, colFound, colFound)
}

// appendAdvice appends what it means and what to do, unless all is well.
func appendAdvice(b []byte, c doctor.Check) []byte {
	if c.State == doctor.OK {
		return b
	}
	const means, do = "means  ", "do     "
	if c.Means != "" {
		b = fmt.Appendf(b, "%*s%s", colName, "", means)
		b = appendWrapped(b, c.Means, colName+len(means), colName+len(means))
	}
	if c.Do != "" {
		b = fmt.Appendf(b, "%*s%s", colName, "", do)
		b = appendWrapped(b, c.Do, colName+len(do), colName+len(do))
	}
	return b
}

func painted(s, paint string, colour bool) string {
	if !colour {
		return s
	}
	return paint + s + show.Normal
}

// appendWrapped appends words, from a column on, and goes on in the next line at
// an indent where they would be wider than a terminal.
func appendWrapped(b []byte, text string, column, indent int) []byte {
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case column+1+len(word) > width:
			b = fmt.Appendf(b, "\n%*s", indent, "")
			column = indent
		default:
			b = append(b, ' ')
			column++
		}
		b = append(b, word...)
		column += len(word)
	}
	return append(b, '\n')
}
