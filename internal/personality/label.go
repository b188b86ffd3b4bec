package personality

import (
	"flowcut/conntrack"
	"flowcut/selector"
)

// labelWords are names of labels on a line, and the labels they are.
type labelWords struct {
	names []string
	bits  conntrack.Labels
}

// resolveLabels looks up the names of labels, if the line has to do with labels.
// Without the file none is known.
func (s *session) resolveLabels(l *line) error {
	if !l.has("label") && !l.has("label-add") && !l.has("label-del") && !l.named {
		return nil
	}
	path := l.labelFile
	if path == "" {
		path = selector.DefaultLabelFile
	}
	names, err := selector.ReadLabelNames(path)
	if err != nil {
		s.say("nfct_labelmap_new: %s\n", cause(err))
		names = new(selector.LabelNames)
	} else {
		l.out.LabelName = names.Name // whatever the names were wanted for, they are shown
	}
	for _, w := range []*labelWords{&l.labels, &l.labelsAdded, &l.labelsDeleted} {
		if err := w.resolve(names); err != nil {
			return err
		}
	}
	return nil
}

// resolve turns names into labels.
func (w *labelWords) resolve(known *selector.LabelNames) error {
	for _, name := range w.names {
		bit, ok := known.Bit(name)
		if !ok || w.bits.Set(bit) != nil {
			return usage("unknown label '%s'", name)
		}
	}
	return nil
}
