package selector

import (
	"strings"

	"github.com/spf13/pflag"
)

// Normalize rewrites a command line so that pflag understands what users of
// conntrack(8) type:
//
//   - -g IP, -gIP and --dst-nat IP become --dst-nat=IP: the next word is the
//     value when it parses as one, alike for -n and -j;
//   - a ! of its own in front of a selector's flag becomes a ! in front of the
//     flag's value;
//   - short flags in one word (-jp tcp) come apart.
//
// The set knows which flags take values; words of flags that are not the
// selector's stay as they are, as does everything behind "--". A ! that
// negates nothing stays, to be refused as a stray word. The ! goes with the
// first flag of a word.
func Normalize(fs *pflag.FlagSet, args []string) []string {
	n := normalizer{fs: fs, in: args, out: make([]string, 0, len(args))}
	for len(n.in) > 0 && n.in[0] != "--" {
		n.word(n.next())
	}
	return append(n.out, n.in...)
}

type normalizer struct {
	fs      *pflag.FlagSet
	in, out []string
}

func (n *normalizer) next() string {
	w := n.in[0]
	n.in = n.in[1:]
	return w
}

func (n *normalizer) emit(words ...string) { n.out = append(n.out, words...) }

// word rewrites one word, with the words behind it that belong to it.
func (n *normalizer) word(w string) {
	negated := false
	if w == "!" && len(n.in) > 0 && n.ours(n.in[0]) {
		negated, w = true, n.next()
	}
	switch {
	case strings.HasPrefix(w, "--"):
		n.long(w, negated)
	case len(w) > 1 && w[0] == '-':
		n.shorts(w[1:], negated)
	default:
		n.emit(w)
	}
}

// ours reports whether a word begins with a flag of the selector.
func (n *normalizer) ours(w string) bool {
	var flag *pflag.Flag
	if name, isLong := strings.CutPrefix(w, "--"); isLong {
		name, _, _ = strings.Cut(name, "=")
		flag = n.fs.Lookup(name)
	} else if len(w) > 1 && w[0] == '-' {
		flag = n.fs.ShorthandLookup(w[1:2])
	}
	return isOurs(flag)
}

func isOurs(flag *pflag.Flag) bool {
	if flag == nil {
		return false
	}
	_, ok := flag.Value.(*flagValue)
	return ok
}

// long rewrites --name, --name=value or --name value.
func (n *normalizer) long(w string, negated bool) {
	name, value, hasValue := strings.Cut(w[2:], "=")
	flag := n.fs.Lookup(name)
	switch {
	case isOurs(flag) && hasValue:
		n.flag(flag, value, negated)
	case isOurs(flag):
		n.flagWithNext(flag, negated)
	default:
		n.emit(w)
		if flag != nil && !hasValue {
			n.foreignValue(flag)
		}
	}
}

// shorts takes a word of short flags apart.
func (n *normalizer) shorts(letters string, negated bool) {
	for letters != "" {
		flag := n.fs.ShorthandLookup(letters[:1])
		rest := letters[1:]
		switch {
		case !isOurs(flag):
			n.foreignShort(flag, letters)
			if flag == nil || flag.NoOptDefVal == "" || strings.HasPrefix(rest, "=") {
				return
			}
		case rest == "":
			n.flagWithNext(flag, negated)
		case flag.NoOptDefVal == "" || rest[0] == '=' || isTargets(rest):
			n.flag(flag, strings.TrimPrefix(rest, "="), negated)
			return
		default:
			n.flag(flag, flag.NoOptDefVal, negated)
		}
		letters, negated = rest, false
	}
}

// foreignShort passes on a short flag that is not the selector's: alone when
// it takes no value, else with the rest of its word.
func (n *normalizer) foreignShort(flag *pflag.Flag, letters string) {
	if flag != nil && flag.NoOptDefVal != "" && !strings.HasPrefix(letters[1:], "=") {
		n.emit("-" + letters[:1])
		return
	}
	if strings.HasPrefix(letters, "test.") {
		// pflag passes over what looks like a flag of "go test".
		letters = letters[:1]
	}
	n.emit("-" + letters)
	if flag != nil && len(letters) == 1 {
		n.foreignValue(flag)
	}
}

// foreignValue passes on the word behind a flag that needs a value.
func (n *normalizer) foreignValue(flag *pflag.Flag) {
	if flag.NoOptDefVal == "" && len(n.in) > 0 {
		n.emit(n.next())
	}
}

// flagWithNext rewrites a flag whose value, if it has one, is the next word.
func (n *normalizer) flagWithNext(flag *pflag.Flag, negated bool) {
	optional := flag.NoOptDefVal != ""
	switch {
	case len(n.in) > 0 && (!optional || takesTargets(flag) && isTargets(n.in[0])):
		n.flag(flag, n.next(), negated)
	case optional:
		n.flag(flag, flag.NoOptDefVal, negated)
	default:
		n.emit("--" + flag.Name) // pflag says that the value is missing
	}
}

func (n *normalizer) flag(flag *pflag.Flag, value string, negated bool) {
	if negated {
		value = "!" + value
	}
	n.emit("--" + flag.Name + "=" + value)
}

func takesTargets(flag *pflag.Flag) bool {
	return flag.Value.(*flagValue).cond.bare == anyTarget
}

// isTargets reports whether a word is a list of translation targets or begins
// like one that is in a file.
func isTargets(w string) bool {
	items, err := splitList(strings.TrimPrefix(w, "!"))
	if err != nil {
		return false
	}
	for _, item := range items {
		if _, err := parseTarget(item); err != nil && !strings.HasPrefix(item, "@") {
			return false
		}
	}
	return true
}
