package conntrack8

import (
	"encoding/xml"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"flowcut/conntrack"
)

// labelNames are those of the tests' labels.
func labelNames(bit int) string {
	switch bit {
	case 0:
		return "first"
	case 5:
		return "two words"
	case 127:
		return "last-one"
	}
	return ""
}

// ports returns a tuple of a protocol with ports or keys.
func ports(p conntrack.Proto, src, dst string) conntrack.Tuple {
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	return conntrack.Tuple{Src: s.Addr(), Dst: d.Addr(), Proto: p, SrcPort: s.Port(), DstPort: d.Port()}
}

// addrs returns a tuple of a protocol without ports.
func addrs(p conntrack.Proto, src, dst string) conntrack.Tuple {
	return conntrack.Tuple{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Proto: p}
}

// icmp returns the tuple of an ICMP query.
func icmp(p conntrack.Proto, src, dst string, typ uint8) conntrack.Tuple {
	t := addrs(p, src, dst)
	t.ICMPType, t.ICMPID = typ, 77
	return t
}

// testNow is the time in golden tests: a Sunday, and a day of one digit.
var testNow = time.Date(2026, 11, 1, 8, 7, 3, 4_999, time.UTC)

// everything is a flow that has all that a flow can have.
func everything() *conntrack.Flow {
	orig := ports(conntrack.ProtoTCP, "203.0.113.2:47274", "203.0.113.1:5201")
	return &conntrack.Flow{
		Has:  (1<<25 - 1) &^ (conntrack.AttrSCTP | conntrack.AttrDCCP | conntrack.AttrStop),
		Orig: orig, Reply: ports(conntrack.ProtoTCP, "192.168.1.100:80", "192.168.1.1:61000"),
		Zone: 1, OrigZone: 2, ReplyZone: 3,
		Status: conntrack.StatusSeenReply | conntrack.StatusAssured | conntrack.StatusConfirmed |
			conntrack.StatusSrcNATDone | conntrack.StatusDstNATDone,
		Timeout: 431999 * time.Second, Mark: 4294967295, Labels: conntrack.Labels{0: 0x21, 1: 1, 15: 0x80},
		OrigCounters: conntrack.Counters{Packets: 1, Bytes: 18446744073709551615}, ReplyCounters: conntrack.Counters{Packets: 2, Bytes: 4},
		Start: testNow.Add(-61*time.Second - 999*time.Millisecond), Stop: testNow.Add(-time.Second),
		TCP: conntrack.TCP{State: conntrack.TCPEstablished}, SecMark: 6, SecCtx: "system_u:<&>:s0", Helper: "ftp",
		ID: 4294967295, Use: 2,
	}
}

// format returns a format whose clock stands still.
func format(f Format) Format {
	f.Now = func() time.Time { return testNow }
	f.zone = time.UTC
	return f
}

