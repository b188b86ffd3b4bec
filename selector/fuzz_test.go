package selector

import (
	"errors"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// checkError holds an error to be the user's mistake, told in one line that a
// terminal can show.
func checkError(t *testing.T, s Selector, err error) {
	t.Helper()
	bad, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("%T %v", err, err)
	}
	if d := cmp.Diff(s, Selector{}, cmpAddr); d != "" {
		t.Fatalf("a value and an error %v:\n%s", err, d)
	}
	if what := bad.What(); what == "" || len(what) > 250 {
		t.Fatalf("%d bytes: %q", len(what), what)
	}
	for _, r := range bad.What() {
		if !strconv.IsPrint(r) {
			t.Fatalf("%q in %q", r, bad.What())
		}
	}
}

// FuzzList reads a list of addresses, or of targets, from standard input: it is
// what the same items make on the command line, or an error that names the line.
func FuzzList(f *testing.F) {
	for _, s := range []string{
		"", "192.0.2.1\n", "\ufeff10.0.0.0/8\r\n\r\n# comment\n2001:db8::1-2001:db8::9 # more\n", "192.0.2.1\n192.0.2.300\n",
		"::ffff:192.0.2.1\n0.0.0.0/0\n::/0", "192.0.2.1:80\n[2001:db8::/32]:22\n", "\x00\x1b\n", "192.0.2.1-192.0.2.0", "192.0.2.1%eth0",
	} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, list string, targets bool) {
		flag := "--host="
		if targets {
			flag = "--dst-nat="
		}
		s, err := new(Flags).Parse([]string{flag + "@-"}, strings.NewReader(list))
		if err != nil {
			checkError(t, s, err)
			if !strings.Contains(err.Error(), " @-:") {
				t.Fatalf("no line in %v", err)
			}
			return
		}
		if len(list) > 1<<12 {
			return // what comes out may be longer than what a test should take
		}
		again, err := Parse(s.Args())
		if err != nil {
			t.Fatalf("its own words %q are refused: %v", s.Args(), err)
		}
		if d := cmp.Diff(s, again, cmpAddr); d != "" {
			t.Fatalf("%q: parsed again it differs:\n%s", list, d)
		}
	})
}

// FuzzSetName reads the name of a set of nf_tables: what is asked for is what
// was written, and whatever ranges there are make a selector that can be written.
func FuzzSetName(f *testing.F) {
	for _, s := range []string{"inet/f2b-table/addr-set-sshd", "ip/t/a/b", "ip6/t/", "arp/t/s", "//", "ip/\x1b[31m/s", "", "ip/t/s,192.0.2.1", "inet/" + strings.Repeat("t", 256) + "/s"} {
		f.Add(s, []byte{10, 0, 0, 1, 10, 0, 0, 9})
		f.Add(s, []byte{0, 0, 0, 0, 255, 255, 255, 255, 10, 0, 0, 0, 10, 0, 0, 0})
	}
	f.Fuzz(func(t *testing.T, ref string, bounds []byte) {
		asked := ""
		flags := Flags{noFiles: true, NFT: func(family, table, set string) ([]AddrRange, error) {
			asked = family + "/" + table + "/" + set
			var out []AddrRange
			for ; len(bounds) >= 8; bounds = bounds[8:] {
				r := AddrRange{netip.AddrFrom4([4]byte(bounds)), netip.AddrFrom4([4]byte(bounds[4:]))}
				if !r.To.Less(r.From) {
					out = append(out, r)
				}
			}
			return out, nil
		}}
		s, err := flags.Parse([]string{"--host=@nft:" + ref}, nil)
		if err != nil {
			checkError(t, s, err)
			return
		}
		first, _, _ := strings.Cut(strings.TrimSpace(ref), ",")
		if asked != strings.TrimSpace(first) {
			t.Fatalf("%q was asked for, of %q", asked, ref)
		}
		if again, err := Parse(s.Args()); err != nil || !cmp.Equal(s, again, cmpAddr) {
			t.Fatalf("%q: %q is %v, %v", ref, s.Args(), again, err)
		}
	})
}

// FuzzLabelNames reads a file of labels' names: each has one number, each number
// one name, and these are what the kernel and a command line can have.
func FuzzLabelNames(f *testing.F) {
	for _, s := range []string{"", "1 eth0-in\n2 eth0-out\n# 3 no\n0x10 hex\n010 octal\n", "99999999999999999999 far\n08 eight\n+9 plus\n1 again\n", "1023 last\n1024 beyond", "0x\n0xg z\r\n\x00 a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, file string) {
		l, err := parseLabelNames(strings.NewReader(file))
		if err != nil {
			return // a line that is too long
		}
		n := 0
		for bit := range labelFileMax + 1 {
			name := l.Name(bit)
			if name == "" {
				continue
			}
			n++
			if got, ok := l.Bit(name); !ok || got != bit || strings.IndexFunc(name, notInLabel) >= 0 {
				t.Fatalf("%q is label %d, and that %d", name, bit, got)
			}
		}
		if n != l.Len() {
			t.Fatalf("%d names, %d numbers", l.Len(), n)
		}
	})
}

// FuzzLabel reads labels by number and by name, from a file.
func FuzzLabel(f *testing.F) {
	file := f.TempDir() + "/connlabel.conf"
	if err := os.WriteFile(file, []byte("3 three\n127 last\n200 beyond\n5 two words\n"), 0o600); err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"three", "last,3", "beyond", "!0x7f", "128", "two words", "nosuch", "-1", "007", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		s, err := (&Flags{LabelFile: file, noFiles: true}).Parse([]string{"--label=" + value}, nil)
		if err != nil {
			checkError(t, s, err)
			return
		}
		again, err := Parse(s.Args())
		if err != nil || !cmp.Equal(s, again, cmpAddr) {
			t.Fatalf("%q: %q is %v, %v", value, s.Args(), again, err)
		}
	})
}
