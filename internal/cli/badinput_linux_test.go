package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"flowcut/conntrack"
	"flowcut/internal/example"
	"flowcut/internal/netns"
	"flowcut/internal/oneline"
	"flowcut/selector"
)

// goodLines are command lines that only lack a namespace.
var goodLines = []string{
	"list -g", "list --host 192.168.1.100 -o json", "list -p tcp --dport 443,8000-8080 -f ipv4 -o conntrack",
	"cut -g 192.168.1.100:80 -r 192.168.1.100 -p tcp", "cut ! -s 10.0.0.0/8,192.0.2.1-192.0.2.9 -d 203.0.113.1 --settle 2s",
	"cut --host 2001:db8::/32 --hold quiet --timeout 20s --max 500", "cut -n[2001:db8::1]:80 -u ASSURED,UNREPLIED --flows",
	"cut -jp udp --sport 53 -m 0x1/0xff -w 1 --orig-zone 2 -l 3 --id 7", "cut --any-nat=10.0.0.1 --state ESTABLISHED,CLOSE ! --picked-up --no-kick",
	"cut -q 192.0.2.1 --spare -s=10.0.0.0/8 --no-mirror --no-related --silent -o json", "cut -s @- -p icmp --accept-detours",
	"cut --host @nft:inet/f2b-table/addr-set-sshd", "cut -d @nft:ip6/t/s,192.0.2.1 --proto 17",
}

// goodObjects are lines of a batch in JSON.
var goodObjects = []string{
	`{"host": "192.0.2.1", "proto": "tcp"}`, `{"!src": ["10.0.0.0/8", "2001:db8::1-2001:db8::9"], "dport": [80, "443-500"]}`,
	`{"dst-nat": true, "!src-nat": "[2001:db8::1]:80", "mark": "1/3", "label": 3, "zone": [1, 2], "id": 7}`,
	`{"host": [], "status": ["ASSURED"], "state": "CLOSE", "family": "ipv4"}`, `{"host": "@nft:ip/t/s"}`,
}

// spoiler makes bad words of good ones.
type spoiler struct{ *rand.Rand }

// signs mean something somewhere, or must not reach a terminal.
var signs = []string{
	"!", "@", ",", "-", "--", "/", ":", "::", "[", "]", "%", "=", ".", "0", "9", "x", "é", "\"", "'", "\\", "{", "}", " ", "\t",
	"\x1b[31m", "\n", "\r", "\x7f", "\u0085", "\u202e", "\xff", "@nft:", "0x", "99999999999999999999",
}

// spoil changes one word.
func (s spoiler) spoil(word string) string {
	at := s.IntN(len(word) + 1)
	sign := signs[s.IntN(len(signs))]
	switch s.IntN(8) {
	case 0:
		return ""
	case 1:
		return word[:at]
	case 2:
		return word[at:]
	case 3:
		return strings.Repeat(word+sign, 1+s.IntN(400))
	case 4:
		return strings.ToUpper(word) + sign
	case 5:
		return sign + word
	default:
		return word[:at] + sign + word[min(len(word), at+s.IntN(2)):]
	}
}

// line spoils a command line: one of its words, or their order.
func (s spoiler) line(good string) []string {
	words := strings.Fields(good)
	i, j := 1+s.IntN(len(words)-1), 1+s.IntN(len(words)-1)
	switch s.IntN(8) {
	case 0:
		words[i], words[j] = words[j], words[i]
	case 1:
		words = append(words[:i], words[i+1:]...)
	case 2:
		words = append(words, words[i])
	default:
		words[i] = s.spoil(words[i])
	}
	return words
}

// TestBadLines spoils good command lines. What is wrong is told in one line
// that a terminal can show, with code 2, and nothing is done; all else does its
// work, which --dry-run keeps from being a cut.
func TestBadLines(t *testing.T) {
	s := newSpoiler(t)
	n, wrong := newQuietTable(t), 0
	for i := range 300 {
		words := s.line(goodLines[i%len(goodLines)])
		args := append(words, "--netns", n.path) // behind whatever takes a value: then the path belongs to no flag
		if words[0] == "cut" {
			args = append(args, "--dry-run", "--include-self")
		}
		code, stdout, stderr := runLine(args, "192.0.2.1\n")
		switch code {
		case codeOK:
			if stderr != "" {
				t.Errorf("%q: code 0 and %q", words, stderr)
			}
		case codeUsage:
			wrong++
			checkWords(t, append(words, n.path), stderr) // which is named where the last flag lacks its value
			if stdout != "" {
				t.Errorf("%q: code 2 and output %.200q", words, stdout)
			}
		default:
			t.Errorf("%q: code %d, %q", words, code, stderr)
		}
	}
	if wrong < 40 {
		t.Errorf("%d lines were wrong: too few to show anything", wrong)
	}
	n.check(t)
}