func TestLine(t *testing.T) {
	const tuples = "src=203.0.113.2 dst=203.0.113.1 sport=47274 dport=5201 zone-orig=2 packets=1 bytes=18446744073709551615 " +
		"src=192.168.1.100 dst=192.168.1.1 sport=80 dport=61000 zone-reply=3 packets=2 bytes=4 "
	const line = "tcp      6 431999 ESTABLISHED " + tuples + "[ASSURED] mark=4294967295 secmark=6 secctx=system_u:<&>:s0 zone=1 delta-time=62"
	all := format(Format{Extended: true, ID: true, Timestamp: true, KTimestamp: true, LabelName: labelNames})
	nameless := format(Format{LabelName: func(int) string { return "" }})
	tests := map[string]struct {
		format Format
		change func(*conntrack.Flow)
		done   Done
		want   string
	}{
		"default": {format(Format{}), nil, Listed, line + " helper=ftp use=2"},
		"all": {all, nil, Listed,
			"ipv4     2 " + line + " [start=Sun Nov  1 08:06:01 2026] helper=ftp use=2 id=4294967295 labels=first,two words,last-one"},
		"all, stopped": {all, func(f *conntrack.Flow) { f.Has |= conntrack.AttrStop }, Listed,
			"ipv4     2 " + strings.TrimSuffix(line, "2") + "1 [start=Sun Nov  1 08:06:01 2026] [stop=Sun Nov  1 08:07:02 2026] helper=ftp use=2 id=4294967295 labels=first,two words,last-one"},
		"all, updated":    {all, nil, Updated, "ipv4     2 " + line + " helper=ftp use=2 id=4294967295 labels=first,two words,last-one"},
		"all, deleted":    {all, nil, Deleted, "ipv4     2 " + line + " helper=ftp use=2 id=4294967295"},
		"nameless labels": {nameless, nil, Listed, line + " helper=ftp use=2 labels"},
		"no labels": {nameless, func(f *conntrack.Flow) { f.Has &^= conntrack.AttrLabels }, Listed,
			line + " helper=ftp use=2"},
		"offloaded": {format(Format{}), func(f *conntrack.Flow) {
			f.Status |= conntrack.StatusOffload
			f.Has &^= conntrack.AttrTimeout
		}, Listed, strings.NewReplacer(" 431999", "", "ASSURED", "OFFLOAD").Replace(line) + " helper=ftp use=2"},
		"offloaded to hardware": {format(Format{}), func(f *conntrack.Flow) {
			f.Status |= conntrack.StatusOffload | conntrack.StatusHWOffload
		}, Listed, strings.NewReplacer("ASSURED", "HW_OFFLOAD").Replace(line) + " helper=ftp use=2"},
		"begun in the future": {format(Format{}), func(f *conntrack.Flow) { f.Start = testNow.Add(time.Hour) }, Listed,
			strings.Replace(line, "time=62", "time=0", 1) + " helper=ftp use=2"},
		"state unknown": {format(Format{}), func(f *conntrack.Flow) { f.TCP.State = 10 }, Listed,
			strings.Replace(line, "ESTABLISHED", "NONE", 1) + " helper=ftp use=2"},
		"without a status": {format(Format{}), func(f *conntrack.Flow) { f.Status, f.Has = 0, f.Has&^conntrack.AttrStatus }, Listed,
			strings.Replace(line, "[ASSURED] ", "", 1) + " helper=ftp use=2"},
		"tuples alone": {format(Format{}), func(f *conntrack.Flow) { f.Has = conntrack.AttrOrig | conntrack.AttrReply }, Listed,
			"tcp      6 src=203.0.113.2 dst=203.0.113.1 sport=47274 dport=5201 src=192.168.1.100 dst=192.168.1.1 sport=80 dport=61000"},
		"nothing":           {format(Format{}), func(f *conntrack.Flow) { *f = conntrack.Flow{} }, Listed, "unknown  0"},
		"nothing, extended": {format(Format{Extended: true}), func(f *conntrack.Flow) { *f = conntrack.Flow{} }, Listed, "unknown  0 unknown  0"},
	}
	for name, tt := range tests {
		f := everything()
		if tt.change != nil {
			tt.change(f)
		}
		if got := string(tt.format.AppendFlow(nil, f, tt.done)); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, tt.want)
		}
	}
}

