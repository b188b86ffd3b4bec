package conntrack8

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"flowcut/conntrack"
)

// expectation returns one as an FTP session has it.
func expectation() *conntrack.Expectation {
	mask := ports(conntrack.ProtoTCP, "255.255.255.255:0", "255.255.255.255:65535")
	return &conntrack.Expectation{
		Master: ports(conntrack.ProtoTCP, "10.0.0.1:40000", "10.0.0.2:21"),
		Tuple:  ports(conntrack.ProtoTCP, "10.0.0.1:0", "10.0.0.2:9876"), Mask: mask,
		Timeout: 299 * time.Second, ID: 7, Helper: "ftp",
	}
}

func TestExpectation(t *testing.T) {
	const line = "299 proto=6 src=10.0.0.1 dst=10.0.0.2 sport=0 dport=9876 mask-src=255.255.255.255 mask-dst=255.255.255.255 " +
		"sport=0 dport=65535 master-src=10.0.0.1 master-dst=10.0.0.2 sport=40000 dport=21 "
	plain, dated := format(Format{Extended: true, ID: true, Save: true}), format(Format{Timestamp: true})
	all := func(e *conntrack.Expectation) { e.Zone, e.Class, e.Flags = 5, 1, 7 }
	tests := []struct {
		format Format
		change func(*conntrack.Expectation)
		kind   conntrack.EventKind
		want   string
	}{
		{plain, func(*conntrack.Expectation) {}, 0, line + "class=0 helper=ftp"},
		{plain, func(e *conntrack.Expectation) { e.Helper = "" }, conntrack.EventNew, "    [NEW] " + line + "class=0"},
		{plain, all, conntrack.EventDestroy, "[DESTROY] " + line + "zone=5 PERMANENT,INACTIVE,USERSPACE class=1 helper=ftp"},
		{plain, func(e *conntrack.Expectation) { e.Flags = conntrack.ExpectUserspace }, 0, line + "USERSPACE class=0 helper=ftp"},
		{dated, func(*conntrack.Expectation) {}, 0, "[1793520423.4     ]\t" + line + "class=0 helper=ftp"},
		{plain, func(e *conntrack.Expectation) {
			e.Tuple = ports(conntrack.ProtoUDP, "[::]:0", "[2001:db8::1]:5060")
			e.Mask = ports(conntrack.ProtoUDP, "[::]:0", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535")
			e.Master = ports(conntrack.ProtoUDP, "[2001:db8::2]:5060", "[2001:db8::1]:5060")
		}, 0, "299 proto=17 src=:: dst=2001:db8::1 sport=0 dport=5060 mask-src=:: mask-dst=ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff " +
			"sport=0 dport=65535 master-src=2001:db8::2 master-dst=2001:db8::1 sport=5060 dport=5060 class=0 helper=ftp"},
	}
	for _, tt := range tests {
		e := expectation()
		tt.change(e)
		got := string(tt.format.AppendExpectation(nil, e))
		if tt.kind != 0 {
			got = string(tt.format.AppendEvent(nil, &conntrack.Event{Kind: tt.kind, Expect: e, PortID: 5}, "ignored"))
		}
		if got != tt.want {
			t.Errorf("got  %q\nwant %q", got, tt.want)
		}
	}
}

func TestExpectationXML(t *testing.T) {
	e := expectation()
	const layers = `<layer3 protonum="2" protoname="ipv4"><expected><src>10.0.0.1</src><dst>10.0.0.2</dst></expected>` +
		`<mask><src>255.255.255.255</src><dst>255.255.255.255</dst></mask><master><src>10.0.0.1</src><dst>10.0.0.2</dst></master></layer3>` +
		`<layer4 protonum="6" protoname="tcp"><expected><sport>0</sport><dport>9876</dport></expected>` +
		`<mask><sport>0</sport><dport>65535</dport></mask><master><sport>40000</sport><dport>21</dport></master></layer4>`
	o := format(Format{XML: true})
	short := string(o.AppendExpectation(nil, e))
	if want := "<flow>" + layers + "<meta><helper-name>ftp</helper-name><timeout>299</timeout><class>0</class></meta></flow>"; short != want {
		t.Errorf("got  %s\nwant %s", short, want)
	}
	e.Zone, e.Class, e.Flags, e.Helper = 5, 1, 7, "<x>"
	o.Timestamp = true
	long := string(o.AppendEvent(nil, &conntrack.Event{Kind: conntrack.EventUpdate, Expect: e}, ""))
	want := `<flow type="update">` + layers + `<meta><helper-name>&lt;x&gt;</helper-name><timeout>299</timeout><class>1</class><zone>5</zone>` +
		`<when><hour>8</hour><min>07</min><sec>03</sec><wday>1</wday><day>1</day><month>11</month><year>2026</year></when>` +
		`<permanent/><inactive/><userspace/></meta></flow>`
	if long != want {
		t.Errorf("got  %s\nwant %s", long, want)
	}
	wellFormed(t, &o, "expect", short, long)
	e.Tuple.Src = netip.Addr{}
	if got := string(o.AppendExpectation(nil, e)); !strings.Contains(got, `protoname="unknown"><expected><src></src>`) {
		t.Errorf("without an address: %s", got)
	}
}
