package conntrack8

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/selector"
)

// The tests of this file hold our output to that of conntrack(8), byte for
// byte, on the table of a real kernel. They pass with 1.4.7, which Debian 12
// has, and with 1.4.9 and libnetfilter_conntrack 1.1.1. What we print is
// 1.4.9's; the two differ in this:
//   - 1.4.7 appends " [USERSPACE] portid=..." to events in XML too, which is
//     no XML (theirs cuts it off).
//   - 1.4.7 takes the time of -E -o timestamp from its own clock, 1.4.9 from
//     the event if the kernel says it.
//
// Where we differ from both:
//   - The states of SCTP and DCCP in XML are from their own tables, not from
//     that of TCP (theirs translates them).
//   - XML is a whole document, whatever the command, also without an entry.
//   - Text in XML is escaped, and control characters in names of programs are
//     shown as "?"; none in these tests needs it.
//   - The age of a flow that began in the future is 0, not 2^64 less some.
//   - States that they have no name for are NONE in -o save, too, where theirs
//     is what lies behind the table; HEARTBEAT_SENT of SCTP, which lies there
//     and is "(null)", is named (theirs names it).
var program = flag.String("conntrack", "conntrack", "the conntrack(8) to compare with")

// testZone is the time zone of the tests, in our and in their form.
var testZone, testTZ = time.FixedZone("XYZ", 5*3600+1800), "TZ=XYZ-05:30"

// labelFile is the file of label names that conntrack(8) gets to see.
const labelFile = "0 first\n5 two words\n127 last-one\n"

// lab returns a client in a network namespace of the test's own, where flows
// have counters, times and labels. The thread is never given back.
func lab(t *testing.T) *conntrack.Client {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	for _, name := range []string{"acct", "timestamp", "events"} {
		if err := os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_"+name, []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	// The kernel keeps no labels unless a rule asks for one.
	nft := exec.Command("nft", "add table t; add chain t c { type filter hook prerouting priority 0; }; add rule t c ct label 1")
	if out, err := nft.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	c, err := conntrack.Dial(conntrack.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// tool returns conntrack(8), in the network namespace of the thread, with an
// /etc that has the names of labels alone.
func tool(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath(*program)
	if err != nil {
		t.Fatal(err)
	}
	const script = `mount -t tmpfs none /etc && mkdir /etc/xtables && printf '%s' "$NAMES" >/etc/xtables/connlabel.conf && exec "$@"`
	cmd := exec.Command("sh", append([]string{"-c", script, "sh", path}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), testTZ, "NAMES=" + labelFile}
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	return cmd
}

// shown runs conntrack(8) and returns the entries that it shows.
func shown(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := tool(t, args...)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("conntrack %q: %v: %s", args, err, complaint.String())
	}
	return theirs(string(out))
}

var (
	sctpState = regexp.MustCompile(`protoname="(sctp)".*<state>([A-Z0-9_]*)</state>`)
	xmlTail   = regexp.MustCompile(`</flow> \[USERSPACE\].*`)
)

// theirs returns the lines of entries, in order, without what is known to
// differ.
func theirs(out string) []string {
	var lines []string
	for l := range strings.Lines(out) {
		l = strings.Replace(l, "--state (null) --orig-vtag", "--state HEARTBEAT_SENT --orig-vtag", 1)
		l = xmlTail.ReplaceAllString(strings.TrimSuffix(l, "\n"), "</flow>")
		if m := sctpState.FindStringSubmatchIndex(l); m != nil {
			if n, err := conntrack.ParseTCPState(l[m[4]:m[5]]); err == nil {
				l = l[:m[4]] + conntrack.SCTPState(n).String() + l[m[5]:]
			}
		}
		switch {
		case strings.HasPrefix(l, "<?xml"), l == "<conntrack>", l == "</conntrack>", l == "<expect>", l == "</expect>":
		default:
			lines = append(lines, l)
		}
	}
	slices.Sort(lines)
	return lines
}

// agree tries until both say the same: a second may pass between the two, and
// timeouts and ages with it.
func agree(t *testing.T, what string, both func() (theirs, ours []string)) {
	t.Helper()
	var a, b []string
	for range 20 {
		a, b = both()
		slices.Sort(b)
		if slices.Equal(a, b) {
			return
		}
	}
	t.Errorf("%s: %d entries, ours %d", what, len(a), len(b))
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			t.Fatalf("%s:\ntheirs %q\nours   %q", what, a[i], b[i])
		}
	}
}

