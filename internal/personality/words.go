package personality

import "strings"

// words takes a command line apart as getopt_long(3) does: options may stand
// anywhere, long ones may be cut short as long as they are not ambiguous,
// short ones may share a word, and "--" ends them. Other words are passed over.
type words struct {
	in      []string
	next    int    // index of the next word
	cluster string // short options of the current word that are left
}

// found is an option on the command line: a command or a row of the matrix.
type found struct {
	command  byte    // short name of a command, 0 if it is none
	option   *option // nil if it is a command
	value    string
	attached bool // value stood in the same word
}

// name is a name of an option.
type name struct {
	text string
	arg  argument
	to   found
}

// option returns the next option; ok is false at the end.
func (w *words) option(names []name) (f found, ok bool, err error) {
	if w.cluster != "" {
		f, err = w.short(names)
		return f, true, err
	}
	for w.next < len(w.in) {
		word := w.in[w.next]
		w.next++
		switch {
		case word == "--":
			w.next = len(w.in)
		case strings.HasPrefix(word, "--"):
			f, err = w.long(names, word)
			return f, true, err
		case len(word) > 1 && word[0] == '-':
			w.cluster = word[1:]
			f, err = w.short(names)
			return f, true, err
		}
	}
	return found{}, false, nil
}

// short takes the first option of the cluster.
func (w *words) short(names []name) (found, error) {
	letter := w.cluster[0]
	word := w.in[w.next-1]
	w.cluster = w.cluster[1:]
	n, ok := shortName(names, letter)
	if !ok {
		return found{}, usage("unknown option `%s'", word)
	}
	f := n.to
	if n.arg != noValue && w.cluster != "" {
		f.value, f.attached, w.cluster = w.cluster, true, ""
	}
	return f, w.needed(&f, n.arg, word)
}

// shortName finds the option with a letter. Commands other than -C take
// nothing from their word.
func shortName(names []name, letter byte) (n name, ok bool) {
	for i := range names {
		n := &names[i]
		switch {
		case n.to.command == letter:
			return name{arg: commandLetterArg(letter), to: n.to}, true
		case n.to.option != nil && n.to.option.short == letter && letter != 0:
			return *n, true
		}
	}
	return name{}, false
}

func commandLetterArg(letter byte) argument {
	if letter == 'C' {
		return optionalValue
	}
	return noValue
}

// long takes --NAME or --NAME=VALUE.
func (w *words) long(names []name, word string) (found, error) {
	text, value, attached := strings.Cut(word[2:], "=")
	n := longName(names, text)
	if n == nil || attached && n.arg == noValue {
		return found{}, usage("unknown option `%s'", word)
	}
	f := n.to
	f.value, f.attached = value, attached
	return f, w.needed(&f, n.arg, word)
}

// longName finds the option that a name, or the beginning of one, can mean.
func longName(names []name, text string) *name {
	var one *name
	ambiguous := false
	for i := range names {
		n := &names[i]
		switch {
		case n.text == text:
			return n
		case !strings.HasPrefix(n.text, text):
		case one == nil:
			one = n
		case one.to != n.to:
			ambiguous = true
		}
	}
	if ambiguous {
		return nil
	}
	return one
}

// needed takes the next word as a value that the option cannot do without.
func (w *words) needed(f *found, arg argument, word string) error {
	if arg != needsValue || f.attached {
		return nil
	}
	if w.next == len(w.in) {
		return usage("option `%s' requires an argument", word)
	}
	f.value = w.in[w.next]
	w.next++
	return nil
}

// optional takes the next word as a value that may be left out.
func (w *words) optional() (string, bool) {
	if w.cluster != "" || w.next == len(w.in) {
		return "", false
	}
	word := w.in[w.next]
	if strings.HasPrefix(word, "-") || strings.HasPrefix(word, "!") {
		return "", false
	}
	w.next++
	return word, true
}
