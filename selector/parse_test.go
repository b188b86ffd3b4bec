package selector

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"

	"flowcut/conntrack"
)

var cmpAddr = cmpopts.EquateComparable(netip.Addr{})

// parseWith parses words with a standard input and a file of label names.
func parseWith(args []string, stdin, labelFile string) (Selector, error) {
	f := Flags{LabelFile: labelFile}
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	f.Register(fs)
	if err := fs.Parse(Normalize(fs, args)); err != nil {
		return Selector{}, err
	}
	if fs.NArg() > 0 {
		return Selector{}, StrayWord(fs.Arg(0))
	}
	return f.Selector(strings.NewReader(stdin))
}

func mustParse(t testing.TB, line string) Selector {
	t.Helper()
	s, err := Parse(strings.Fields(line))
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return s
}

func writeFile(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestParse holds each line to its canonical form.
func TestParse(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", ""},
		{"-s 10.0.0.1", "--orig-src 10.0.0.1"},
		{"--src 10.0.0.1", "--orig-src 10.0.0.1"},
		{"--orig-src=10.0.0.1", "--orig-src 10.0.0.1"},
		{"-s10.0.0.1", "--orig-src 10.0.0.1"},
		{"-s=10.0.0.1", "--orig-src 10.0.0.1"},
		{"-d 10.0.0.1 --dst 10.0.0.3 --orig-dst 10.0.0.5", "--orig-dst 10.0.0.1,10.0.0.3,10.0.0.5"},
		{"-r 2001:db8::1 -q 2001:db8::2", "--reply-src 2001:db8::1 --reply-dst 2001:db8::2"},
		{"-s 10.0.0.7/8", "--orig-src 10.0.0.0/8"},
		{"-s 10.0.0.0-10.0.0.255", "--orig-src 10.0.0.0/24"},
		{"-s 10.0.0.0/25,10.0.0.128/25", "--orig-src 10.0.0.0/24"},
		{"-s 10.0.0.1-10.0.0.4", "--orig-src 10.0.0.1-10.0.0.4"},
		{"-s 10.0.0.3,10.0.0.1,10.0.0.2", "--orig-src 10.0.0.1-10.0.0.3"},
		{"-s 10.0.0.1-10.0.0.9,10.0.0.2-10.0.0.3", "--orig-src 10.0.0.1-10.0.0.9"},
		{"-s 2001:db8::/64,10.0.0.1", "--orig-src 10.0.0.1,2001:db8::/64"},
		{"-s 255.255.255.255,::", "--orig-src 255.255.255.255,::"},
		{"-s ::ffff:10.0.0.1", "--orig-src 10.0.0.1"},
		{"-s ::ffff:10.0.0.0/104", "--orig-src 10.0.0.0/8"},
		{"-s ::ffff:10.0.0.1-::ffff:10.0.0.3", "--orig-src 10.0.0.1-10.0.0.3"},
		{"-s 0.0.0.0/0", "--orig-src 0.0.0.0/0"},
		{"-s 0.0.0.0/1,128.0.0.0/1,::/0", "--orig-src 0.0.0.0/0,::/0"},
		{"-s 2001:DB8:0::1", "--orig-src 2001:db8::1"},
		{"! -s 10.0.0.1", "! --orig-src 10.0.0.1"},
		{"-s !10.0.0.1", "! --orig-src 10.0.0.1"},
		{"-s !10.0.0.1,10.0.0.3", "! --orig-src 10.0.0.1,10.0.0.3"},
		{"! --src=10.0.0.1 ! -s 10.0.0.3", "! --orig-src 10.0.0.1,10.0.0.3"},
		{"-s @/dev/null", "--orig-src @/dev/null"},
		{"! -s @/dev/null", "! --orig-src @/dev/null"},
		{"--host 10.0.0.1", "--host 10.0.0.1"},
		{"-p tcp", "--proto tcp"},
		{"-p TCP,17 --protonum 0x84 -p esp -p 200", "--proto tcp,udp,esp,sctp,200"},
		{"-p ipv6-icmp", "--proto icmpv6"},
		{"! -p tcp", "! --proto tcp"},
		{"--sport 1024-2000,80,81", "--orig-port-src 80-81,1024-2000"},
		{"--dport 80 --orig-port-dst 443", "--orig-port-dst 80,443"},
		{"--reply-port-src 0-65535 --reply-port-dst 65535,65534", "--reply-port-src 0-65535 --reply-port-dst 65534-65535"},
		{"--dport 0-65535,80 --sport 1-9,2-3,11", "--orig-port-src 1-9,11 --orig-port-dst 0-65535"},
		{"! --dport 22", "! --orig-port-dst 22"},
		{"-p tcp,udp --dport 53", "--proto tcp,udp --orig-port-dst 53"},
		{"! -p tcp --dport 53", "! --proto tcp --orig-port-dst 53"},
		{"-g", "--dst-nat"},
		{"-g -r 192.168.1.100", "--reply-src 192.168.1.100 --dst-nat"},
		{"-g 192.168.1.100", "--dst-nat=192.168.1.100"},
		{"-g192.168.1.100", "--dst-nat=192.168.1.100"},
		{"--dst-nat 192.168.1.100:80", "--dst-nat=192.168.1.100:80"},
		{"--dst-nat=192.168.1.100", "--dst-nat=192.168.1.100"},
		{"-n [2001:db8::1]:80", "--src-nat=[2001:db8::1]:80"},
		{"-n [2001:db8::1]", "--src-nat=2001:db8::1"},
		{"-j2001:db8::1", "--any-nat=2001:db8::1"},
		{"-j 10.0.0.0/24:80,10.0.0.1-10.0.0.9", "--any-nat=10.0.0.1-10.0.0.9,10.0.0.0/24:80"},
		{"-g 10.0.0.1 -g 10.0.0.2 -g 10.0.0.1:80", "--dst-nat=10.0.0.1-10.0.0.2,10.0.0.1:80"},
		{"! -g", "! --dst-nat"},
		{"! -g 10.0.0.1", "! --dst-nat=10.0.0.1"},
		{"-g !10.0.0.1", "! --dst-nat=10.0.0.1"},
		{"! -n -p tcp", "--proto tcp ! --src-nat"},
		{"-jp tcp", "--proto tcp --any-nat"},
		{"-gn", "--dst-nat --src-nat"},
		{"-gnj 10.0.0.1", "--dst-nat --src-nat --any-nat=10.0.0.1"},
		{"-g @/dev/null", "--host @/dev/null"},
		{"! -g @/dev/null", ""},
		{"-u ASSURED,seen_reply", "--status SEEN_REPLY,ASSURED"},
		{"-u UNREPLIED -u src_nat", "--status SRC_NAT,UNREPLIED"},
		{"! -u ASSURED", "! --status ASSURED"},
		{"--state ESTABLISHED,close", "--state ESTABLISHED,CLOSE"},
		{"--state LISTEN", "--state SYN_SENT2"},
		{"-m 5", "--mark 0x5"},
		{"-m 0x10/0xf0 -m 0,4294967295", "--mark 0x0,0x10/0xf0,0xffffffff"},
		{"-m 0/0", "--mark 0x0/0x0"},
		{"-l 0,127 -l 3", "--label 0,3,127"},
		{"-w 7 --orig-zone 8,9 --reply-zone 65535", "--zone 7 --orig-zone 8,9 --reply-zone 65535"},
		{"-f ipv4", "--family ipv4"},
		{"-f IPv6 -s 2001:db8::1", "--family ipv6 --orig-src 2001:db8::1"},
		{"-f ipv4,ipv6", ""},
		{"--id 4294967295,1,1", "--id 1,4294967295"},
		{"--picked-up", "--picked-up"},
		{"! --picked-up", "! --picked-up"},
		{"--picked-up=no", "! --picked-up"},
		{"! --picked-up=no", "--picked-up"},
		{"-f ipv4 -s 10.0.0.1 ! -d 10.0.0.2 -g -p tcp", "--family ipv4 --proto tcp --orig-src 10.0.0.1 ! --orig-dst 10.0.0.2 --dst-nat"},
	}
	for _, tt := range tests {
		s, err := Parse(strings.Fields(tt.in))
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		if got := s.String(); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.in, got, tt.want)
		}
		again, err := Parse(s.Args())
		if err != nil {
			t.Errorf("%s: its own words %q are refused: %v", tt.in, s, err)
		} else if d := cmp.Diff(s, again, cmpAddr); d != "" {
			t.Errorf("%s: parsed again it differs:\n%s", tt.in, d)
		}
	}
}

