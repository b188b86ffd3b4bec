package selector

import (
	"errors"
	"strings"
	"testing"
)

// TestParseRefuses holds every wrong flag to an error that names the flag and
// says what is wrong with what.
func TestParseRefuses(t *testing.T) {
	bad := writeFile(t, "bad", "10.0.0.1\n\n# none\n10.0.0.300 # typo\n")
	mixed := writeFile(t, "mixed", "10.0.0.1\n2001:db8::1\n")
	nested := writeFile(t, "nested", "@other\n")
	negated := writeFile(t, "negated", "!10.0.0.1\n")
	list := writeFile(t, "list", "10.0.0.1,10.0.0.2\n")
	binary := writeFile(t, "binary", strings.Repeat("\x00", 70000))
	tests := []struct{ in, want string }{
		// addresses
		{"-s", "needs an argument"},
		{"-s=", "--orig-src: not an address|--orig-src =: not an address|empty value"},
		{"--src=", "--orig-src: empty value"},
		{"--orig-src=!", "--orig-src: empty value"},
		{"! -s !10.0.0.1", "!10.0.0.1: a ! inside the list"},
		{"-s ! 10.0.0.1", "--orig-src: empty value|belongs to no flag"},
		{"-s 10.0.0.300", "--orig-src 10.0.0.300: not an address"},
		{"-s 10.0.0", "not an address"},
		{"-s 010.0.0.1", "not an address"},
		{"-s host.example", "not an address"},
		{"-s 10.0.0.1:80", "not an address"},
		{"-s [2001:db8::1]", "not an address"},
		{"-s 10.0.0.0/33", "not a CIDR"},
		{"-s 10.0.0.0/-1", "not a CIDR"},
		{"-s 10.0.0.0/", "not a CIDR"},
		{"-s 10.0.0.0/08", "not a CIDR"},
		{"-s 10.0.0.0/255.0.0.0", "not a CIDR"},
		{"-s 2001:db8::/129", "not a CIDR"},
		{"-s fe80::1%eth0", "no zone index"},
		{"-s fe80::1%eth0/64", "no zone index"},
		{"-s 10.0.0.9-10.0.0.1", "ends before it begins"},
		{"-s 10.0.0.1-2001:db8::1", "two families"},
		{"-s 10.0.0.1-", "not a range"},
		{"-s -10.0.0.1", "not an address"},
		{"-s 10.0.0.1-10.0.0.2-10.0.0.3", "not a range"},
		{"-s 10.0.0.1,", "empty place"},
		{"-s ,", "empty place"},
		{"-s 10.0.0.1,,10.0.0.2", "empty place"},
		{"-s 10.0.0.1,!10.0.0.2", "a ! inside the list"},
		{"-s !!10.0.0.1", "a ! inside the list"},
		{"-s 10.0.0.1 ! -s 10.0.0.2", "both with and without !"},
		{"! -s 10.0.0.1 -s 10.0.0.2", "both with and without !"},
		{"-s @", "no file named"},
		{"-s @/no/such/file", "@/no/such/file: cannot be opened: no such file"},
		{"-s @/dev/zero", "larger than 64 MiB"},
		{"-s @/tmp", "@/tmp: cannot be read"},
		{"-s @-", "@-: there is no standard input here"},
		{"-s @" + bad, "bad:4: \"10.0.0.300\": not an address"},
		{"-s @" + nested, "nested:1: \"@other\": not an address"},
		{"-s @" + negated, "negated:1: \"!10.0.0.1\": not an address"},
		{"-s @" + list, "list:1: \"10.0.0.1,10.0.0.2\": not an address"},
		{"-s @" + binary, "binary:1: "},
		{"--host foo", "--host foo: not an address"},
		{"-r foo", "--reply-src foo"},
		{"-q foo", "--reply-dst foo"},
		{"-d foo", "--orig-dst foo"},
		// families
		{"-f ipv5", "unknown family"},
		{"-f 4", "unknown family"},
		{"-f ipv4foo", "unknown family"},
		{"! -f ipv4", "cannot be negated"},
		{"-f ipv4 -s 2001:db8::1", "--orig-src 2001:db8::1: not an address of the family ipv4"},
		{"-f ipv6 -d 10.0.0.1", "not an address of the family ipv6"},
		{"-f ipv6 ! -d 10.0.0.1", "not an address of the family ipv6"},
		{"-f ipv6 -g 10.0.0.1", "--dst-nat 10.0.0.1: not an address of the family ipv6"},
		{"-f ipv4 --host ::1", "not an address of the family ipv4"},
		{"-f ipv4 -s @" + mixed, "not an address of the family ipv4"},
		{"-s 10.0.0.1 -d 2001:db8::1", "no flow can match: --orig-src has addresses of the other family"},
		{"-g 10.0.0.1 --host 2001:db8::1", "no flow can match"},
		// protocols and ports
		{"-p foo", "unknown protocol"},
		{"-p 256", "out of range"},
		{"-p -1", "unknown protocol"},
		{"-p 06", "leading zero"},
		{"-p tcp,", "empty place"},
		{"-p all", "unknown protocol"},
		{"--dport 65536", "--orig-port-dst 65536: out of range"},
		{"--dport 70000", "out of range"},
		{"--dport -1", "not a port"},
		{"--dport http", "not a port"},
		{"--dport 080", "leading zero"},
		{"--dport 9-1", "ends before it begins"},
		{"--dport 1-", "not a port"},
		{"--dport 1:9", "not a port"},
		{"--dport 1-70000", "out of range"},
		{"--dport 0x", "not a port"},
		{"--dport 99999999999999999999", "out of range"},
		{"--dport 80,!81", "a ! inside"},
		{"--sport=", "--orig-port-src: empty value"},
		{"-p icmp --dport 80", "--orig-port-dst: icmp has no ports"},
		{"-p gre --sport 80", "gre has no ports"},
		{"-p tcp,icmpv6 --reply-port-src 80", "icmpv6 has no ports"},
		{"! -p tcp,udp,udplite,sctp,dccp --dport 80", "leaves no protocol with ports"},
		{"-p icmp -g 10.0.0.1:80", "--dst-nat: icmp has no ports"},
		// translation
		{"-g 192.168.1.300", "192.168.1.300: a word that belongs to no flag"},
		{"--dst-nat=192.168.1.300", "--dst-nat 192.168.1.300: not an address"},
		{"--dst-nat=", "--dst-nat: empty value"},
		{"--dst-nat=10.0.0.1:", "not a port"},
		{"--dst-nat=10.0.0.1:0", "port 0"},
		{"--dst-nat=10.0.0.1:70000", "out of range"},
		{"--dst-nat=[2001:db8::1", "not closed"},
		{"--dst-nat=[10.0.0.1]:80", "brackets without"},
		{"--dst-nat=[]:80", "brackets without"},
		{"--dst-nat=[2001:db8::1]80", "behind the ]"},
		{"--dst-nat=[2001:db8::1]:", "not a port"},
		{"--dst-nat=:80", "not an address"},
		{"-g10.0.0.300", "unknown shorthand"},
		{"-g -g 10.0.0.1", "both with and without an address"},
		{"-g 10.0.0.1,!10.0.0.2", "belongs to no flag"},
		{"! -g -g 10.0.0.1", "both with and without !"},
		{"-g @/no/such/file", "cannot be opened"},
		// status, state, mark, label, zone, id
		{"-u FOO", "unknown status"},
		{"-u CONFIRMED", "unknown status"},
		{"-u UNSET", "no status to look for"},
		{"-u ASSURED,", "empty place"},
		{"-u SEEN_REPLY,UNREPLIED", "exclude each other"},
		{"--state FOO", "unknown TCP state"},
		{"-p udp --state CLOSE", "--state: udp has no TCP state"},
		{"! -p tcp --state CLOSE", "leaves no protocol with TCP state"},
		{"-p udp --picked-up", "--picked-up: udp has no TCP state"},
		{"-m foo", "not a number"},
		{"-m 0x1ffffffff", "out of range"},
		{"-m 010", "leading zero"},
		{"-m 1/", "not a number"},
		{"-m 5/1", "no mark can match"},
		{"-m -1", "not a number"},
		{"-l 128", "out of range"},
		{"-l foo", "--label foo: "},
		{"-w 65536", "out of range"},
		{"-w foo", "not a number"},
		{"--orig-zone -1", "not a number"},
		{"--reply-zone=", "empty value"},
		{"--id 4294967296", "out of range"},
		{"--id foo", "not a number"},
		{"--id 1_0", "not a number"},
		{"--id 1a", "not a number"},
		{"--picked-up=maybe", "neither yes nor no"},
		{"--picked-up ! --picked-up", "both with and without !"},
		{"--picked-up=yes,no", "both as yes and as no"},
		// words
		{"10.0.0.1", "10.0.0.1: a word that belongs to no flag"},
		{"!", "!: nothing to negate"},
		{"-s 10.0.0.1 !", "nothing to negate"},
		{"! 10.0.0.1", "nothing to negate"},
		{"! ! -s 10.0.0.1", "nothing to negate"},
		{"-- -s 10.0.0.1", "a word that belongs to no flag"},
		{"! -- -s", "nothing to negate"},
		{"-x", "unknown shorthand"},
		{"--foo", "unknown flag"},
		{"--foo=1", "unknown flag"},
		{"-t 5", "unknown shorthand"},
		{"-test.v", "unknown shorthand"},
		{"--", ""},
	}
	for _, tt := range tests {
		_, err := Parse(strings.Fields(tt.in))
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.in, err)
			}
			continue
		}
		if err == nil {
			t.Errorf("%s: not refused", tt.in)
			continue
		}
		ok := false
		for _, want := range strings.Split(tt.want, "|") {
			ok = ok || strings.Contains(err.Error(), want)
		}
		if !ok {
			t.Errorf("%s:\n got %v\nwant %s", tt.in, err, tt.want)
		}
		if e, ok := errors.AsType[*Error](err); !ok {
			t.Errorf("%s: the error is a %T", tt.in, err)
		} else if strings.Contains(e.What(), "\n") {
			t.Errorf("%s: an error of two lines: %q", tt.in, e.What())
		}
	}
}

