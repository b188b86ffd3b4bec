package personality

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/lab/tabletest"
	"flowcut/internal/netns"
)

// tableUnderTest is a namespace with a few flows of many kinds.
type tableUnderTest struct {
	ns     *netns.NS
	client *conntrack.Client
}

const someFlows = `
-I -t 900 -u SEEN_REPLY,ASSURED -s 1.1.1.1 -d 2.2.2.2 -g 3.3.3.3 -p tcp --sport 10 --dport 80 --state ESTABLISHED -m 5
-I -t 900 -s 1.1.1.1 -d 2.2.2.2 -n 9.9.9.9 -p udp --sport 10 --dport 53
-I -t 900 -s 1.1.1.1 -d 2.2.2.2 -p icmp --icmp-type 8 --icmp-code 0 --icmp-id 7 -w 7
-I -t 900 -s 2001:db8::1 -d 2001:db8::2 -p tcp --sport 11 --dport 22 --state ESTABLISHED
-I -t 900 -s 1.1.1.1 -d 2.2.2.2 -p gre --srckey 1 --dstkey 2
-I -t 900 -s 1.1.1.1 -d 2.2.2.2 -p sctp --sport 5 --dport 6 --state ESTABLISHED --orig-vtag 1 --reply-vtag 2
-I -t 900 -s 1.1.1.1 -d 2.2.2.2 -p 200
`

