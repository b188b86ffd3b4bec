package selector

import (
	"errors"
	"io/fs"
	"strconv"

	"flowcut/conntrack"
)

// LabelBits is a condition on labels: all of Bits are set.
type LabelBits struct {
	Set     bool
	Negated bool
	Bits    conntrack.Labels
}

// labelMax is the highest label, XT_CONNLABEL_MAXBIT.
const labelMax = 127

// match reports whether the condition holds for the labels of a flow.
func (c *LabelBits) match(l *conntrack.Labels) bool {
	return !c.Set || c.all(l) != c.Negated
}

func (c *LabelBits) all(l *conntrack.Labels) bool {
	for i, b := range c.Bits {
		if l[i]&b != b {
			return false
		}
	}
	return true
}

// numbers returns the bits as --label takes them.
func (c *LabelBits) numbers() []string {
	var out []string
	for n := range labelMax + 1 {
		if c.Bits[n/8]&(1<<(n%8)) != 0 {
			out = append(out, strconv.Itoa(n))
		}
	}
	return out
}

// add reads a label, by number or by its name in a file.
func (c *LabelBits) add(s, file string) *Error {
	n, err := parseNumber(s, labelMax)
	if err != nil && err.Problem == "not a number" {
		n, err = labelByName(s, file)
	}
	if err != nil {
		return err
	}
	c.Bits[n/8] |= 1 << (n % 8)
	return nil
}

// labelByName looks a label's name up in a file.
func labelByName(name, file string) (uint64, *Error) {
	names, err := ReadLabelNames(file)
	if err != nil {
		e := wrong(name, "no label's name can be looked up", "write a number from 0 to 127, or put names into "+file)
		if e.Err = err; errors.Is(err, fs.ErrNotExist) {
			e.Problem, e.Err = "label names are kept in "+file+", which does not exist", nil
		}
		return 0, e
	}
	if n, ok := names.Bit(name); ok && n <= labelMax {
		return uint64(n), nil
	}
	return 0, wrong(name, "unknown label", "write a number from 0 to 127, or a name from "+file)
}