// TestProtocols holds each protocol to its names, also those that kernels no
// longer have, and to its part of each form.
func TestProtocols(t *testing.T) {
	v6 := "[2001:db8::1]:1"
	dccp := ports(conntrack.ProtoDCCP, "10.0.0.1:1", "10.0.0.2:2")
	tests := []struct {
		flow             conntrack.Flow
		line, save, elem string
	}{
		{conntrack.Flow{Orig: dccp, Has: conntrack.AttrDCCP, DCCP: conntrack.DCCP{State: conntrack.DCCPPartOpen, Role: 1}},
			"dccp     33 PARTOPEN src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1",
			"-p dccp --sport 1 --dport 2 --reply-port-src 2 --reply-port-dst 1 --state PARTOPEN --role server",
			`<layer4 protonum="33" protoname="dccp"><sport>1</sport><dport>2</dport></layer4>`},
		{conntrack.Flow{Orig: addrs(conntrack.ProtoDCCP, "10.0.0.1", "10.0.0.2")},
			"dccp     33 src=10.0.0.1 dst=10.0.0.2 sport=0 dport=0 src=10.0.0.2 dst=10.0.0.1 sport=0 dport=0",
			"-p dccp", `<layer4 protonum="33" protoname="dccp"><sport>0</sport><dport>0</dport></layer4>`},
		{conntrack.Flow{Orig: ports(conntrack.ProtoSCTP, "10.0.0.1:1", "10.0.0.2:2"), Has: conntrack.AttrSCTP,
			SCTP: conntrack.SCTP{State: conntrack.SCTPHeartbeatAcked, OrigVTag: SwapVTag(1), ReplyVTag: SwapVTag(258)}},
			"sctp     132 HEARTBEAT_ACKED src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1",
			"-p sctp --sport 1 --dport 2 --reply-port-src 2 --reply-port-dst 1 --state HEARTBEAT_ACKED --orig-vtag 1 --reply-vtag 258",
			"<state>HEARTBEAT_ACKED</state>"},
		{conntrack.Flow{Orig: ports(conntrack.ProtoUDPLite, v6, "[::1.2.3.4]:65535")},
			"udplite  136 src=2001:db8::1 dst=::1.2.3.4 sport=1 dport=65535 src=::1.2.3.4 dst=2001:db8::1 sport=65535 dport=1",
			"-p udplite --sport 1 --dport 65535 --reply-port-src 65535 --reply-port-dst 1",
			`<layer3 protonum="10" protoname="ipv6"><src>2001:db8::1</src><dst>::1.2.3.4</dst></layer3>`},
		{conntrack.Flow{Orig: ports(conntrack.ProtoGRE, "10.0.0.1:255", "10.0.0.2:0")},
			"gre      47 src=10.0.0.1 dst=10.0.0.2 srckey=0xff dstkey=0x0 src=10.0.0.2 dst=10.0.0.1 srckey=0x0 dstkey=0xff",
			"-p gre --srckey 255 --dstkey 0 --reply-key-src 0 --reply-key-dst 255", "<srckey>0xff</srckey><dstkey>0x0</dstkey>"},
		{conntrack.Flow{Orig: icmp(conntrack.ProtoICMP, "10.0.0.1", "10.0.0.2", 8)},
			"icmp     1 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=77 src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=77",
			"-p icmp --icmp-type 8 --icmp-code 0 --icmp-id 77", `<layer4 protonum="1" protoname="icmp"></layer4>`},
		{conntrack.Flow{Orig: icmp(conntrack.ProtoICMPv6, "fe80::1", "::", 128)},
			"icmpv6   58 src=fe80::1 dst=:: type=128 code=0 id=77 src=:: dst=fe80::1 type=129 code=0 id=77",
			"-p icmpv6 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 77", `<layer4 protonum="58" protoname="icmpv6"></layer4>`},
		{conntrack.Flow{Orig: addrs(200, "::ffff:1.2.3.4", "::1")},
			"unknown  200 src=::ffff:1.2.3.4 dst=::1 src=::1 dst=::ffff:1.2.3.4", "-p 200", `<layer4 protonum="200" protoname="unknown"></layer4>`},
	}
	for _, tt := range tests {
		tt.flow.Reply = tt.flow.Orig.Invert()
		var line, save, elem = Format{}, Format{Save: true}, Format{XML: true}
		if got := string(line.AppendFlow(nil, &tt.flow, Listed)); got != tt.line {
			t.Errorf("line\n got %s\nwant %s", got, tt.line)
		}
		if got := string(save.AppendFlow(nil, &tt.flow, Listed)); !strings.HasSuffix(got, " "+tt.save) {
			t.Errorf("save\n got %s\nwant %s at its end", got, tt.save)
		}
		if got := string(elem.AppendFlow(nil, &tt.flow, Listed)); !strings.Contains(got, tt.elem) {
			t.Errorf("xml\n got %s\nwant %s in it", got, tt.elem)
		}
	}
}

