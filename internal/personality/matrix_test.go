package personality

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// Every row has a cell for each column, and nothing has two meanings.
func TestMatrix(t *testing.T) {
	rows := options[:]
	for i := range protocols {
		rows = slices.Concat(rows, protocols[i].options)
	}
	for _, o := range rows {
		if len(o.cells) != 2*int(numColumns)-1 {
			t.Errorf("--%s: %d cells, want %d", o.name, (len(o.cells)+1)/2, numColumns)
		}
		if bad := strings.Trim(strings.ReplaceAll(o.cells, " ", ""), "RoP."); bad != "" {
			t.Errorf("--%s: cells %q", o.name, bad)
		}
	}
	for i := range protocols {
		p := &protocols[i]
		names := p.names()
		seen := map[string]bool{}
		letters := map[byte]bool{}
		for _, n := range names {
			if seen[n.text] {
				t.Errorf("-p %s: --%s twice", p.name, n.text)
			}
			seen[n.text] = true
		}
		for _, c := range commands {
			if !c.expect {
				letters[c.short] = true
			}
		}
		for _, o := range options {
			if letters[o.short] {
				t.Errorf("-%c twice", o.short)
			}
			letters[o.short] = true
		}
		for _, pair := range p.pairs {
			if pair.one != "" && (!seen[pair.one] || !seen[pair.other]) {
				t.Errorf("-p %s: pair of unknown options: %v", p.name, pair)
			}
		}
	}
}