func TestParseEmptyWord(t *testing.T) {
	for _, name := range []string{"-s", "-p", "--dport", "-u", "-m", "-w", "-f", "--id", "--label", "--state", "--host"} {
		if _, err := Parse([]string{name, ""}); err == nil {
			t.Errorf("%s with an empty value is not refused", name)
		}
	}
	if _, err := Parse([]string{""}); err == nil || !strings.Contains(err.Error(), `"": an empty word`) {
		t.Errorf("an empty word: %v", err)
	}
}

// TestErrorText: what is wrong with a value is there however long it is, and in
// characters that a terminal can show.
func TestErrorText(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for _, tt := range []struct{ flag, value, want string }{
		{"--host", long, "--host " + long[:97] + "...: not an address"},
		{"--host", "a\x1b[31mb", `--host "a\x1b[31mb": not an address`},
		{"--host", "@nft:\x1b/t/s", `unknown family "\x1b"`},
		{"--host", "@nft:ip/t/" + long, "...: a name of more than 255 bytes"},
		{"--host", "@nft:ip/" + long + "/s", "...: a name of more than 255 bytes"},
		{"--\x1b", "", `unknown flag: --\x1b`},
	} {
		_, err := Parse([]string{tt.flag, tt.value})
		e, ok := errors.AsType[*Error](err)
		if !ok || !strings.Contains(e.What(), tt.want) || len(e.What()) > 250 {
			t.Errorf("%s %.20q: %v, want %s", tt.flag, tt.value, err, tt.want)
		}
	}
}