func TestSave(t *testing.T) {
	const rest = " -c 6 -w 1 --orig-zone 2 --reply-zone 3 -s 203.0.113.2 -d 203.0.113.1 -g 192.168.1.100 -n 192.168.1.1" +
		" -p tcp --sport 47274 --dport 5201 --reply-port-src 80 --reply-port-dst 61000 --state ESTABLISHED"
	o := format(Format{Save: true, Extended: true, ID: true, Timestamp: true, KTimestamp: true, LabelName: labelNames})
	f := everything()
	for done, want := range map[Done]string{Listed: "-A", Updated: "-A", Deleted: "-D"} {
		if got := string(o.AppendFlow(nil, f, done)); got != want+" -t 431999 -u SEEN_REPLY,ASSURED"+rest {
			t.Errorf("%d: %s", done, got)
		}
	}
	for kind, want := range map[conntrack.EventKind]string{conntrack.EventNew: "-A", conntrack.EventUpdate: "-U", conntrack.EventDestroy: "-D"} {
		e := conntrack.Event{Kind: kind, Flow: f, PortID: 5}
		if got := string(o.AppendEvent(nil, &e, "")); got != want+" -t 431999 -u SEEN_REPLY,ASSURED"+rest+" [USERSPACE] portid=5" {
			t.Errorf("event %d: %s", kind, got)
		}
	}
	f.Status = conntrack.StatusConfirmed | conntrack.StatusSrcNAT | conntrack.StatusDstNAT // not done
	want := "-A -t 431999 -u UNSET" + strings.NewReplacer("-g", "-r", "-n", "-q").Replace(rest)
	if got := string(o.AppendFlow(nil, f, Listed)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	f.Status = 1<<16 - 1
	if got := string(o.AppendFlow(nil, f, Listed)); !strings.Contains(got, " -u EXPECTED,SEEN_REPLY,ASSURED,FIXED_TIMEOUT ") {
		t.Errorf("all status bits: %s", got)
	}
}

func TestXML(t *testing.T) {
	o := format(Format{XML: true, Timestamp: true, KTimestamp: true, LabelName: labelNames})
	f := everything()
	f.Has |= conntrack.AttrStop
	e := conntrack.Event{Kind: conntrack.EventDestroy, Flow: f, PortID: 5, Time: testNow.Add(-time.Hour)}
	want := `<flow type="destroy"><meta direction="original"><layer3 protonum="2" protoname="ipv4"><src>203.0.113.2</src><dst>203.0.113.1</dst></layer3>` +
		`<layer4 protonum="6" protoname="tcp"><sport>47274</sport><dport>5201</dport></layer4><zone>2</zone>` +
		`<counters><packets>1</packets><bytes>18446744073709551615</bytes></counters></meta>` +
		`<meta direction="reply"><layer3 protonum="2" protoname="ipv4"><src>192.168.1.100</src><dst>192.168.1.1</dst></layer3>` +
		`<layer4 protonum="6" protoname="tcp"><sport>80</sport><dport>61000</dport></layer4><zone>3</zone>` +
		`<counters><packets>2</packets><bytes>4</bytes></counters></meta>` +
		`<meta direction="independent"><state>ESTABLISHED</state><timeout>431999</timeout><mark>4294967295</mark>` +
		`<labels><label>first</label><label>two words</label><label>last-one</label></labels>` +
		`<secmark>6</secmark><secctx>system_u:&lt;&amp;&gt;:s0</secctx><zone>1</zone><use>2</use><id>4294967295</id><assured/>` +
		`<timestamp><start>1793520361001004999</start><stop>1793520422000004999</stop></timestamp><deltatime>60</deltatime></meta>` +
		`<when><hour>8</hour><min>07</min><sec>03</sec><wday>1</wday><day>1</day><month>11</month><year>2026</year></when>` +
		`<helper>ftp</helper></flow>`
	got := string(o.AppendEvent(nil, &e, "ignored"))
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	f.Has = conntrack.AttrOrig | conntrack.AttrReply | conntrack.AttrStatus
	f.Status = 0
	short := string(o.AppendFlow(nil, f, Listed))
	if !strings.HasPrefix(short, "<flow><meta ") || !strings.HasSuffix(short, `<meta direction="independent"><unreplied/></meta></flow>`) {
		t.Errorf("got %s", short)
	}
	wellFormed(t, &o, "conntrack", got, short)
	wellFormed(t, &o, "conntrack")
	f.Has, f.Helper = f.Has|conntrack.AttrHelper, "<&>\x00\x7f\xff\"'\r\n\ufffe"
	got = string(o.AppendFlow(nil, f, Listed))
	if !strings.Contains(got, "<helper>&lt;&amp;&gt;\ufffd\x7f\ufffd\"'\ufffd\n\ufffd</helper>") {
		t.Errorf("helper escaped as %q", got)
	}
	wellFormed(t, &o, "conntrack", got)
}

// wellFormed parses lines as one document of a table.
func wellFormed(t *testing.T, o *Format, table string, lines ...string) {
	t.Helper()
	doc := string(o.AppendBegin(nil, table))
	for _, l := range lines {
		doc += l + "\n"
	}
	doc = string(o.AppendEnd([]byte(doc), table))
	if !strings.HasPrefix(doc, "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<"+table+">\n") || !strings.HasSuffix(doc, "</"+table+">\n") {
		t.Errorf("not a document of %s:\n%s", table, doc)
	}
	d, flows := xml.NewDecoder(strings.NewReader(doc)), 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "flow" {
			flows++
		}
	}
	if flows != len(lines) {
		t.Errorf("%d flows, want %d", flows, len(lines))
	}
}