// outputs are values of -o, and what we make of them.
var outputs = map[string]Format{
	"id":                       {ID: true},
	"extended":                 {Extended: true},
	"labels":                   {LabelName: labelNames},
	"ktimestamp":               {KTimestamp: true},
	"userspace,timestamp":      {Timestamp: true},
	"ext,id,ktime,labels,time": {Extended: true, ID: true, KTimestamp: true, LabelName: labelNames, Timestamp: true},
	"save":                     {Save: true},
	"xml":                      {XML: true},
	"xml,id,extended,labels":   {XML: true, ID: true, Extended: true, LabelName: labelNames},
	"xml,ktimestamp,timestamp": {XML: true, KTimestamp: true, Timestamp: true},
}

func TestListLikeConntrack(t *testing.T) {
	c := lab(t)
	makeFlows(t, c)
	for o, f := range outputs {
		f.zone = testZone
		agree(t, "-L -o "+o, func() ([]string, []string) {
			var ours []string
			for flow, err := range c.Dump(t.Context(), conntrack.Filter{}) {
				if err != nil {
					t.Fatal(err)
				}
				ours = append(ours, string(f.AppendFlow(nil, flow, Listed)))
			}
			if len(ours) < 40 {
				t.Fatalf("only %d flows in the table", len(ours))
			}
			return shown(t, "-L", "-o", o), ours
		})
	}
}

// TestChangeLikeConntrack gets, updates and deletes a flow.
func TestChangeLikeConntrack(t *testing.T) {
	c := lab(t)
	flow := conntrack.Flow{
		Has: conntrack.AttrTCP | conntrack.AttrMark | conntrack.AttrLabels | conntrack.AttrStatus, Mark: 3,
		Orig: ports(conntrack.ProtoTCP, "10.0.0.1:1", "10.0.0.2:2"), Timeout: time.Hour, Status: conntrack.StatusSeenReply,
		TCP: conntrack.TCP{State: conntrack.TCPEstablished}, Labels: conntrack.Labels{0: 0x21},
	}
	match := []string{"-p", "tcp", "-s", "10.0.0.1", "-d", "10.0.0.2", "--sport", "1", "--dport", "2"}
	dump := func() (f *conntrack.Flow) {
		for x, err := range c.Dump(t.Context(), conntrack.Filter{}) {
			if err != nil {
				t.Fatal(err)
			}
			f = x.Clone()
		}
		return f
	}
	for o, f := range outputs {
		f.zone = testZone
		agree(t, "-o "+o, func() ([]string, []string) {
			if err := c.Flush(t.Context(), conntrack.FamilyIPv4); err != nil {
				t.Fatal(err)
			}
			if err := c.Create(t.Context(), &flow); err != nil {
				t.Fatal(err)
			}
			var a, b []string
			show := func(done Done, args ...string) {
				before := dump()
				a = append(a, shown(t, append(append(args, match...), "-o", o)...)...)
				ours := before // what is deleted is shown as it was
				if done != Deleted {
					ours = dump()
					ours.Use++ // the kernel looks up one entry, and counts that
				}
				b = append(b, string(f.AppendFlow(nil, ours, done)))
			}
			show(Updated, "-U", "-m", strconv.Itoa(100+len(o)))
			show(Listed, "-G")
			show(Deleted, "-D")
			slices.Sort(a)
			return a, b
		})
	}
}

var (
	eventTime = regexp.MustCompile(`^\[(\d+)\.(\d+)\]\t`)
	eventPort = regexp.MustCompile(` \[USERSPACE\] portid=(\d+)(?: progname=(\S+))?$`)
)