func TestParse(t *testing.T) {
	tests := []struct {
		args string // words, with _ for a blank in one
		want string // "" if it is a line, else how the problem begins
	}{
		{"-L", ""},
		{"", ""},
		{"stray words", ""},
		{"-s 1.2.3.4", "Illegal option `--src'"},
		{"-D conntrack -g -r 192.168.1.100", ""},
		{"-D -g 192.168.1.100:80 -p tcp", ""},
		{"--dump expect", ""},
		{"-L e", ""},
		{"-L dy", ""},
		{"-L foo", "unknown type `foo'"},
		{"-D dying", "Can't do that command with tables"},
		{"-U expect", "Can't do --update on expectations"},
		{"-L -D", "Invalid commands combination"},
		{"-L -LL", "Invalid commands combination"},
		{"-Lp tcp", ""},
		{"-ptcp -L --sport=80", ""},
		{"-L --proto tcp", ""},
		{"-L --sport 80 -p tcp", "unknown option `--sport'"},
		{"-L -p tcp --orig 1", "unknown option `--orig'"},
		{"-L --s 1", "unknown option `--s'"},
		{"-L --orig-s 1.1.1.1", ""},
		{"-L --zero=1", "unknown option `--zero=1'"},
		{"-Q", "unknown option `-Q'"},
		{"-L -p", "option `-p' requires an argument"},
		{"-L --src", "option `--src' requires an argument"},
		{"-L -- -p", ""},
		{"-L -i 3", "Illegal option `--id'"},
		{"-D -j", ""},
		{"-G -w 3 -s 1.1.1.1 -d 2.2.2.2 -p 50", ""},
		{"-G -s 1.1.1.1 -p tcp", "you have to specify `--src' and `--dst'"},
		{"-G -q 1.1.1.1 -p tcp", "you have to specify `--reply-src' and `--reply-dst'"},
		{"-I -s 1.1.1.1 -d 2.2.2.2 -p udp -t 5 --sport 1", "you have to specify `--sport' and `--dport'"},
		{"-I -s 1.1.1.1 -d 2.2.2.2 -p tcp -t 5 --sport 1 --dport 2", "You need to supply the `--state' option"},
		{"-I -s 1.1.1.1 -d 2.2.2.2 -p udp --sport 1 --dport 2", "You need to supply the `--timeout' option"},
		{"-D -p sctp --orig-vtag 1", "Illegal option `--orig-vtag'"},
		{"-h -p icmp --icmp-type 1", ""},
		{"-C -p tcp", "Illegal option `--protonum'"},
		{"-C -a x", ""},
		{"-L -s 1.2.3.4/8", ""},
		{"-L -s 1.2.3.4/33", "Invalid netmask"},
		{"-D -s 1.2.3.4/", "Invalid netmask"},
		{"-L -r 1.2.3.4/8", "CIDR notation unavailable for `--reply-src'"},
		{"-I -s 1.2.3.4/8 -d 1.1.1.1 -p 50 -t 9", "Illegal option `--mask-src'"},
		{"-L --mask-src 255.0.0.0", "Can't use --mask-src without --src"},
		{"-L -s foo", "Invalid IP address `foo'"},
		{"-L -s fe80::1%lo", "Invalid IP address"},
		{"-L -s 1.1.1.1 -d ::1", "mismatched address family"},
		{"-L -f ipv6 -s 1.1.1.1", "mismatched address family"},
		{"-L -f ipv4foo", ""},
		{"-L -f IPV4", "`IPV4' unsupported protocol"},
		{"-L -p foo", "`foo' unsupported protocol"},
		{"-L -p 0x11 --sport 1", ""},
		{"-L -p 256", "`256' unsupported protocol"},
		{"-L -p tcp --sport 65536", "--sport `65536' is no port"},
		{"-L -p tcp --sport http", "--sport `http' is no port"},
		{"-L -p tcp --state established", "unknown TCP state"},
		{"-L -p tcp --state LISTEN", ""},
		{"-L -p tcp --state 3", "unknown TCP state"},
		{"-D -g :80", "Invalid IP address"},
		{"-D -g 1.2.3.4:", "No port specified after `:'"},
		{"-D -g 1.2.3.4:x", "Invalid port `x'"},
		{"-D -g []:80", "No IPv6 address specified"},
		{"-D -g [::1:80", "No closing ']'"},
		{"-D --dst-nat=", "option `--dst-nat' has an empty value"},
		{"-L -j -g", "cannot specify `--src-nat' or `--dst-nat' with `--any-nat'"},
		{"-L -u assured,!seen", ""},
		{"-L -u ,", "Bad parameter"},
		{"-D -u !UNSET", "Bad parameter `!UNSET'"},
		{"-D -g 1.2.3.4:0", "Invalid port `0'"},
		{"-L -u bogus", "Bad parameter `bogus'"},
		{"-E -e new,DEST", ""},
		{"-E -e d", ""},
		{"-L -o xml,EXT -o id", ""},
		{"-L -o save,id", "cannot combine save output"},
		{"-L -m 0x10/0xff", ""},
		{"-L -m 1/", "unexpected value '1/' with -m option"},
		{"-L -w 65536", "unexpected value '65536' with -w option"},
		{"-D -t x", "--timeout `x' is no number"},
		{"-D -c 1", "--secmark cannot select"},
		{"-U --label-add a --label-del b", "--label-add and --label-del exclude"},
		{"-L --labelmap a --labelmap b", "--labelmap twice"},
		{"-L -M a", ""},
		{"-D expect -s 1.1.1.1 -d 2.2.2.2 -p tcp", "You need to supply the `--sport'"},
	}
	for _, option := range []string{"-s", "-d", "-r", "-q", "-p", "-t", "-u", "-m", "-i", "-f", "-n", "-g", "-w", "-l", "-o", "--dst-nat", "-j", "--mask-src",
		"--orig-zone", "--reply-zone", "--labelmap", "-s=", "-e", "-b"} {
		// What scripts make of a variable that is not set.
		if l, err := parse([]string{"-D", option, ""}); err == nil && !slices.Equal(l.labels.names, []string{""}) {
			t.Errorf("-D %s '' means something", option)
		}
	}
	for _, tt := range tests {
		_, err := parse(strings.Fields(tt.args))
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.args, err)
		case tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %s", tt.args, err, tt.want)
		}
	}
}

