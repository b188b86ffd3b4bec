package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"

	"flowcut/selector"
)

// readAll returns a batch as lines: the number, and the selection or the error.
func readAll(r io.Reader, all bool) []string {
	sets := func(_, _, set string) ([]selector.AddrRange, error) {
		if set == "closed" {
			return nil, os.ErrPermission
		}
		a := netip.MustParseAddr("192.0.2.9")
		return []selector.AddrRange{{From: a, To: a}}, nil
	}
	var out []string
	for s, err := range newBatch(r, sets, all).selections() {
		if err == nil {
			out = append(out, fmt.Sprintf("%d %s", s.line, s.selector))
			continue
		}
		what, hint := describe(err)
		out = append(out, fmt.Sprintf("%d! %s; %s", s.line, what, hint))
	}
	return out
}

func TestBatch(t *testing.T) {
	long := "--host " + strings.Repeat("192.0.2.1,", maxBatchLine/10) + "192.0.2.1"
	tests := []struct {
		name, in string
		want     []string // how they begin
	}{
		{"nothing", "", nil},
		{"nothing to say", "\n \r\n# --host 192.0.2.1\n  # x\n#", nil},
		{"flags", "--host 192.0.2.1 -p tcp\n\n! -g\t--dport=80", []string{"1 --proto tcp --host 192.0.2.1", "3 --orig-port-dst 80 ! --dst-nat"}},
		{"JSON", `{"host": "192.0.2.1", "proto": "tcp"}` + "\n" + ` {"!dport": [22, 80]}`,
			[]string{"1 --proto tcp --host 192.0.2.1", "2 ! --orig-port-dst 22,80"}},
		{"as Windows writes it", "\ufeff--host 192.0.2.1\r\n\r\n{\"host\": \"192.0.2.2\"}\r\n", []string{"1 --host 192.0.2.1", "3 --host 192.0.2.2"}},
		{"a set", "--host @nft:ip/a/b", []string{"1 --host 192.0.2.9"}},
		{"a set that is closed", "--host @nft:ip/a/closed\n-g", []string{"1! line 1: selector: --host @nft:ip/a/closed: permission denied; this needs", "2 --dst-nat"}},
		{"wrong ones among others", "--host 192.0.2.300\n--host 192.0.2.1\n{\"hosts\": 1}\n--host 192.0.2.2\n", []string{
			"1! line 1: --host 192.0.2.300: not an address; write an address", "2 --host 192.0.2.1",
			"3! line 3: hosts: unknown key; write the long name", "4 --host 192.0.2.2"}},
		{"no flag", "192.0.2.1", []string{"1! line 1: 192.0.2.1: a word that belongs to no flag; take it out"}},
		{"a flag of the cut", "--host 192.0.2.1 --settle 3s", []string{"1! line 1: unknown flag: --settle; a line has flags of a selection alone"}},
		{"a flag without a value", "--host", []string{"1! line 1: flag needs an argument: --host; a line has flags"}},
		{"help", "--help", []string{"1! line 1: pflag: help requested; a line has flags"}},
		{"quotes", `--host "192.0.2.1"`, []string{`1! line 1: --host "192.0.2.1": not an address; write the values without quotes`}},
		{"JSON with something behind", `{"host": "192.0.2.1"} -p tcp`, []string{"1! line 1: not a JSON object: something stands behind it; write one object a line"}},
		{"JSON on two lines", "{\"host\":\n\"192.0.2.1\"}", []string{"1! line 1: not a JSON object: it ends too early; write one object a line", "2! line 2: "}},
		{"standard input", "--host @-\n{\"host\": \"@-\"}", []string{
			"1! line 1: --host @-: there is no standard input here; write @FILE", "2! line 2: --host @-: there is no standard input here; write @FILE"}},
		{"nothing narrows", "-p tcp\n{}\n--host 0.0.0.0/0", []string{
			"1! line 1: nothing narrows the selection; narrow it by", "2! line 2: nothing narrows", "3! line 3: nothing narrows"}},
		{"too long", long + "\n-g\n# " + long + "\n-n\n" + long, []string{
			"1! line 1: longer than 1 MiB; make several lines of it", "2 --dst-nat", "3! line 3: longer", "4 --src-nat", "5! line 5: longer"}},
	}
	for _, tt := range tests {
		got := readAll(strings.NewReader(tt.in), false)
		if len(got) != len(tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
			continue
		}
		for i := range got {
			if !strings.HasPrefix(got[i], tt.want[i]) {
				t.Errorf("%s:\n got %s\nwant %s", tt.name, got[i], tt.want[i])
			}
		}
	}
	if got := readAll(strings.NewReader("-p tcp"), true); len(got) != 1 || got[0] != "1 --proto tcp" {
		t.Errorf("with --all: %q", got)
	}
}

