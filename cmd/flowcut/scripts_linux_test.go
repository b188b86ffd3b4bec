package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"flowcut/internal/netns"
)

// scriptTable is what the scripts below find.
const scriptTable = `
-A -t 500 -u SEEN_REPLY,ASSURED -s 203.0.113.2 -d 203.0.113.1 -g 192.168.1.100 -q 203.0.113.2 -p tcp --sport 40001 --dport 5201 --reply-port-src 5201 --reply-port-dst 40001 --state ESTABLISHED
-A -t 500 -u SEEN_REPLY,ASSURED -s 203.0.113.3 -d 203.0.113.1 -g 192.168.1.100 -q 203.0.113.3 -p tcp --sport 40002 --dport 80 --reply-port-src 8080 --reply-port-dst 40002 --state ESTABLISHED
-A -t 500 -u SEEN_REPLY,ASSURED -s 203.0.113.4 -d 203.0.113.1 -g 192.168.1.101 -q 203.0.113.4 -p tcp --sport 40003 --dport 443 --reply-port-src 443 --reply-port-dst 40003 --state TIME_WAIT
-A -t 500 -u SEEN_REPLY -s 192.168.1.7 -d 198.51.100.9 -r 198.51.100.9 -n 203.0.113.1 -p udp --sport 5353 --dport 53 --reply-port-src 53 --reply-port-dst 5353
-A -t 500 -u UNSET -s 10.96.0.10 -d 10.96.0.53 -g 10.1.0.7 -q 10.96.0.10 -p udp --sport 1024 --dport 53 --reply-port-src 53 --reply-port-dst 1024
-A -t 500 -u UNSET -s 10.0.0.2 -d 10.0.0.3 -r 10.0.0.3 -q 10.0.0.2 -w 7 -p icmp --icmp-type 8 --icmp-code 0 --icmp-id 77
-A -t 500 -u UNSET -s 10.0.0.2 -d 10.0.0.3 -r 10.0.0.3 -q 10.0.0.2 -w 8 -p icmp --icmp-type 8 --icmp-code 0 --icmp-id 77
-A -t 500 -u SEEN_REPLY,ASSURED -s 2001:db8::2 -d 2001:db8::1 -r 2001:db8::1 -q 2001:db8::2 -p tcp --sport 40009 --dport 22 --reply-port-src 22 --reply-port-dst 40009 --state ESTABLISHED
-A -t 500 -u UNSET -s 10.5.0.1 -d 10.5.0.2 -r 10.5.0.2 -q 10.5.0.1 -p 50
`