func newTable(t testing.TB) *tableUnderTest {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	c, err := conntrack.Dial(conntrack.Config{NetNS: ns.Fd()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	tt := &tableUnderTest{ns, c}
	if code, _, errs := tt.run(t.Context(), someFlows, "-R", "-"); code != 0 {
		t.Fatal(errs)
	}
	return tt
}

// run runs a command line in the namespace.
func (tt *tableUnderTest) run(ctx context.Context, stdin string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	err := tt.ns.Do(func() error {
		code = Run(ctx, Config{Args: args, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs})
		return nil
	})
	if err != nil {
		panic(err)
	}
	return code, out.String(), errs.String()
}

// keys returns what is in the table.
func (tt *tableUnderTest) keys(t testing.TB) []string {
	t.Helper()
	var out []string
	for f, err := range tt.client.Dump(context.Background(), conntrack.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		f.Timeout, f.Use = 0, 0
		out = append(out, string(f.AppendJSON(nil)))
	}
	slices.Sort(out)
	return out
}

// FuzzRun runs anything as a command line: nothing panics, and what ends with
// code 2 has changed nothing. Words are divided by blanks.
func FuzzRun(f *testing.F) {
	for _, seed := range []string{
		"-L", "-D", "-F", "-D -g", "-D conntrack -g -r 192.168.1.100", "-U -m 5/0xf0", "-D -s 1.1.1.1 -L", "-F -F", "-D -p tcp --sport x",
		"-D --dst-nat= -p tcp", "-F -s 1.1.1.1", "-D -w 70000", "-D -z", "-U -p tcp --state X", "-D -u bogus", "-D -l none", "-D -s 1.1.1.1/",
		"-I -s 4.4.4.4 -d 2.2.2.2 -p udp --sport 1 --dport 2 -t 10", "-A -s 1.1.1.1 -d 2.2.2.2 -p 200 -t 9 -m 8", "-D expect -s 1.1.1.1 -d 2.2.2.2 -p tcp",
		"-I -s 1.1.1.1 -p udp -t 1", "-E -e NEW -o xml", "-L -o save,id", "-D -c 1", "-D -t", "-Dp tcp --dpo 80", "-D -m 1/", "-D --mask-src 0.0.0.0", "-F expect",
		"-I expect -s 1.1.1.1 -d 2.2.2.2 -p tcp --sport 1 --dport 2 --tuple-src 1.1.1.1 --tuple-dst 2.2.2.2 --tuple-port-src 0 --tuple-port-dst 9 --mask-src 255.255.255.255 --mask-dst 255.255.255.255 --mask-port-src 0 --mask-port-dst 65535 -t 9",
	} {
		f.Add(seed, "")
		f.Add("-R -", seed)
	}
	for _, words := range []string{"-D\x1b[31m", "--\u202e", "-L -p \n", "-D \xff", "-D -s " + strings.Repeat("1", 2000), "-X " + strings.Repeat("y", 2000), "--labelmap /\x1b -l a -L"} {
		f.Add(words, "")
		f.Add("-R -", words+"\n")
	}
	f.Add("-R -", "-F\n-U --label-add none\n")
	f.Add("-R -", "-D\n-L\n")
	f.Add("-R -", "-F\n-D -p tcp --sport\n")
	tt := newTable(f)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	f.Fuzz(func(t *testing.T, words, stdin string) {
		args := strings.Split(words, " ")
		if len(args) > 1 && (args[0] == "-R" || args[0] == "--load-file") && args[1] != "-" {
			return // might be any file of this machine
		}
		ctx := context.Background()
		if l, err := parse(args); err == nil && l.command != nil && l.command.short == 'E' {
			ctx = ended
		}
		before := tt.keys(t)
		code, _, errs := tt.run(ctx, stdin, args...)
		if code < 0 || code > 2 {
			t.Fatalf("exit code %d", code)
		}
		after := tt.keys(t)
		changed := !slices.Equal(before, after)
		if code == 2 && changed {
			t.Fatalf("%q: code 2, and the table has changed: %s", args, errs)
		}
		checkWords(t, args, code, errs)
		if changed {
			tt.run(context.Background(), "-F\n"+someFlows, "-R", "-")
		}
	})
}

// checkWords holds the standard error to be short lines that a terminal can
// show, and with code 2 to end in one that says what is wrong, and the hint.
func checkWords(t *testing.T, args []string, code int, errs string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(errs, "\n"), "\n")
	for _, line := range lines {
		if len(line) >= 300 {
			t.Fatalf("%q: %d bytes: %q", args, len(line), line)
		}
		for _, r := range line {
			if !strconv.IsPrint(r) {
				t.Fatalf("%q: %q in %q", args, r, line)
			}
		}
	}
	if code != 2 {
		return
	}
	if n := len(lines); n < 2 || !strings.HasPrefix(lines[n-2], "conntrack v") || !strings.HasPrefix(lines[n-1], "Try `conntrack -h'") {
		t.Fatalf("%q: code 2 and %q", args, errs)
	}
}

// That the reader of the output has gone, as in -D | head -1, saves no flow, and
// is no failure. Of a full disk one hears when the work is done.
func TestOutputGone(t *testing.T) {
	tt := newTable(t)
	program := labtest.Build(t)
	gone := func() *os.File {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Close()
		return w
	}
	full := func() *os.File {
		w, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	for _, c := range []struct {
		args, stdin string
		out         func() *os.File
		code, left  int
		said        string // how standard error ends
	}{
		{"-L", "", gone, 0, 7, ""},
		{"-U -m 77", "", gone, 0, 7, "): 7 flow entries have been updated.\n"},
		{"-D", "", gone, 0, 0, "): 7 flow entries have been deleted.\n"},
		{"-R -", "-D -p tcp\n-D -p udp\n-D -p gre\n", gone, 0, 3, ""},
		{"-L", "", full, 1, 7, "): No space left on device\n"},
		{"-D", "", full, 1, 0, "): No space left on device\n"},
	} {
		tt.run(t.Context(), "-F\n"+someFlows, "-R", "-")
		w := c.out()
		cmd := exec.Command(program, append([]string{"conntrack"}, strings.Fields(c.args)...)...)
		var said bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(c.stdin), w, &said
		err := tt.ns.Do(cmd.Run)
		_ = w.Close()
		if code := cmd.ProcessState.ExitCode(); code != c.code {
			t.Errorf("%s: code %d, %v", c.args, code, err)
		}
		if !strings.HasSuffix(said.String(), c.said) || c.said == "" && said.Len() > 0 {
			t.Errorf("%s: %s, want %s", c.args, &said, c.said)
		}
		if left := tt.keys(t); len(left) != c.left {
			t.Errorf("%s: %d left, want %d", c.args, len(left), c.left)
		}
	}
}

// Two at once: each flow is counted once, whoever deleted it, and entries that
// expire meanwhile are nobody's.
func TestTwoDeletesAtOnce(t *testing.T) {
	const flows, shortLived = 20000, 2000
	tt := newTable(t)
	program := labtest.Build(t)
	tt.run(t.Context(), "", "-F")
	fill(t, tt.client, flows, shortLived)
	type outcome struct {
		shown int
		err   error
		text  string
	}
	results := make(chan outcome, 2)
	r, gate, err := os.Pipe() // both wait at it, so that they begin together
	if err != nil {
		t.Fatal(err)
	}
	var waiting sync.WaitGroup
	waiting.Add(2)
	for range 2 {
		go func() {
			var o outcome
			o.err = tt.ns.Do(func() error {
				cmd := exec.Command("sh", "-c", `read x; exec "$0" conntrack -D -p udp`, program)
				var out, errs bytes.Buffer
				cmd.Stdin, cmd.Stdout, cmd.Stderr = r, &out, &errs
				err := cmd.Start()
				waiting.Done()
				if err != nil {
					return err
				}
				err = cmd.Wait()
				if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 {
					err = nil // the other was quicker
				}
				o.shown, o.text = bytes.Count(out.Bytes(), []byte("\n")), errs.String()
				return err
			})
			results <- o
		}()
	}
	waiting.Wait()
	if _, err := gate.WriteString("\n\n"); err != nil {
		t.Fatal(err)
	}
	a, b := <-results, <-results
	_, _ = gate.Close(), r.Close()
	for _, o := range []outcome{a, b} {
		if o.err != nil || !strings.Contains(o.text, "flow entries have been deleted.") {
			t.Errorf("%v: %s", o.err, o.text)
		}
		if want := "): " + itoa(o.shown) + " flow entries"; !strings.Contains(o.text, want) {
			t.Errorf("%d shown, but %s", o.shown, o.text)
		}
	}
	if n := a.shown + b.shown; n < flows-shortLived || n > flows {
		t.Errorf("%d + %d deleted, want %d to %d", a.shown, b.shown, flows-shortLived, flows)
	}
	t.Logf("%d and %d deleted", a.shown, b.shown)
	if left := tt.keys(t); len(left) > 0 {
		t.Errorf("%d left", len(left))
	}
}

// fill puts flows into the table, some of which expire within a second.
func fill(t *testing.T, c *conntrack.Client, flows, shortLived int) {
	t.Helper()
	made, err := c.CreateAll(t.Context(), func(yield func(*conntrack.Flow) bool) {
		for i := range flows {
			f := &conntrack.Flow{Timeout: time.Hour, Orig: tabletest.Tuple(i)}
			if i%(flows/shortLived) == 0 {
				f.Timeout = time.Second
			}
			if !yield(f) {
				return
			}
		}
	})
	if err != nil || made != flows {
		t.Fatalf("%d made: %v", made, err)
	}
}

// What -o save writes is restored as it was, also where NAT has changed ports of
// both ends.
func TestSaveAndRestore(t *testing.T) {
	tt := newTable(t)
	tt.run(t.Context(), `-F
-I -t 900 -u SEEN_REPLY -s 10.9.0.2 -d 10.9.0.1 -g 10.8.0.2:80 -n 10.8.0.1:1024 -p tcp --sport 60290 --dport 8080 --state ESTABLISHED
-I -t 900 -s 10.9.0.3 -d 10.9.0.1 -g 10.8.0.2:80 -p udp --sport 60290 --dport 8080
-I -t 900 -s 10.9.0.4 -d 10.9.0.1 -n 10.8.0.2:80 -p udp --sport 60290 --dport 8080
-I -t 900 -s 10.9.0.5 -d 10.9.0.1 -g 10.8.0.2 -n 10.8.0.1 -p icmp --icmp-type 8 --icmp-code 0 --icmp-id 9
-I -t 900 -s 10.9.0.6 -d 10.9.0.1 -g 10.8.0.2 -n 10.8.0.1 -p gre --srckey 1 --dstkey 2
-I -t 900 -s fd00::1 -d fd00::2 -g fd00::3 -n fd00::4 -p sctp --sport 1 --dport 2 --state ESTABLISHED --orig-vtag 1 --reply-vtag 70000
-I -t 900 -s 10.9.0.7 -d 10.9.0.1 -p 50 -w 7
`, "-R", "-")
	tuples := func() []string {
		var out []string
		for f, err := range tt.client.Dump(t.Context(), conntrack.Filter{}) {
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, f.Orig.String()+" "+f.Reply.String()+" "+f.Status.String()+" "+itoa(int(f.Zone))+" "+itoa(int(f.SCTP.ReplyVTag)))
		}
		slices.Sort(out)
		return out
	}
	before := tuples()
	if len(before) != 7 || !strings.Contains(strings.Join(before, "\n"), "10.8.0.2:80 -> 10.8.0.1:1024") {
		t.Fatalf("%q", before)
	}
	_, saved, _ := tt.run(t.Context(), "", "-L", "-o", "save")
	tt.run(t.Context(), "", "-F")
	if code, _, errs := tt.run(t.Context(), saved, "-R", "-"); code != 0 {
		t.Fatal(errs)
	}
	if after := tuples(); !slices.Equal(before, after) {
		t.Errorf("before\n%s\nafter\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

// Lines that nearly are what they seem, and words that say nothing, delete
// nothing.
func TestDeletesNothing(t *testing.T) {
	tt := newTable(t)
	before := tt.keys(t)
	for _, c := range []struct {
		stdin string
		args  []string
		code  int
	}{
		{"-F\r\n", []string{"-R", "-"}, 2},
		{"-D\r\n", []string{"-R", "-"}, 2},
		{"-D\n-L", []string{"-R", "-"}, 2},
		{"-D\n-D -l none", []string{"-R", "-"}, 2},
		{"", []string{"-D", "-u", "SRC_NAT"}, 1},
		{"", []string{"-D", "-u", "!DST_NAT"}, 1},
		{"", []string{"-D", "-u", "!UNSET"}, 2},
		{"", []string{"-D", "-g", ""}, 2},
		{"", []string{"-D", "-g", "2.2.2.2:0"}, 2},
		{"", []string{"-D", "-g", "2.2.2.2"}, 1},
		{"", []string{"-D", "-j", "fd00::1"}, 1},
		{"", []string{"-D", "-t", "1"}, 1},
	} {
		if code, _, errs := tt.run(t.Context(), c.stdin, c.args...); code != c.code {
			t.Errorf("%q: code %d, want %d: %s", c.args, code, c.code, errs)
		}
	}
	if after := tt.keys(t); !slices.Equal(before, after) {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
}

// A signal ends what waits for its input or for the reader of its output.
func TestSignalEndsWaiting(t *testing.T) {
	tt := newTable(t)
	fill(t, tt.client, 5000, 1)
	program := labtest.Build(t)
	for _, args := range []string{"-L", "-D", "-R -", "-E -b 65536"} {
		in, stuck, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		defer stuck.Close()
		cmd := exec.Command(program, append([]string{"conntrack"}, strings.Fields(args)...)...)
		cmd.Stdin, cmd.Stdout = in, stuck // a pipe that nobody reads, and that nothing comes from
		if err := tt.ns.Do(cmd.Start); err != nil {
			t.Fatal(err)
		}
		labtest.Until(t, "it waits", func() bool {
			// Rights are given up when signals are heard.
			status, _ := os.ReadFile("/proc/" + itoa(cmd.Process.Pid) + "/status")
			b, err := os.ReadFile("/proc/" + itoa(cmd.Process.Pid) + "/wchan")
			return err == nil && len(b) > 1 && strings.Contains(string(status), "NoNewPrivs:\t1")
		})
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		err = cmd.Wait()
		if !kill.Stop() {
			t.Errorf("%s: goes on: %v", args, err)
		}
		if code := cmd.ProcessState.ExitCode(); code != 130 && code != 0 {
			t.Errorf("%s: code %d", args, code)
		}
	}
}
