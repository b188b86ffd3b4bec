package differ

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// deletesWhatItLists holds -D of the subject to delete what its -L lists.
func deletesWhatItLists(t *trial, r *Result) ([]string, error) {
	l := parse(r.Case.Words)
	if !l.is("D") || l.bad || l.has("id", "timeout") || r.Sub.code == 2 {
		return nil, nil
	}
	s := t.sides[1]
	deleted := missing(s.base.flows, r.Sub.after.flows)
	if err := s.restore(t.ctx, t.world); err != nil {
		return nil, err
	}
	words := []string{"-L"}
	for _, o := range l.options {
		switch {
		case o.name == "output":
		case o.value == "":
			words = append(words, "--"+o.name)
		default:
			words = append(words, "--"+o.name+"="+o.value)
		}
	}
	out, err := s.run(t.ctx, s.program, append(words, "-o", "id"), "")
	if err != nil {
		return nil, err
	}
	var listed []string
	for line := range strings.Lines(out.stdout) {
		listed = append(listed, s.textOf(line))
	}
	slices.Sort(listed)
	if slices.Equal(deleted, listed) {
		return nil, nil
	}
	return []string{fmt.Sprintf("deletes %d flows, and %q lists %d:\n  deleted %s\n  listed  %s", len(deleted), words, len(listed),
		strings.Join(deleted, "\n          "), strings.Join(listed, "\n          "))}, nil
}

// missing are the texts of a that are not in b; both are sorted.
func missing(a, b []entry) (list []string) {
	for _, e := range a {
		if len(b) > 0 && b[0].text == e.text {
			b = b[1:]
			continue
		}
		list = append(list, e.text)
	}
	return list
}

// textOf finds the flow that a line with an ID is about.
func (s *side) textOf(line string) string {
	words := strings.Fields(line)
	for i, w := range words {
		id, ok := strings.CutPrefix(w, "id=")
		if !ok || i > 0 && strings.HasPrefix(words[i-1], "code=") {
			continue
		}
		for _, e := range s.base.flows {
			if strconv.FormatUint(uint64(e.key.ID), 10) == id {
				return e.text
			}
		}
	}
	return "none of the table: " + line
}
