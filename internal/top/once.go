package top

import (
	"fmt"
	"io"

	"flowcut/internal/oneline"
)

// onceWidth is as if the screen were: wide enough for all columns.
const onceWidth = 160

// writeText writes a snapshot as plain text.
func writeText(w io.Writer, s *Snapshot, filter string, n int) error {
	var b []byte
	b = fmt.Appendf(b, "%s of %s flows", thousands(int(s.Limits.Count)), thousands(int(s.Limits.Max)))
	if filter != "" {
		b = fmt.Appendf(b, ", %s meant by %s", thousands(s.Matched), oneline.Whole(filter))
	}
	rows := min(n, len(s.Rows)+len(s.Groups))
	b = fmt.Appendf(b, "\nfirst %d of %s by %s\n\n", rows, thousands(s.All), s.Sort)
	cols := columnsFor(s, onceWidth)
	b = append(append(b, head(cols)[len(gutter):]...), '\n')
	for i := range rows {
		b = append(append(b, rowText(cols, s, i)...), '\n')
	}
	_, err := w.Write(b)
	return err
}