// scriptsInTheWild are lines of the kind that people have in their scripts:
// on pages of help, in kube-proxy, Neutron, fail2ban and failover hooks.
var scriptsInTheWild = []struct{ name, text string }{
	{"dmz off", `conntrack -D conntrack -g -r 192.168.1.100`},
	{"dmz off, short", `conntrack -D -g 192.168.1.100 -p tcp; conntrack -L -g`},
	{"list, cut, delete", `conntrack -L -g -p tcp 2>/dev/null | grep 192.168.1.100 | awk '{print $5}' | cut -f2 -d= | sort | xargs -r -n 1 conntrack -D -s`},
	{"awk field", `conntrack -L -p tcp | awk '{print $5}' | cut -f2 -d= | sort -u`},
	{"xargs -r delete by destination", `conntrack -L -n 2>&- | grep -o ' dst=[0-9.]*' | head -1 | cut -d= -f2 | xargs -r conntrack -D -d`},
	{"xargs -r with nothing", `conntrack -L -s 192.0.2.99 2>/dev/null | awk '{print $5}' | xargs -r conntrack -D -d; echo $?`},
	{"kube-proxy, port", `conntrack -D -p udp --dport 53`},
	{"kube-proxy, address", `conntrack -D --orig-dst 10.96.0.53 -p udp`},
	{"kube-proxy, endpoint", `conntrack -D --orig-dst 10.96.0.53 --dst-nat 10.1.0.7 -p udp`},
	{"kube-proxy, nothing", `conntrack -D --orig-dst 10.96.0.99 --dst-nat 10.1.0.7 -p udp || echo code $?`},
	{"kube-proxy, node port", `conntrack -D -p udp --dport 30053 --dst-nat 10.1.0.7 2>&1 | grep -c '0 flow entries have been deleted'`},
	{"neutron", `conntrack -D -f ipv4 -d 10.0.0.3 -w 7`},
	{"neutron, remote", `conntrack -D -f ipv4 -s 10.0.0.2 -d 10.0.0.3 -w 8; conntrack -D -p icmp -f ipv4 -s 10.0.0.2 -w 8 || echo none`},
	{"neutron, ipv6", `conntrack -D -f ipv6 -s 2001:db8::2 -w 7 || echo none; conntrack -L -f ipv6`},
	{"fail2ban", `conntrack -D -s 203.0.113.3; conntrack -D -s 203.0.113.3 || true`},
	{"subnet", `conntrack -D -s 203.0.113.0/24 -p tcp --dport 80; conntrack -L --src 203.0.113.2 --mask-src 255.255.255.254`},
	{"wan failover", `conntrack -D -n 203.0.113.1; conntrack -D -q 203.0.113.1 || conntrack -F`},
	{"flush", `conntrack -F && conntrack -C`},
	{"flush, a table's name", `conntrack -F conntrack; conntrack -F expect; conntrack -L | wc -l`},
	{"count", `test $(conntrack -C) -eq 9 && conntrack -L 2>/dev/null | wc -l`},
	{"count states", `conntrack -L -p tcp 2>/dev/null | awk '{s[$4]++} END {for (i in s) print i, s[i]}' | sort`},
	{"count by source", `conntrack -L -o extended 2>/dev/null | sed -n 's/.* src=\([^ ]*\) dst=.* src=.*/\1/p' | sort | uniq -c | sort -rn`},
	{"state", `conntrack -L -p tcp --state TIME_WAIT -o id,extended | grep -c 'ipv4     2 tcp      6 .*TIME_WAIT.* id='`},
	{"state, deleted", `conntrack -D -p tcp --orig-port-dst 22 --state ESTABLISHED`},
	{"unreplied", `conntrack -L -u UNREPLIED 2>/dev/null | grep -c UNREPLIED; conntrack -L -u ASSURED,SEEN_REPLY`},
	{"mark", `conntrack -U -f ipv4 -p tcp -s 203.0.113.2 -m 0x10/0xff; conntrack -L -m 16; conntrack -D -m 0x10/0xf0`},
	{"save and restore", `conntrack -L -o save >saved 2>/dev/null; conntrack -F; conntrack -R - <saved; conntrack -L`},
	{"save, edit, restore", `conntrack -L -o save 2>/dev/null | sed 's/^-A/-D/; s/ -t [0-9]*//' | grep -e '-p 50' >del; conntrack -R del; conntrack -C`},
	{"restore, quoted", `printf '# comment\n\n\t-D -s "10.5.0.1"  -p 50\nconntrack -D -d 10.0.0.3 -w 7\n' >f; conntrack -R f; conntrack --load-file f; echo $?; conntrack -C`},
	{"restore, bad line", `printf -- '-F\n-L\n' >f; conntrack -R f; echo $?; conntrack -C`},
	{"update and get", `conntrack -U -p tcp -s 203.0.113.2 -t 300; conntrack -G -s 203.0.113.2 -d 203.0.113.1 -p tcp --sport 40001 --dport 5201`},
	{"create, again", `c='-s 1.1.1.1 -d 2.2.2.2 -p udp --sport 1 --dport 2'; conntrack -I $c -t 100; conntrack -I $c -t 100; echo $?; conntrack -D $c; conntrack -D -s 1.1.1.1 -p udp`},
	{"stray words", `conntrack please -D -p udp these --dport 53 now`},
	{"abbreviations", `conntrack --del --proto udp --orig-port-d 53; conntrack --count`},
	{"statistics", `conntrack -S | awk -F'\t' '{print $1}'; conntrack -S | grep -c 'drop=[0-9]* early_drop='`},
	{"no such option", `conntrack -L --nonsense; echo $?; conntrack -D --dport 53; echo $?; conntrack -C`},
	{"version", `conntrack -V | grep -q '^conntrack v1\.4\.[0-9]* (conntrack-tools)$' && echo yes`},
	{"events", `
conntrack -E -e NEW,DESTROY -o timestamp,extended,id -p udp --dport 4242 >out 2>err & pid=$!
n=0
until grep -q NEW out; do
	n=$((n+1)); conntrack -I -s 9.9.9.9 -d 8.8.8.8 -p udp --sport $n --dport 4242 -t 100 2>/dev/null
done
conntrack -D -s 9.9.9.9 >/dev/null 2>&1
until grep -q DESTROY out; do :; done
kill -INT $pid; wait $pid; echo code $?
head -1 out | sed 's/^\[[0-9]\{10\}\.[0-9]\{6\}\]\t/[TIME] /; s/sport=[0-9]*//; s/dport=[0-9]* *mark/mark/; s/ id=[0-9]* .*/ id=N/'
grep -c 'flow events have been shown' err`},
}