// TestBatchLength: the longest line is as long as it may be, with its end.
func TestBatchLength(t *testing.T) {
	line := "--host 192.0.2.1"
	for _, tt := range []struct {
		length int
		ok     bool
	}{{maxBatchLine - 1, true}, {maxBatchLine, true}, {maxBatchLine + 1, false}} {
		text := line + strings.Repeat(" ", tt.length-1-len(line)) + "\n-g\n"
		got := readAll(strings.NewReader(text), false)
		if len(got) != 2 || strings.Contains(got[0], "!") == tt.ok || got[1] != "2 --dst-nat" {
			t.Errorf("%d bytes: %q", tt.length, got)
		}
	}
}

// TestBatchStreams: a line is there before the next one is written, and half a
// line of a stream that fails is not taken for a whole one.
func TestBatchStreams(t *testing.T) {
	r, w := io.Pipe()
	asked := make(chan bool)
	go func() {
		for i := range 3 {
			<-asked
			fmt.Fprintf(w, "--host 192.0.2.%d\n", i)
		}
		<-asked
		fmt.Fprintf(w, "--host 192.0.2.7\n--host 192.0.2.1")
		<-asked
		w.CloseWithError(io.ErrClosedPipe)
	}()
	b := newBatch(r, nil, false)
	asked <- true
	var got []string
	for s, err := range b.selections() {
		got = append(got, fmt.Sprint(s.selector, err))
		if err == nil {
			asked <- true
		}
	}
	want := []string{"--host 192.0.2.0 <nil>", "--host 192.0.2.1 <nil>", "--host 192.0.2.2 <nil>",
		"--host 192.0.2.7 <nil>", " line 5: io: read/write on closed pipe"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func FuzzBatch(f *testing.F) {
	for _, seed := range []string{
		"--host 192.0.2.1 -p tcp\n{\"host\": \"192.0.2.1\"}\r\n# x\n\n", "\ufeff! -g 10.0.0.1:80\n-jp tcp --sport 1-2",
		"{\"!dst-nat\": true, \"dport\": [1, \"2-3\"]}", "-p tcp\n{}\n\x00\n{", "-- -g\n! !\n\"",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "@") || strings.Contains(text, `\u`) {
			return // no files
		}
		last, lines := 0, strings.Count(text, "\n")+1
		for s, err := range newBatch(strings.NewReader(text), nil, true).selections() {
			if s.line <= last || s.line > lines {
				t.Fatalf("%q: line %d behind line %d of %d", text, s.line, last, lines)
			}
			last = s.line
			if err != nil {
				if _, ok := errors.AsType[*usageError](err); !ok || !strings.HasPrefix(err.Error(), fmt.Sprintf("line %d: ", s.line)) {
					t.Fatalf("%q: %T %v", text, err, err)
				}
				continue
			}
			object, err := json.Marshal(s.selector)
			if err != nil {
				t.Fatal(err)
			}
			again := readAll(strings.NewReader(s.selector.String()+" \n"+string(object)), true)
			want := []string{"1 " + s.selector.String(), "2 " + s.selector.String()}
			if s.selector.String() == "" {
				want = want[1:]
			}
			if strings.Join(again, "\n") != strings.Join(want, "\n") {
				t.Fatalf("%q: read again it is %q, want %q", text, again, want)
			}
		}
	})
}
