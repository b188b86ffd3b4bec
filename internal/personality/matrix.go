package personality

// The grammar of conntrack(8): which option goes with which command. A cell is
//
//	R  required
//	o  optional
//	P  one of the two pairs of such options must be complete
//	.  not with this command
//
// and stands in the column of a command, in the order of the constants below.
// Commands without a column take no option at all.
//
// Three cells are wider than conntrack(8)'s, which cannot reach zoned entries
// with -G and -U, and knows no -D -j.

// column is the place of a command in the cells of an option.
type column int

// Columns. The last five are of the expectation table.
const (
	colL column = iota
	colG
	colD
	colU
	colI
	colA
	colE
	colF
	colH
	colLx
	colIx
	colDx
	colGx
	colEx
	numColumns
	colNone column = -1
)

// argument tells whether an option takes a value.
type argument int

const (
	noValue       argument = iota
	needsValue             // in the same word or the next
	optionalValue          // in the same word, or the next if that begins with neither - nor !
)

// option is a row of the matrix.
type option struct {
	cells   string
	name    string   // long name, as messages have it
	aliases []string // more long names
	short   byte     // 0: none
	arg     argument
	set     func(l *line, value string) error // value is "" if an optional one is not there
}

// cell returns what the matrix says of an option and a command.
func (o *option) cell(c column) byte {
	if c == colNone {
		return '.'
	}
	return o.cells[2*c]
}

// options are the options that do not depend on the protocol. Their order is
// that in which what is missing or too much is found.
var options = [...]option{
	//L G D U I A E F h L I D G E
	{"o P o o P P o . . . R R R .", "src", []string{"orig-src"}, 's', needsValue, (*line).setSrc},
	{"o P o o P P o . . . R R R .", "dst", []string{"orig-dst"}, 'd', needsValue, (*line).setDst},
	{"o P o o P P o . . . o o o .", "reply-src", nil, 'r', needsValue, (*line).setReplySrc},
	{"o P o o P P o . . . o o o .", "reply-dst", nil, 'q', needsValue, (*line).setReplyDst},
	{"o R o o R R o . o . R R R .", "protonum", nil, 'p', needsValue, (*line).setProto},
	{". . o o R R . . . . R . . .", "timeout", nil, 't', needsValue, (*line).setTimeout},
	{"o . o o o o . . . . o . . .", "status", nil, 'u', needsValue, (*line).setStatus},
	{"o . . . . . . . . . . . . .", "zero", nil, 'z', noValue, (*line).setZero},
	{". . . . . . o . . . . . . .", "event-mask", nil, 'e', needsValue, (*line).setEvents},
	{". . . . . . . . . . R . . .", "tuple-src", nil, '[', needsValue, (*line).setTupleSrc},
	{". . . . . . . . . . R . . .", "tuple-dst", nil, ']', needsValue, (*line).setTupleDst},
	{"o . o o . . o . . . R . . .", "mask-src", nil, '{', needsValue, (*line).setMaskSrc},
	{"o . o o . . o . . . R . . .", "mask-dst", nil, '}', needsValue, (*line).setMaskDst},
	{". . . . o o . . . . . . . .", "nat-range", nil, 'a', needsValue, (*line).ignoreNATRange},
	{"o . o o o o o . . . . . . .", "mark", nil, 'm', needsValue, (*line).setMark},
	{". o o o . . . . . . . . . .", "id", nil, 'i', needsValue, (*line).setID},
	{"o . o o . . o o . o . . . .", "family", nil, 'f', needsValue, (*line).setFamily},
	{"o . o o o o o . . . . . . .", "src-nat", nil, 'n', optionalValue, (*line).setSrcNAT},
	{"o . o o o o o . . . . . . .", "dst-nat", nil, 'g', optionalValue, (*line).setDstNAT},
	{"o o o o . . o . . o . . . o", "output", nil, 'o', needsValue, (*line).setOutput},
	{"o . . . . . o . . . . . . .", "secmark", nil, 'c', needsValue, (*line).setSecMark},
	{". . . . . . o . . . . . . .", "buffer-size", nil, 'b', needsValue, (*line).setBuffer},
	{"o . o . . . o . . . . . . .", "any-nat", nil, 'j', optionalValue, (*line).setAnyNAT},
	{"o o o o o o o . . . . . . .", "zone", nil, 'w', needsValue, (*line).setZone},
	{"o o o o . . o . . . . . . .", "label", nil, 'l', needsValue, (*line).setLabel},
	{". . . o o o . . . . . . . .", "label-add", nil, '<', needsValue, (*line).setLabelAdd},
	{". . . o . . . . . . . . . .", "label-del", nil, '>', optionalValue, (*line).setLabelDel},
	{"o . o . o o o . . . . . . .", "orig-zone", nil, '(', needsValue, (*line).setOrigZone},
	{"o . o . o o o . . . . . . .", "reply-zone", nil, ')', needsValue, (*line).setReplyZone},
	{"o . o o . . o . . . . . . .", "labelmap", nil, 'M', needsValue, (*line).setLabelMap},
}

// pairs are the options of which those marked P must come as one of two pairs.
var pairs = [...]pair{
	{"src", "dst", "`--src' and `--dst'"},
	{"reply-src", "reply-dst", "`--reply-src' and `--reply-dst'"},
}

// pair is two options that belong together, and how messages call them.
type pair struct{ one, other, words string }

// command is something conntrack(8) does.
type command struct {
	short  byte
	name   string
	expect bool // on the expectation table
	column column
	done   string // what the summary says of the entries, "" without one
	run    func(*session, *line) error
}

// commands are the commands on the table of flows, then those on expectations.
// -R has its own place on a command line and its own grammar: see load.go.
var commands = [...]command{
	{'L', "dump", false, colL, "flow entries have been shown", (*session).list},
	{'G', "get", false, colG, "flow entries have been shown", (*session).get},
	{'D', "delete", false, colD, "flow entries have been deleted", (*session).delete},
	{'U', "update", false, colU, "flow entries have been updated", (*session).update},
	{'I', "create", false, colI, "flow entries have been created", (*session).create},
	{'A', "add", false, colA, "flow entries have been added", (*session).create},
	{'E', "event", false, colE, "flow events have been shown", (*session).events},
	{'F', "flush", false, colF, "", (*session).flush},
	{'C', "counter", false, colNone, "", (*session).count},
	{'S', "stats", false, colNone, "", (*session).stats},
	{'h', "help", false, colH, "", (*session).help},
	{'V', "version", false, colNone, "", (*session).version},

	{'L', "dump", true, colLx, "expectations have been shown", (*session).listExpectations},
	{'G', "get", true, colGx, "", (*session).getExpectation},
	{'D', "delete", true, colDx, "expectations have been shown", (*session).deleteExpectation},
	{'I', "create", true, colIx, "", (*session).createExpectation},
	{'E', "event", true, colEx, "expectation events have been shown", (*session).events},
	{'F', "flush", true, colNone, "", (*session).flushExpectations},
	{'C', "counter", true, colNone, "", (*session).countExpectations},
	{'S', "stats", true, colNone, "", (*session).expectationStats},
	{'h', "help", true, colH, "", (*session).help},
	{'V', "version", true, colNone, "", (*session).version},
}