func TestEventsLikeConntrack(t *testing.T) {
	c := lab(t)
	probe := conntrack.Flow{Orig: ports(conntrack.ProtoUDP, "192.0.2.1:1", "192.0.2.2:2"), Timeout: time.Hour}
	poke := func() error {
		return errors.Join(c.Create(t.Context(), &probe), c.Flush(t.Context(), conntrack.FamilyIPv4))
	}
	for o, f := range outputs {
		f.zone = testZone
		next, stop := watch(t, poke, "-E", "-o", o)
		agree(t, "-E -o "+o, func() ([]string, []string) { return life(t, c, f, next) })
		stop()
	}
}

// watch starts conntrack(8) and waits until it hears the events that poke
// makes. next returns its next line.
func watch(t *testing.T, poke func() error, args ...string) (next func() string, stop func()) {
	t.Helper()
	cmd := tool(t, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if l := sc.Text(); len(theirs(l)) > 0 {
				lines <- l
			}
		}
		_, _ = io.Copy(io.Discard, out)
	}()
	next = func() string {
		select {
		case l := <-lines:
			return l
		case <-time.After(10 * time.Second):
			t.Fatalf("conntrack %q: no event within 10 s", args)
			return ""
		}
	}
	for i := 0; len(lines) == 0; i++ {
		if i == 1000 {
			t.Fatalf("conntrack %q hears nothing", args)
		}
		if err := poke(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for quiet := false; !quiet; {
		select {
		case <-lines:
		case <-time.After(200 * time.Millisecond):
			quiet = true
		}
	}
	return next, func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// learn takes what we cannot know of an event from their line, and returns the
// name of the program.
func learn(t *testing.T, e *conntrack.Event, l string) (name string) {
	t.Helper()
	if m := eventTime.FindStringSubmatch(l); m != nil {
		sec, _ := strconv.ParseInt(m[1], 10, 64)
		usec, _ := strconv.ParseInt(m[2], 10, 64)
		if e.Time = time.Unix(sec, usec*1000); time.Since(e.Time).Abs() > 10*time.Second {
			t.Errorf("an event now is dated %v", e.Time)
		}
	}
	if m := eventPort.FindStringSubmatch(l); m != nil {
		port, _ := strconv.ParseUint(m[1], 10, 32)
		e.PortID, name = uint32(port), m[2]
	}
	return name
}

// life makes, changes and ends a flow, and returns what each shows of that.
func life(t *testing.T, c *conntrack.Client, o Format, next func() string) (theirLines, ourLines []string) {
	t.Helper()
	flow := conntrack.Flow{
		Has: conntrack.AttrSCTP | conntrack.AttrMark, Mark: 3, Timeout: time.Hour,
		Orig: ports(conntrack.ProtoSCTP, "[2001:db8::1]:1", "[::1.2.3.4]:2"),
		SCTP: conntrack.SCTP{State: conntrack.SCTPCookieWait, OrigVTag: 1},
	}
	event := func(kind conntrack.EventKind, f conntrack.Flow) {
		l := next()
		e := conntrack.Event{Kind: kind, Flow: &f}
		name := learn(t, &e, l)
		if e.PortID == 0 && !o.XML {
			t.Errorf("no port ID in %q", l)
		}
		theirLines = append(theirLines, theirs(l)...)
		ourLines = append(ourLines, string(o.AppendEvent(nil, &e, name)))
	}
	do := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	get := func() conntrack.Flow {
		f, err := c.Get(t.Context(), flow.Orig, 0)
		do(err)
		f.Has &^= conntrack.AttrUse // never part of an event
		return f
	}
	// Counters and times are part of the last event alone.
	const ending = conntrack.AttrOrigCounters | conntrack.AttrReplyCounters | conntrack.AttrStart
	alive := func() conntrack.Flow {
		f := get()
		f.Has &^= ending
		return f
	}
	do(c.Create(t.Context(), &flow))
	event(conntrack.EventNew, alive())
	f := get()
	f.Mark, f.SCTP.State = 4, conntrack.SCTPEstablished
	do(c.Update(t.Context(), &f))
	event(conntrack.EventUpdate, alive())
	f = get()
	if _, err := c.Delete(t.Context(), []conntrack.Key{f.Key()}, nil); err != nil {
		t.Fatal(err)
	}
	f.Has, f.Stop = f.Has|conntrack.AttrStop, time.Now()
	f.SCTP.OrigVTag = 0        // no part of the last event
	if o.KTimestamp && o.XML { // the nanosecond is theirs to know
		o.KTimestamp = false
		l := next()
		next = func() string { return regexp.MustCompile(`<timestamp>.*</timestamp>`).ReplaceAllString(l, "") }
	}
	event(conntrack.EventDestroy, f)
	slices.Sort(theirLines)
	return theirLines, ourLines
}

// makeFlows fills the table with entries of all kinds, by the library and by
// conntrack(8).
func makeFlows(t *testing.T, c *conntrack.Client) {
	t.Helper()
	for i, f := range kinds() {
		if f.Timeout == 0 {
			f.Timeout = 100 * time.Hour
		}
		if err := c.Create(t.Context(), &f); err != nil {
			t.Fatalf("flow %d, %v: %v", i, f.Orig, err)
		}
	}
	for i, line := range []string{
		"-p tcp -s 1.1.1.1 -d 2.2.2.2 --sport 10 --dport 80 -u SEEN_REPLY,ASSURED --state ESTABLISHED -g 3.3.3.3:8080 -m 5",
		"-p tcp -s 1.1.1.2 -d 2.2.2.2 --sport 10 --dport 80 --state SYN_SENT2 -n 3.3.3.4",
		"-p sctp -s 1.1.1.1 -d 2.2.2.2 --sport 10 --dport 80 --state ESTABLISHED --orig-vtag 1 --reply-vtag 258",
		"-p dccp -s 1.1.1.1 -d 2.2.2.2 --sport 10 --dport 80 --state OPEN --role client",
		"-p gre -s 1.1.1.1 -d 2.2.2.2 --srckey 0x10 --dstkey 0x20",
		"-p udplite -s 1.1.1.1 -d 2.2.2.2 --sport 10 --dport 80 -u FIXED_TIMEOUT,SEEN_REPLY",
		"-p icmp -s 1.1.1.1 -d 2.2.2.2 --icmp-type 8 --icmp-code 0 --icmp-id 77 -u UNSET",
		"-p 50 -s 1.1.1.1 -d 2.2.2.2",
	} {
		shown(t, append([]string{"-I", "-t", strconv.Itoa(1000 + i)}, strings.Fields(line)...)...)
	}
}

// kinds returns flows of all kinds.
func kinds() []conntrack.Flow {
	const translated = conntrack.AttrReply | conntrack.AttrStatus
	udp := func(n int) conntrack.Tuple {
		return ports(conntrack.ProtoUDP, fmt.Sprintf("10.0.0.1:%d", n), "10.0.0.2:53")
	}
	reply := func(src, dst string) conntrack.Tuple { return ports(conntrack.ProtoUDP, src, dst) }
	flows := []conntrack.Flow{
		{Orig: udp(1), Reply: reply("192.168.1.1:53", "10.0.0.1:1"), Has: translated, Status: conntrack.StatusDstNAT},
		{Orig: udp(2), Reply: reply("10.0.0.2:5353", "10.0.0.1:2"), Has: translated, Status: conntrack.StatusDstNAT},
		{Orig: udp(3), Reply: reply("10.0.0.2:53", "203.0.113.1:6100"), Has: translated, Status: conntrack.StatusSrcNAT},
		{Orig: udp(4), Reply: reply("10.0.0.2:53", "10.0.0.1:6100"), Has: translated, Status: conntrack.StatusSrcNAT},
		{Orig: udp(5), Reply: reply("192.168.1.1:5353", "203.0.113.1:6101"), Has: translated, Status: conntrack.StatusSrcNAT | conntrack.StatusDstNAT},
		{Orig: udp(6), Reply: reply("192.168.1.1:53", "203.0.113.1:6"), Has: conntrack.AttrReply}, // differs, not translated
		{Orig: udp(7), Has: conntrack.AttrZone, Zone: 65535},
		{Orig: udp(8), Has: conntrack.AttrOrigZone, OrigZone: 3},
		{Orig: udp(9), Has: conntrack.AttrReplyZone, ReplyZone: 4},
		{Orig: udp(10), Has: conntrack.AttrMark, Mark: 4294967295, Timeout: time.Second * (1<<31 - 1) / 1000},
		{Orig: udp(11), Has: conntrack.AttrLabels, Labels: conntrack.Labels{0: 0x21, 1: 1, 15: 0x80}},
		{Orig: udp(12), Has: conntrack.AttrLabels, Labels: conntrack.Labels{1: 1}}, // none has a name
		{Orig: udp(13), Has: conntrack.AttrStatus, Status: conntrack.StatusSeenReply | conntrack.StatusAssured | conntrack.StatusFixedTimeout},
		{Orig: ports(conntrack.ProtoUDP, "[2001:db8::1]:1", "[2001:db8::2]:2"), Has: translated, Status: conntrack.StatusDstNAT | conntrack.StatusSrcNAT,
			Reply: reply("[fd00::2]:22", "[fd00::1]:11")},
		{Orig: ports(conntrack.ProtoTCP, "[2001:db8::1]:1", "[2001:db8::2]:21"), Has: conntrack.AttrTCP | conntrack.AttrHelper | conntrack.AttrZone,
			Helper: "ftp", Zone: 5, TCP: conntrack.TCP{State: conntrack.TCPEstablished}},
		{Orig: ports(conntrack.ProtoTCP, "[2001:db8::2]:20", "[2001:db8::1]:2000"), Has: conntrack.AttrTCP | conntrack.AttrMaster | conntrack.AttrZone,
			Master: ports(conntrack.ProtoTCP, "[2001:db8::1]:1", "[2001:db8::2]:21"), Zone: 5},
		{Orig: ports(conntrack.ProtoUDPLite, "10.0.0.1:1", "10.0.0.2:65535")},
		{Orig: ports(conntrack.ProtoGRE, "10.0.0.1:65535", "10.0.0.2:0")},
		{Orig: icmp(conntrack.ProtoICMP, "10.0.0.1", "10.0.0.2", 8)},
		{Orig: icmp(conntrack.ProtoICMP, "10.0.0.1", "10.0.0.2", 13)},
		{Orig: icmp(conntrack.ProtoICMPv6, "fe80::1", "::", 128)},
		{Orig: addrs(conntrack.ProtoDCCP, "10.0.0.1", "10.0.0.2")},
		{Orig: addrs(51, "10.0.0.1", "10.0.0.2")},
	}
	// Addresses that inet_ntop(3) has its own ways with.
	for _, a := range []string{"::", "::1", "::1.2.3.4", "::0.1.0.0", "::ffff:1.2.3.4", "::ffff:0:1.2.3.4", "1:0:0:2::3", "1:0:2:3:4:5:6:7", "1::", "0:1::"} {
		flows = append(flows, conntrack.Flow{Orig: addrs(255, a, "2001:db8::ff")})
	}
	for s := conntrack.TCPSynSent; s <= conntrack.TCPSynSent2; s++ {
		flows = append(flows, conntrack.Flow{Orig: ports(conntrack.ProtoTCP, fmt.Sprintf("10.0.1.%d:1", s), "10.0.0.2:2"),
			Has: conntrack.AttrTCP, TCP: conntrack.TCP{State: s}})
	}
	for s := conntrack.SCTPClosed; s <= conntrack.SCTPHeartbeatSent; s++ {
		flows = append(flows, conntrack.Flow{Orig: ports(conntrack.ProtoSCTP, fmt.Sprintf("10.0.1.%d:1", s), "10.0.0.2:2"),
			Has: conntrack.AttrSCTP, SCTP: conntrack.SCTP{State: s, OrigVTag: 0x01020304, ReplyVTag: 0xfffefdfc}})
	}
	return flows
}

// TestLabelFile holds the names of this test to its file.
func TestLabelFile(t *testing.T) {
	path := t.TempDir() + "/connlabel.conf"
	if err := os.WriteFile(path, []byte(labelFile), 0o600); err != nil {
		t.Fatal(err)
	}
	names, err := selector.ReadLabelNames(path)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range conntrack.NumLabels {
		if names.Name(bit) != labelNames(bit) {
			t.Errorf("label %d: %q and %q", bit, names.Name(bit), labelNames(bit))
		}
	}
}