func TestParseFile(t *testing.T) {
	path := writeFile(t, "list", "\ufeff10.0.0.1\r\n\r\n  # a comment\r\n10.0.0.3  # one more\r\n\t10.1.0.0/16\r\n2001:db8::1-2001:db8::3")
	s, err := Parse([]string{"-s", "@" + path + ",10.0.0.5"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.String(), "--orig-src 10.0.0.1,10.0.0.3,10.0.0.5,10.1.0.0/16,2001:db8::1-2001:db8::3"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	s, err = parseWith([]string{"!", "-d", "@-"}, "10.0.0.1\n", "")
	if err != nil || s.String() != "! --orig-dst 10.0.0.1" {
		t.Errorf("from standard input: %q, %v", s, err)
	}
	if _, err = parseWith([]string{"-s", "@-", "-d", "@-"}, "10.0.0.1\n", ""); err == nil || !strings.Contains(err.Error(), "only once") {
		t.Errorf("standard input twice: %v", err)
	}
	targets := writeFile(t, "targets", "10.0.0.1:80\n[2001:db8::1]:443\n")
	s, err = Parse([]string{"-g", "@" + targets})
	if err != nil || s.String() != "--dst-nat=10.0.0.1:80,[2001:db8::1]:443" {
		t.Errorf("targets from a file: %q, %v", s, err)
	}
}

func TestParseLabels(t *testing.T) {
	path := writeFile(t, "connlabel.conf", "# names\n0\teth0-in\n\n127 last\n200 beyond\n")
	s, err := parseWith([]string{"-l", "eth0-in,last,5"}, "", path)
	if err != nil || s.String() != "--label 0,5,127" {
		t.Errorf("got %q, %v", s, err)
	}
	for _, name := range []string{"unknown", "beyond"} {
		if _, err = parseWith([]string{"-l", name}, "", path); err == nil || !strings.Contains(err.Error(), "unknown label") {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = parseWith([]string{"-l", "eth0-in"}, "", path+".gone")
	if err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("no file: %v", err)
	}
}

func TestBrief(t *testing.T) {
	s := mustParse(t, "-s 10.0.0.1,10.0.0.3,10.0.0.5,10.0.0.7,10.0.0.9,10.0.0.11 -g")
	if got, want := s.Brief(), "--orig-src 10.0.0.1,10.0.0.3,10.0.0.5,10.0.0.7,...(6) --dst-nat"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestParseRandom holds random selectors to parse, print, parse.
func TestParseRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 3000 {
		args := randomArgs(r)
		s, err := Parse(args)
		if err != nil {
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Fatalf("%q: %T %v", args, err, err)
			}
			continue
		}
		again, err := Parse(s.Args())
		if err != nil {
			t.Fatalf("%q: its own words %q are refused: %v", args, s.Args(), err)
		}
		if d := cmp.Diff(s, again, cmpAddr); d != "" {
			t.Fatalf("%q: parsed again it differs:\n%s", args, d)
		}
		if d := cmp.Diff(s, s.Mirror().Mirror(), cmpAddr); d != "" {
			t.Fatalf("%q: the mirror's mirror differs:\n%s", args, d)
		}
	}
}

// randomArgs draws words that mostly make a selector.
func randomArgs(r *rand.Rand) []string {
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	addr := func() string { return fmt.Sprintf("10.0.0.%d", r.IntN(8)) }
	if r.IntN(3) == 0 {
		addr = func() string { return fmt.Sprintf("2001:db8::%x", r.IntN(8)) }
	}
	value := map[string]func() string{
		"addr": func() string {
			return pick(addr(), addr()+"-"+addr(), addr()+"/"+pick("0", "24", "30"), addr()+","+addr(), "@/dev/null")
		},
		"port":  func() string { return pick(fmt.Sprint(r.IntN(5)), fmt.Sprintf("%d-%d", r.IntN(3), r.IntN(9)), "1,2,9") },
		"nat":   func() string { return pick(addr(), "["+addr()+"]:2", addr()+":1", addr()+"/30", "any") },
		"small": func() string { return pick("0", "1", "2", "3,1") },
	}
	type flag struct{ name, kind string }
	flags := []flag{
		{"-s", "addr"}, {"--orig-dst", "addr"}, {"-r", "addr"}, {"-q", "addr"}, {"--host", "addr"},
		{"--sport", "port"}, {"--dport", "port"}, {"--reply-port-src", "port"}, {"--reply-port-dst", "port"},
		{"--dst-nat=", "nat"}, {"--src-nat=", "nat"}, {"--any-nat=", "nat"},
		{"-m", "small"}, {"-l", "small"}, {"-w", "small"}, {"--orig-zone", "small"}, {"--reply-zone", "small"}, {"--id", "small"},
	}
	var args []string
	for range r.IntN(4) {
		if r.IntN(4) == 0 {
			args = append(args, "!")
		}
		f := flags[r.IntN(len(flags))]
		v := value[f.kind]()
		if strings.HasSuffix(f.name, "=") {
			args = append(args, f.name+v)
		} else {
			args = append(args, f.name, v)
		}
	}
	extra := []string{"-u ASSURED", "-u UNREPLIED,DST_NAT", "! -u SRC_NAT", "--state CLOSE", "! --state CLOSE,NONE",
		"-p tcp", "! -p udp", "-p tcp,udp,icmp", "--picked-up", "! --picked-up", "-f ipv4", "-f ipv6", "-g", "! -n", "-j"}
	for range r.IntN(3) {
		args = append(args, strings.Fields(pick(extra...))...)
	}
	return args
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"-g 192.168.1.100", "! -s 10.0.0.0/8 -d 2001:db8::/32", "-jp tcp --dport 80-90,443", "-n[2001:db8::1]:80",
		"-u ASSURED,UNREPLIED --state CLOSE -m 0x1/0xff -l 3 -w 1 --orig-zone 2 --reply-zone 3 -f ipv4 --id 7 --host ::1 ! --picked-up",
		"-s 0.0.0.0-255.255.255.255,::ffff:1.2.3.4", "! ! --", "-s ::fffe:0:0-::ffff:ffff:ffff",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.Contains(line, "@") {
			return // no files
		}
		args := strings.Split(line, " ")
		s, err := Parse(args)
		if err != nil {
			checkError(t, s, err)
			return
		}
		again, err := Parse(s.Args())
		if err != nil {
			t.Fatalf("%q: its own words %q are refused: %v", args, s.Args(), err)
		}
		if d := cmp.Diff(s, again, cmpAddr); d != "" {
			t.Fatalf("%q: parsed again it differs:\n%s", args, d)
		}
		s.Match(&conntrack.Flow{})
		s.Narrows()
		s.Brief()
	})
}