// FuzzText holds any text to be text and nothing else in XML.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", "ftp", "<&>]]>", "</helper>", "a\x00\xff\r\n\t\ufffe\U0010ffff", "\xed\xa0\x80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o := Format{XML: true, LabelName: func(int) string { return s }}
		flow := everything()
		flow.Helper, flow.SecCtx = s, s
		doc := string(o.AppendFlow(nil, flow, Listed))
		var got struct {
			Helper string `xml:"helper"`
			Meta   []struct {
				SecCtx string `xml:"secctx"`
			} `xml:"meta"`
		}
		if err := xml.Unmarshal([]byte(doc), &got); err != nil {
			t.Fatalf("%v in %q", err, doc)
		}
		if len(got.Meta) != 3 || got.Meta[2].SecCtx != got.Helper {
			t.Fatalf("%q", doc)
		}
		if want := strings.Map(func(r rune) rune {
			if r < ' ' && r != '\t' && r != '\n' || r == 0xfffe || r == 0xffff {
				return utf8.RuneError
			}
			return r
		}, s); got.Helper != want {
			t.Fatalf("%q came out as %q, want %q", s, got.Helper, want)
		}
	})
}

func TestEventLine(t *testing.T) {
	plain, dated := format(Format{}), format(Format{Timestamp: true, Extended: true, ID: true})
	f := &conntrack.Flow{Orig: ports(conntrack.ProtoUDP, "10.0.0.1:1", "10.0.0.2:2"), Has: conntrack.AttrID, ID: 9}
	f.Reply = f.Orig.Invert()
	const line = "udp      17 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1"
	early := time.Unix(7, 1_999)
	tests := []struct {
		format  Format
		event   conntrack.Event
		program string
		want    string
	}{
		{plain, conntrack.Event{Kind: conntrack.EventNew, Flow: f}, "", "    [NEW] " + line},
		{plain, conntrack.Event{Kind: conntrack.EventUpdate, Flow: f, PortID: 4154181394}, "", " [UPDATE] " + line + " [USERSPACE] portid=4154181394"},
		{plain, conntrack.Event{Kind: conntrack.EventDestroy, Flow: f, PortID: 1}, "conntrack", "[DESTROY] " + line + " [USERSPACE] portid=1 progname=conntrack"},
		{plain, conntrack.Event{Kind: conntrack.EventDestroy, Flow: f, PortID: 1}, "a b\n\x1b[31m\x7fé", "[DESTROY] " + line + " [USERSPACE] portid=1 progname=a b??[31m?é"},
		{plain, conntrack.Event{Kind: conntrack.EventDestroy, Flow: f}, "conntrack", "[DESTROY] " + line},
		{dated, conntrack.Event{Kind: conntrack.EventNew, Flow: f}, "", "[1793520423.000004]\t    [NEW] ipv4     2 " + line + " id=9"},
		{dated, conntrack.Event{Kind: conntrack.EventNew, Flow: f, Time: early}, "", "[00000007.000001]\t    [NEW] ipv4     2 " + line + " id=9"},
	}
	for _, tt := range tests {
		if got := string(tt.format.AppendEvent(nil, &tt.event, tt.program)); got != tt.want {
			t.Errorf("got  %q\nwant %q", got, tt.want)
		}
	}
	if got := string(append(plain.AppendBegin(nil, "conntrack"), plain.AppendEnd(nil, "conntrack")...)); got != "" {
		t.Errorf("lines have a header: %q", got)
	}
}

func TestDoesNotAllocate(t *testing.T) {
	formats := map[string]Format{
		"default": {}, "extended": {Extended: true, ID: true, Timestamp: true, KTimestamp: true, LabelName: labelNames},
		"save": {Save: true}, "xml": {XML: true, Timestamp: true, KTimestamp: true, LabelName: labelNames},
	}
	flows := []*conntrack.Flow{everything(), {Orig: addrs(200, "::1.2.3.4", "::1"), Reply: addrs(200, "::1", "::1.2.3.4")}}
	expect := expectation()
	buf := make([]byte, 0, 4096)
	for name, o := range formats {
		for _, f := range flows {
			e := conntrack.Event{Kind: conntrack.EventNew, Flow: f, PortID: 5}
			if n := testing.AllocsPerRun(100, func() {
				o.AppendFlow(buf, f, Listed)
				o.AppendEvent(buf, &e, "program")
				o.AppendExpectation(buf, expect)
			}); n != 0 {
				t.Errorf("%s: %v allocations a flow", name, n)
			}
		}
	}
}

func BenchmarkAppendFlow(b *testing.B) {
	f := everything()
	for name, o := range map[string]Format{"default": {}, "save": {Save: true}, "xml": {XML: true}} {
		b.Run(name, func(b *testing.B) {
			var buf []byte
			b.ReportAllocs()
			for b.Loop() {
				buf = o.AppendFlow(buf[:0], f, Listed)
			}
			b.SetBytes(int64(len(buf)))
		})
	}
}
