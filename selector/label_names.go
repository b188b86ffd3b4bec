package selector

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
)

// DefaultLabelFile is where conntrack(8) and iptables keep the names of labels.
const DefaultLabelFile = "/etc/xtables/connlabel.conf"

// labelFileMax is the highest number that a file of names may have; the
// kernel's labels end at 127.
const labelFileMax = 1023

// LabelNames are the names of labels. The zero value knows none. It may be
// used at once by many.
//
// A file has a line a label: its number, in decimal, hexadecimal or octal as
// in C, and its name, of letters, digits, "-" and blanks. Lines that begin
// with "#" and all others are skipped, without an error, as are those with a
// number or a name that an earlier line has.
// Source: src/conntrack/labels.c of libnetfilter_conntrack 1.1.1.
type LabelNames struct {
	names []string       // by number
	bits  map[string]int // by name
}

// ReadLabelNames reads a file such as [DefaultLabelFile].
// Errors: [os.ErrNotExist], as most hosts have no such file.
func ReadLabelNames(path string) (*LabelNames, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseLabelNames(f)
}

func parseLabelNames(r io.Reader) (*LabelNames, error) {
	l := LabelNames{bits: map[string]int{}}
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		if bit, name, ok := parseLabelLine(sc.Text()); ok {
			l.add(bit, name)
		}
	}
	return &l, sc.Err()
}

// add adds a name unless it or its number is there.
func (l *LabelNames) add(bit int, name string) {
	if _, ok := l.bits[name]; ok || l.Name(bit) != "" {
		return
	}
	for len(l.names) <= bit {
		l.names = append(l.names, "")
	}
	l.names[bit], l.bits[name] = name, bit
}

// Name returns the name of a label, "" if it has none.
func (l *LabelNames) Name(bit int) string {
	if bit < 0 || bit >= len(l.names) {
		return ""
	}
	return l.names[bit]
}

// Bit returns the number of the label that has a name; it may be beyond the
// kernel's last, 127.
func (l *LabelNames) Bit(name string) (int, bool) {
	bit, ok := l.bits[name]
	return bit, ok
}

// Len returns how many names there are.
func (l *LabelNames) Len() int { return len(l.bits) }

// parseLabelLine reads a line of a file of names.
func parseLabelLine(line string) (bit int, name string, ok bool) {
	const blanks = " \t\v\f\r"
	if strings.HasPrefix(line, "#") {
		return 0, "", false
	}
	number, rest := cutNumber(strings.TrimPrefix(strings.TrimLeft(line, blanks), "+"))
	n, err := strconv.ParseUint(number, 0, 64)
	if err != nil || n > labelFileMax {
		return 0, "", false
	}
	name = strings.Trim(rest, blanks)
	return int(n), name, name != "" && strings.IndexFunc(name, notInLabel) < 0
}

// cutNumber returns what strtoul(3) takes for a number, and the rest.
func cutNumber(s string) (number, rest string) {
	digits, start := "0123456789", 0
	switch {
	case len(s) > 2 && (s[:2] == "0x" || s[:2] == "0X") && strings.IndexByte("0123456789abcdefABCDEF", s[2]) >= 0:
		digits, start = "0123456789abcdefABCDEF", 2
	case strings.HasPrefix(s, "0"):
		digits = "01234567"
	}
	rest = strings.TrimLeft(s[start:], digits)
	return s[:len(s)-len(rest)], rest
}

// notInLabel tells whether a name must not have the character.
func notInLabel(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == ' ', r == '-':
		return false
	}
	return true
}
