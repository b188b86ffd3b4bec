package personality

import "flowcut/conntrack"

// check holds the line to the matrix.
func (l *line) check() error {
	l.defaultFamily()
	if l.has("any-nat") && (l.has("src-nat") || l.has("dst-nat")) {
		return usage("cannot specify `--src-nat' or `--dst-nat' with `--any-nat'")
	}
	col := l.column()
	if err := l.checkOptions(options[:], pairs, col); err != nil {
		return err
	}
	if l.proto != nil && col != colH {
		if err := l.checkOptions(l.proto.options, l.proto.pairs, col); err != nil {
			return err
		}
	}
	return l.checkMasks()
}

func (l *line) column() column {
	if l.command == nil {
		return colNone
	}
	return l.command.column
}

// checkOptions holds the options in a table to their cells.
func (l *line) checkOptions(table []option, pairs [2]pair, c column) error {
	paired := false
	for i := range table {
		o := &table[i]
		given := l.has(o.name)
		switch o.cell(c) {
		case 'R':
			if !given {
				return usage("You need to supply the `--%s' option for this command", o.name)
			}
		case '.':
			if given {
				return usage("Illegal option `--%s' with this command", o.name)
			}
		case 'P':
			paired = true
		}
	}
	if !paired {
		return nil
	}
	return l.checkPairs(pairs)
}

// checkPairs wants one pair complete, and else names the one that was begun.
func (l *line) checkPairs(pairs [2]pair) error {
	begun := pairs[0]
	for _, p := range []pair{pairs[1], pairs[0]} {
		one, other := l.has(p.one), l.has(p.other)
		if one && other {
			return nil
		}
		if one || other {
			begun = p
		}
	}
	return usage("you have to specify %s", begun.words)
}

// checkMasks wants something that a mask can be of, where masks select flows of
// the table. Elsewhere they may stand alone.
func (l *line) checkMasks() error {
	if l.table != tableConntrack {
		return nil
	}
	for _, name := range []string{"src", "dst"} {
		if l.has("mask-"+name) && !l.has(name) {
			return usage("Can't use --mask-%s without --%s", name, name)
		}
	}
	return nil
}

// defaultFamily: commands that go through the table of flows mean both
// families, all others IPv4.
func (l *line) defaultFamily() {
	if l.family != conntrack.FamilyBoth {
		return
	}
	switch l.column() {
	case colL, colU, colD, colG, colF, colE:
	default:
		l.family = conntrack.FamilyIPv4
	}
}
