package personality

import (
	"flowcut/conntrack"
	"flowcut/selector"
)

// labelNames are the names of labels in a file; nil has none.
type labelNames struct{ names *selector.LabelNames }

// readLabelNames reads a file, the usual one if path is "".
func readLabelNames(path string) (*labelNames, error) {
	if path == "" {
		path = selector.DefaultLabelFile
	}
	n, err := selector.ReadLabelNames(path)
	if err != nil {
		return nil, err
	}
	return &labelNames{n}, nil
}

// name returns the name of a label, "" if it has none.
func (n *labelNames) name(bit int) string {
	if n == nil {
		return ""
	}
	return n.names.Name(bit)
}

// bits returns the labels with names.
func (n *labelNames) bits(names []string) (conntrack.Labels, error) {
	var out conntrack.Labels
	for _, name := range names {
		bit, ok := 0, false
		if n != nil {
			bit, ok = n.names.Bit(name)
		}
		if !ok || out.Set(bit) != nil {
			return out, usage("unknown label '%s'", name)
		}
	}
	return out, nil
}