// TestBadBatch spoils lines of a batch, and holds a file with one of them that
// is wrong to change nothing.
func TestBadBatch(t *testing.T) {
	s, file := newSpoiler(t), filepath.Join(t.TempDir(), "lines")
	n, wrong := newQuietTable(t), 0
	for i := range 100 {
		var text string
		if i%2 == 0 {
			text = s.spoil(goodObjects[i/2%len(goodObjects)])
		} else {
			text = strings.Join(s.line(goodLines[i/2%len(goodLines)])[1:], " ")
		}
		first := strings.TrimSpace(strings.TrimPrefix(text, "\ufeff"))
		var bad bool
		for _, err := range newBatch(strings.NewReader(text), (&namespace{n.path}).readSet, true).selections() {
			bad = bad || err != nil
		}
		if !bad || strings.Contains(text, "@-") && first == "" {
			continue // it might mean something, and would be cut
		}
		wrong++
		if err := os.WriteFile(file, []byte("--host 192.0.2.77\n"+text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		code, stdout, stderr := runLine([]string{"cut", "--batch", file, "--all", "--include-self", "--netns", n.path}, "")
		if code != codeUsage || stdout != "" {
			t.Errorf("%q: code %d, output %.200q, %q", text, code, stdout, stderr)
		}
		if strings.HasPrefix(first, "{") {
			checkLines(t, []string{text}, stderr)
			continue
		}
		checkWords(t, append([]string{"batch"}, strings.Fields(text)...), stderr)
	}
	if wrong < 40 {
		t.Errorf("%d lines were wrong: too few to show anything", wrong)
	}
	n.check(t)
}

func newSpoiler(t *testing.T) spoiler {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return spoiler{rand.New(rand.NewPCG(seed, 0))}
}

// runLine runs a command line in this process.
func runLine(args []string, stdin string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = Run(context.Background(), args, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

// checkLines holds the standard error to be one line that says what is wrong,
// and at most one what to do.
func checkLines(t *testing.T, words []string, stderr string) (first string) {
	t.Helper()
	lines := strings.SplitAfter(stderr, "\n")
	first = strings.TrimSuffix(lines[0], "\n")
	if len(lines) < 2 || len(lines) > 3 || lines[len(lines)-1] != "" || !strings.HasPrefix(first, "flowcut: ") || len(first) >= 300 {
		t.Errorf("%.500q: %d lines, the first of %d bytes: %q", words, len(lines)-1, len(first), stderr)
	}
	for _, r := range strings.ReplaceAll(stderr, "\n", "") {
		if !strconv.IsPrint(r) {
			t.Errorf("%.500q: %q in %q", words, r, stderr)
			break
		}
	}
	return first
}

// checkWords also holds the first line to name a word of the command line, or
// a flag. words[0] is the command.
func checkWords(t *testing.T, words []string, stderr string) {
	t.Helper()
	line := checkLines(t, words, stderr)
	if strings.Contains(line, "nothing narrows the selection") || strings.Contains(line, "control character") {
		return // it is not one word
	}
	if _, rest, ok := strings.Cut(line, "unknown shorthand flag: "); ok { // it names the letter, and what is left of the word
		_, rest, _ = strings.Cut(rest, " in -")
		rest = rest[:min(len(rest), 20)]
		for _, w := range words[1:] {
			if strings.Contains(oneline.Text(w), rest) || strings.Contains(w, rest) {
				return
			}
		}
	}
	for _, w := range words[1:] {
		for _, name := range namesOf(w) {
			// Of a long word the beginning is enough.
			if name != "" && strings.Contains(line, name[:min(len(name), 20)]) {
				return
			}
		}
	}
	t.Errorf("%.500q: no word of it is in %q", words, line)
}

// namesOf returns what an error may call a word: itself, its parts, or the long
// name of the flag that it is.
func namesOf(word string) []string {
	names := []string{oneline.Value(word), oneline.Text(word)}
	if word == "" {
		names = append(names, `""`)
	}
	for _, part := range strings.FieldsFunc(word, func(r rune) bool { return r == ',' || r == '=' || r == '!' || r == '\n' || r == ' ' }) {
		names = append(names, oneline.Value(part), oneline.Text(part))
	}
	if q := strconv.Quote(word); len(q) > 2 {
		names = append(names, q[1:len(q)-1])
	}
	if len(word) > 1 && word[0] == '-' && word[1] != '-' { // letters, the last with a value
		for i := 2; i < len(word)-1; i++ {
			names = append(names, oneline.Text(word[i:]))
		}
	}
	if name := strings.TrimLeft(word, "-!"); name != word {
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		new(selector.Flags).Register(fs)
		fs.VisitAll(func(f *pflag.Flag) {
			if strings.HasPrefix(name, f.Name) || f.Shorthand != "" && strings.Contains(name, f.Shorthand) {
				names = append(names, "--"+f.Name)
			}
		})
		if hidden, ok := map[string]string{"src": "orig-src", "dst": "orig-dst", "sport": "orig-port-src", "dport": "orig-port-dst"}[name]; ok {
			names = append(names, "--"+hidden)
		}
	}
	return names
}

// quietTable is a namespace with flows that nothing may change.
type quietTable struct {
	ns     *netns.NS
	path   string
	before string
}

func newQuietTable(t *testing.T) *quietTable {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	n := &quietTable{ns: ns, path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd())}
	c, err := conntrack.Dial(conntrack.Config{NetNS: ns.Fd()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, f := range example.Flows() {
		f.Has |= conntrack.AttrStatus | conntrack.AttrTimeout
		f.Timeout = 120 * 3600e9
		if err := c.Create(context.Background(), f); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	n.before = n.list(t)
	return n
}

// list returns the IDs of the flows, and the tables of rules.
func (n *quietTable) list(t *testing.T) string {
	t.Helper()
	ids := map[string]bool{}
	code, out, errs := runLine([]string{"list", "-o", "json", "--netns", n.path}, "")
	if code != codeOK {
		t.Fatalf("list: code %d, %s", code, errs)
	}
	for line := range strings.Lines(out) {
		var f conntrack.Flow
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatal(err)
		}
		ids[f.Orig.String()+" "+strconv.Itoa(int(f.ID))] = true
	}
	return fmt.Sprint(ids)
}

// check holds the flows to be those of the beginning.
func (n *quietTable) check(t *testing.T) {
	t.Helper()
	if after := n.list(t); after != n.before || len(after) < 100 {
		t.Errorf("the table has changed:\n%s\nbefore:\n%s", after, n.before)
	}
}

// TestBadWords: words that are read before anything else are told likewise.
func TestBadWords(t *testing.T) {
	const escape = "\x1b[31mred\n"
	long := strings.Repeat("x", 5000)
	for _, args := range [][]string{
		{escape}, {long}, {"help", escape}, {"help", long}, {"completion", escape}, {"list", escape}, {"list", long},
		{"list", "--netns", escape}, {"list", "--netns", long}, {"list", "--netns", "../" + escape}, {"list", "--netns", "/dev/null"},
		{"list", "-o", escape}, {"list", "-o", long}, {"cut", "--batch", escape}, {"cut", "--batch", long}, {"cut", "--batch", "/" + escape, "-g"},
		{"cut", "-g", "--settle", escape}, {"cut", "-g", "--max", long}, {"cut", "-g", "--spare", escape}, {"cut", "-g", "--spare", "-s " + long},
		{"cut", "--host", "@" + escape}, {"cut", "--host", "@" + long}, {"cut", "-l", escape}, {"cut", "-l", long}, {"cut", "--" + escape}, {"cut", "-" + escape},
		{"demo", escape}, {"demo", "--before", escape}, {"cut", "--host", "@nft:" + escape + "/t/s"}, {"cut", "--host", "@nft:ip/t/" + escape},
	} {
		if args[0] == "cut" && args[1] != "--batch" {
			args = append(args, "--dry-run") // should it be no mistake one day
		}
		code, stdout, stderr := runLine(args, "")
		if code != codeUsage || stdout != "" {
			t.Errorf("%.60q: code %d, output %.200q, %q", args, code, stdout, stderr)
			continue
		}
		line := checkLines(t, args, stderr)
		if !strings.Contains(line, "red") && !strings.Contains(line, "xxx") && !strings.Contains(line, "/dev/null") && !strings.Contains(line, "--batch") {
			t.Errorf("%.60q: no word of it is in %q", args, line)
		}
	}
}