func TestNumbers(t *testing.T) {
	for s, want := range map[string]uint64{"0": 0, "10": 10, "010": 8, "0x1f": 31, "0X1F": 31, " 7": 7, "+7": 7} {
		if n, ok := cNumber(s, 100); !ok || n != want {
			t.Errorf("cNumber(%q) = %d, %v, want %d", s, n, ok, want)
		}
	}
	for _, s := range []string{"", "x", "0x", "08", "101", "-1", "1_0", "0b1", "1 ", "++1", "+-1"} {
		if n, ok := cNumber(s, 100); ok {
			t.Errorf("cNumber(%q) = %d", s, n)
		}
	}
	for s, want := range map[string]string{
		"1.2.3.4": "1.2.3.4", "1.2.3": "1.2.0.3", "1.2": "1.0.0.2", "1": "0.0.0.1", "0x7f000001": "127.0.0.1",
		"010.1.1.1": "8.1.1.1", "1.65536": "1.1.0.0", "::1": "::1", "4294967295": "255.255.255.255", "1.2.3.4 ": "1.2.3.4",
	} {
		if a, ok := address(s); !ok || a.String() != want {
			t.Errorf("address(%q) = %v, %v, want %s", s, a, ok, want)
		}
	}
	for _, s := range []string{"", "1.", ".1", "1..2", "256.1.1.1", "1.2.3.4.5", "1.2.3.256", "4294967296", "-1", "a", "::1%lo", " 1.2.3.4", "::1 "} {
		if a, ok := address(s); ok {
			t.Errorf("address(%q) = %v", s, a)
		}
	}
}

func TestSplitLine(t *testing.T) {
	for text, want := range map[string][]string{
		`-D -s 1.1.1.1`:            {"-D", "-s", "1.1.1.1"},
		"  -D\t\t-p  tcp ":         {"-D", "-p", "tcp"},
		`-D -s "1.1.1.1" -d "a b"`: {"-D", "-s", "1.1.1.1", "-d", "a b"},
		`a"b c" d`:                 {"ab c", "d"},
		`"a\"b\\" ""`:              {`a"b\`, ""},
	} {
		if got, err := splitLine(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		`-D "x`:                         "a quote is not closed",
		strings.Repeat("a", 1024):       "a word is longer than",
		strings.Repeat("a ", 254):       "more than 253 words",
		`"` + strings.Repeat("b", 2000): "a word is longer than",
	} {
		if got, err := splitLine(text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.20s: %q, %v, want %s", text, got, err, want)
		}
	}
}

// FuzzParse parses anything: no panic, and an error is a problem with a code.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"-D conntrack -g -r 192.168.1.100", "-I -s 1.1.1.1 -d 2.2.2.2 -p tcp --sport 1 --dport 2 --state CLOSE -t 5 -u ASSURED,!SEEN -m 1/2 -w 3",
		"-L -s 1.2.3.4/8 --mask-dst ffff:: -o xml,id,lab -f ipv6", "-E -e NEW -b 100 -l a,b", "-U --label-add a -n [::1]:80 -g 1.1.1.1:5 -j",
		"-p gre --srckey 0x1 --tuple-key-s 3", "-p sctp --orig-vtag 5", "-p dccp --role server", "-p icmp --icmp-type 3", "-M x -[ 1.1.1.1 -{ 2.2.2.2 -( 7",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, words string) {
		l, err := parse(strings.Split(words, " "))
		if l == nil {
			t.Fatal("no line")
		}
		if p, ok := errors.AsType[*problem](err); err != nil && (!ok || p.code < 1 || p.code > 2 || p.text == "") {
			t.Fatalf("%#v", err)
		}
		if err != nil {
			return
		}
		l.selection()
		if col := l.column(); col == colI || col == colA {
			_, _, _ = l.flow()
		}
	})
}
