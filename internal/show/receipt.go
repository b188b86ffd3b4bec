package show

import (
	"fmt"
	"strings"
	"time"

	"flowcut/cut"
	"flowcut/internal/oneline"
)

// Colours of a terminal.
const (
	Green  = "\x1b[1;32m"
	Red    = "\x1b[1;31m"
	Normal = "\x1b[0m"
)

// AppendReceipt appends a receipt for a person: the verdict, then what it
// stands on.
func AppendReceipt(b []byte, r *cut.Receipt, colour bool) []byte {
	verdict, paint := "not proven", Red
	ended := Count(r.Flows.Matched-r.Flows.Spared, "flow")
	switch {
	case r.Proven && r.Flows.Spared > 0 && r.Flows.Matched == r.Flows.Spared:
		verdict, paint = "proven: nothing matched but what is spared", Green
	case r.Proven && r.Flows.Matched == 0:
		verdict, paint = "proven: nothing matched", Green
	case r.ForGood():
		verdict, paint = fmt.Sprintf("proven: %s ended for good", ended), Green
	case r.Proven && r.Final:
		verdict, paint = fmt.Sprintf("proven: %s ended", ended), Green
	case r.Proven:
		verdict, paint = fmt.Sprintf("proven, but not final: %s ended", ended), Green
	}
	if !colour {
		paint = ""
	}
	b = append(append(b, paint...), verdict...)
	if colour {
		b = append(b, Normal...)
	}
	b = fmt.Appendf(b, ", in %s\n", r.ElapsedMS)
	if r.Reason != "" {
		b = fmt.Appendf(b, "  because  %s\n", strings.ReplaceAll(oneline.Whole(r.Reason), "; ", "\n           "))
	}
	b = row(b, "flows", flowWords(&r.Flows))
	b = row(b, "ends", endWords(&r.Endpoints))
	b = row(b, "fence", fenceWords(r))
	if len(r.Fence.Limits) > 0 {
		b = fmt.Appendf(b, "  limits   %s\n", strings.Join(r.Fence.Limits, "\n           "))
	}
	for _, f := range r.Flow {
		b = appendFlowReport(b, f)
	}
	return b
}

func row(b []byte, name string, words []string) []byte {
	if len(words) == 0 {
		return b
	}
	return fmt.Appendf(b, "  %-7s  %s\n", name, strings.Join(words, ", "))
}

// say adds "N words" for numbers that are not zero.
func say(words []string, n int, what string) []string {
	if n == 0 {
		return words
	}
	return append(words, fmt.Sprintf("%d %s", n, what))
}

func flowWords(n *cut.FlowCounts) []string {
	if n.Matched == 0 && n.Admitted == 0 && n.Refused == 0 && n.Suspects == 0 {
		return nil
	}
	w := []string{fmt.Sprintf("%d matched", n.Matched)}
	w = say(w, n.Deleted, "deleted")
	w = say(w, n.Vanished, "already gone")
	w = say(w, n.Remaining, "still there")
	w = say(w, n.Spared, "spared")
	w = say(w, n.Related, "expected by them")
	if n.Mirrored > 0 {
		w = append(w, Count(n.Mirrored, "mirror")+" of an earlier deletion")
	}
	w = say(w, n.Offloaded, "offloaded to a flowtable")
	switch {
	case n.Suspects == 1:
		w = append(w, "1 looks like a mirror, left alone")
	case n.Suspects > 1:
		w = say(w, n.Suspects, "look like mirrors, left alone")
	}
	w = say(w, n.Returned, "came back and were deleted again")
	w = say(w, n.Admitted, "new ones admitted")
	w = say(w, n.Refused, "first packets of new ones refused")
	return say(w, n.Knocking, "still knocking")
}

func endWords(n *cut.EndpointCounts) []string {
	var w []string
	w = say(w, n.Dead, "confirmed dead")
	w = say(w, n.Reset, "reset")
	w = say(w, n.Unreachable, "told unreachable")
	return say(w, n.Silent, "silent")
}

func fenceWords(r *cut.Receipt) []string {
	f := &r.Fence
	if f.Backend == "" && !r.Proven {
		return []string{"none raised"}
	}
	if f.Backend == "" {
		return []string{"none needed: the table has no such entries"}
	}
	w := []string{fmt.Sprintf("up after %s", f.RaisedAfterMS), fmt.Sprintf("silent after %s", f.SilentAfterMS)}
	if f.Backend != string(cut.NFTables) {
		w = append(w, "made of "+f.Backend)
	}
	if f.ReleasedAfterMS > 0 {
		w = append(w, fmt.Sprintf("flowtable let go after %s", f.ReleasedAfterMS))
	}
	if !f.Exact {
		w = append(w, "by the flows' tuples, from the list on")
	}
	if f.Packets > 0 {
		w = append(w, fmt.Sprintf("stopped %s (%s)", Count(int(f.Packets), "packet"), AppendBytes(nil, f.Bytes)))
	}
	if f.LeakedPackets > 0 {
		w = append(w, fmt.Sprintf("%s leaked", Count(int(f.LeakedPackets), "packet")))
	}
	if f.LiftedAfterMS == 0 {
		return append(w, "could not be lifted")
	}
	return append(w, fmt.Sprintf("lifted after %s", f.LiftedAfterMS))
}

// appendFlowReport appends the line of one flow: what became of it, what its
// ends said, and the row that a list has for it.
func appendFlowReport(b []byte, f cut.FlowReport) []byte {
	ends := ""
	if f.Originator != "" {
		ends = fmt.Sprintf("%s - %s", f.Originator, f.Responder)
	}
	b = fmt.Appendf(b, "  %-9s  %-15s  ", f.Outcome, ends)
	return append(AppendRow(b, f.Flow, time.Now()), '\n')
}

// Count writes a number with a noun.
func Count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}