// TestScriptsInTheWild runs each script with Debian's conntrack and with ours,
// on tables that are equal, and compares what they print and leave behind.
func TestScriptsInTheWild(t *testing.T) {
	real, err := exec.LookPath("conntrack")
	if err != nil {
		t.Fatal(err)
	}
	ours := filepath.Join(t.TempDir(), "conntrack")
	if err := os.Symlink(program, ours); err != nil {
		t.Fatal(err)
	}
	for _, s := range scriptsInTheWild {
		t.Run(s.name, func(t *testing.T) {
			want, got := runScript(t, real, s.text), runScript(t, ours, s.text)
			if want != got {
				t.Errorf("%s\nconntrack:\n%s\nours:\n%s", s.text, want, got)
			}
			if !strings.Contains(want, "\n") {
				t.Errorf("the script prints nothing")
			}
		})
	}
}

// runScript returns what a script prints, and the table it leaves, without
// what no two runs have alike.
func runScript(t *testing.T, conntrack, text string) string {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var out bytes.Buffer
	err = ns.Do(func() error {
		fill := exec.Command("/usr/sbin/conntrack", "-R", "-")
		fill.Stdin = strings.NewReader(scriptTable)
		if b, err := fill.CombinedOutput(); err != nil {
			return errors.New(string(b))
		}
		cmd := exec.Command("sh", "-c", "set -f; exec 2>&1;"+text)
		cmd.Dir = t.TempDir()
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(conntrack)+":"+os.Getenv("PATH"))
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			out.WriteString(err.Error() + "\n")
		}
		out.WriteString("left:\n")
		left, err := exec.Command("/usr/sbin/conntrack", "-L").Output()
		out.Write(left)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	printed, left, _ := strings.Cut(out.String(), "left:\n")
	return normal(printed) + "left:\n" + normal(left)
}

var volatile = []struct{ what, with string }{
	{`(conntrack v1\.4\.)\d+ \((conntrack-tools|flowcut[^:]*)\): `, "$1: "},
	{` (4\d\d|500|29\d|300|9\d|100) `, " T "},
	{`\buse=\d+`, "use=N"},
	{`\bid=\d{5,}`, "id=N"},
	{`(line \d+: )?(Illegal option.*|unknown option.*|Cannot use command.*)`, "USAGE"},
}

// normal takes out what differs between runs, and the order of lines.
func normal(s string) string {
	for _, v := range volatile {
		s = regexp.MustCompile(v.what).ReplaceAllString(s, v.with)
	}
	lines := strings.SplitAfter(s, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// TestXMLParses holds documents to what parsers of XML want, also empty ones.
func TestXMLParses(t *testing.T) {
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	for _, c := range []struct {
		args  string
		flows int
	}{
		{"-L -o xml", 0},
		{"-R -", 0},
		{"-L -o xml", 9},
		{"-L -o xml,id,ktimestamp,labels -p tcp", 4},
		{"-G -o xml -s 10.5.0.1 -d 10.5.0.2 -p 50", 1},
		{"-U -o xml -p icmp -m 7 -w 7", 1},
		{"-L expect -o xml", 0},
		{"-D -o xml -p udp", 2},
	} {
		cmd := exec.Command(program, append([]string{"conntrack"}, strings.Fields(c.args)...)...)
		cmd.Stdin = strings.NewReader(scriptTable)
		var out []byte
		err := ns.Do(func() error { out, err = cmd.Output(); return err })
		if err != nil {
			t.Fatalf("%s: %v", c.args, err)
		}
		if !strings.Contains(c.args, "xml") {
			continue
		}
		if n := countElements(t, out, "flow"); n != c.flows {
			t.Errorf("%s: %d flows, want %d\n%s", c.args, n, c.flows, out)
		}
	}
}

// countElements parses a document whole.
func countElements(t *testing.T, doc []byte, name string) int {
	t.Helper()
	n, roots, depth := 0, 0, 0
	for d := xml.NewDecoder(bytes.NewReader(doc)); ; {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		switch e := tok.(type) {
		case xml.StartElement:
			if depth == 0 {
				roots++
			}
			depth++
			if e.Name.Local == name {
				n++
			}
		case xml.EndElement:
			depth--
		}
	}
	if roots != 1 {
		t.Errorf("%d documents, want 1\n%s", roots, doc)
	}
	return n
}
