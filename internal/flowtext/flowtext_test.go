package flowtext

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"flowcut/conntrack"
	"flowcut/internal/conntrack8"
	"flowcut/internal/example"
	"flowcut/internal/fuzz"
	"flowcut/internal/lab/labtest"
)

// Times of day that there are twice, as in autumn, are not read back.
func TestMain(m *testing.M) {
	time.Local = time.UTC
	os.Exit(m.Run())
}

// now is the time in these tests.
var now = time.Date(2026, 11, 1, 8, 7, 3, 0, time.UTC)

// labelBit and labelName are the names of the tests' labels.
func labelBit(name string) (int, bool) {
	n, err := strconv.Atoi(strings.TrimPrefix(name, "label "))
	return n, err == nil
}

func labelName(bit int) string { return "label " + strconv.Itoa(bit) }

var (
	reader = Reader{Now: now, Label: labelBit}
	cmpAll = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmpopts.EquateEmpty()}
)

// formats are what may be on a line; no label, no id, no time.
var formats = map[string]conntrack8.Format{
	"default":  {},
	"extended": {Extended: true},
	"all":      {Extended: true, ID: true, Timestamp: true, KTimestamp: true, LabelName: labelName},
}

// visible returns what a line of a format shows of a flow.
func visible(f *conntrack.Flow, o conntrack8.Format) conntrack.Flow {
	v := *f.Clone()
	v.Has |= conntrack.AttrStatus | conntrack.AttrOrig | conntrack.AttrReply
	v.Status &= LineStatus
	if v.Status&conntrack.StatusHWOffload != 0 {
		v.Status |= conntrack.StatusOffload
	}
	if v.Status&conntrack.StatusOffload != 0 {
		v.Status &^= conntrack.StatusAssured
	}
	v.Has &^= conntrack.AttrMaster | conntrack.AttrOrigSeqAdj | conntrack.AttrReplySeqAdj | conntrack.AttrSynproxy
	v.Master, v.OrigSeqAdj, v.ReplySeqAdj, v.Synproxy, v.HelpInfo = conntrack.Tuple{}, conntrack.SeqAdj{}, conntrack.SeqAdj{}, conntrack.Synproxy{}, nil
	v.TCP, v.SCTP, v.DCCP = conntrack.TCP{State: v.TCP.State}, conntrack.SCTP{State: v.SCTP.State}, conntrack.DCCP{State: v.DCCP.State}
	if !o.ID {
		v.Has, v.ID = v.Has&^conntrack.AttrID, 0
	}
	if o.LabelName == nil {
		v.Has, v.Labels = v.Has&^conntrack.AttrLabels, conntrack.Labels{}
	}
	if !o.KTimestamp {
		if v.Has&conntrack.AttrStart != 0 && v.Has&conntrack.AttrStop != 0 { // the age is that at the end
			v.Start = now.Add(-v.Stop.Sub(v.Start))
		}
		v.Has, v.Stop = v.Has&^conntrack.AttrStop, time.Time{}
	}
	v.Start, v.Stop = v.Start.Truncate(time.Second), v.Stop.Truncate(time.Second)
	return v
}

// check holds a flow to be the same after it was written and read.
func check(t *testing.T, f *conntrack.Flow) {
	t.Helper()
	for name, o := range formats {
		o.Now = func() time.Time { return now }
		line := string(o.AppendFlow(nil, f, conntrack8.Listed))
		got, err := reader.Parse(line)
		if err != nil {
			t.Fatalf("%s: %v in %s", name, err, line)
		}
		if diff := cmp.Diff(Entry{Flow: visible(f, o)}, got, cmpAll); diff != "" {
			t.Fatalf("%s: (-want +got)\n%s\n%s", name, line, diff)
		}
		for _, kind := range []conntrack.EventKind{conntrack.EventNew, conntrack.EventUpdate, conntrack.EventDestroy} {
			e := conntrack.Event{Kind: kind, Flow: f, PortID: 5, Time: now}
			line := string(o.AppendEvent(nil, &e, "a program"))
			got, err := reader.Parse(line)
			if err != nil {
				t.Fatalf("%s: %v in %s", name, err, line)
			}
			if diff := cmp.Diff(Entry{Flow: visible(f, o), Event: kind}, got, cmpAll); diff != "" {
				t.Fatalf("%s: (-want +got)\n%s\n%s", name, line, diff)
			}
		}
	}
	got, err := reader.Parse(string(f.AppendJSON(nil)))
	if diff := cmp.Diff(Entry{Flow: *f, Form: JSON}, got, cmpAll); err != nil || diff != "" {
		t.Fatalf("%v (-want +got)\n%s", err, diff)
	}
}

// whole gives a flow what every flow of the kernel has.
func whole(f *conntrack.Flow) *conntrack.Flow {
	f.Has |= conntrack.AttrOrig | conntrack.AttrStatus | conntrack.AttrTimeout
	if f.Has&conntrack.AttrReply == 0 {
		f.Has |= conntrack.AttrReply
		f.Reply = f.Orig.Invert()
	}
	return f
}

func TestExamples(t *testing.T) {
	for _, f := range example.Flows() {
		check(t, whole(f))
	}
}

// randomFlow draws a flow that has, or has not, each thing that a line shows.
func randomFlow(r *rand.Rand) *conntrack.Flow {
	protos := []conntrack.Proto{1, 6, 17, 33, 47, 50, 58, 132, 136, conntrack.Proto(r.UintN(256))}
	f := &conntrack.Flow{Status: conntrack.Status(r.Uint32()), Timeout: time.Duration(r.Uint32()) * time.Second}
	f.Has = conntrack.Attr(r.Uint32()) & (conntrack.AttrUse<<1 - 1) &^ (conntrack.AttrTCP | conntrack.AttrSCTP | conntrack.AttrDCCP)
	f.Orig = randomTuple(r, protos[r.IntN(len(protos))])
	f.Reply = f.Orig.Invert()
	if r.IntN(2) == 0 { // translated
		f.Reply.Src = f.Reply.Src.Next()
		f.Reply.SrcPort ^= f.Reply.SrcPort & 0xff
	}
	switch f.Orig.Proto {
	case conntrack.ProtoTCP:
		f.Has, f.TCP.State = f.Has|conntrack.AttrTCP, conntrack.TCPState(r.UintN(10))
	case conntrack.ProtoSCTP:
		f.Has, f.SCTP.State = f.Has|conntrack.AttrSCTP, conntrack.SCTPState(r.UintN(10))
	case conntrack.ProtoDCCP:
		f.Has, f.DCCP.State = f.Has|conntrack.AttrDCCP, conntrack.DCCPState(r.UintN(10))
	}
	f.Zone, f.OrigZone, f.ReplyZone = conntrack.Zone(1+r.UintN(65535)), conntrack.Zone(r.Uint32()), conntrack.Zone(r.Uint32())
	f.Mark, f.SecMark, f.ID, f.Use = conntrack.Mark(r.Uint32()), r.Uint32(), r.Uint32(), r.Uint32()
	f.OrigCounters = conntrack.Counters{Packets: r.Uint64(), Bytes: r.Uint64()}
	f.ReplyCounters = conntrack.Counters{Packets: r.Uint64(), Bytes: r.Uint64()}
	f.Helper, f.SecCtx = "ftp", "system_u:object_r:unlabeled_t:s0"
	f.Start = now.Add(-time.Duration(r.Uint32N(1e9)) * time.Second)
	f.Stop = f.Start.Add(time.Hour)
	for range 1 + r.IntN(3) {
		if f.Labels.Set(r.IntN(conntrack.NumLabels)) != nil {
			panic("a label from 0 to 127")
		}
	}
	f.Master = f.Orig
	without(f)
	return whole(f)
}

// without makes zero what a flow does not have.
func without(f *conntrack.Flow) {
	g := conntrack.Flow{}
	if err := json.Unmarshal(f.AppendJSON(nil), &g); err == nil {
		g.Orig, g.Reply, g.Has = f.Orig, f.Reply, g.Has|conntrack.AttrOrig|conntrack.AttrReply
		*f = g
	}
}

func randomTuple(r *rand.Rand, p conntrack.Proto) conntrack.Tuple {
	addr := func(v6 bool) netip.Addr {
		var b [16]byte
		for i := range b {
			if r.IntN(3) > 0 {
				b[i] = byte(r.Uint32())
			}
		}
		if v6 {
			return netip.AddrFrom16(b)
		}
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	v6 := p == conntrack.ProtoICMPv6 || p != conntrack.ProtoICMP && r.IntN(2) == 0
	t := conntrack.Tuple{Proto: p, Src: addr(v6), Dst: addr(v6)}
	switch {
	case t.HasPorts(), p == conntrack.ProtoGRE:
		t.SrcPort, t.DstPort = uint16(r.Uint32()), uint16(r.Uint32())
	case t.IsICMP():
		t.ICMPType, t.ICMPCode, t.ICMPID = uint8(r.Uint32()), uint8(r.Uint32()), uint16(r.Uint32())
	}
	return t
}

func TestRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		check(t, randomFlow(r))
	}
}

// What is not of the program's own making, or not as it should be.
func TestParse(t *testing.T) {
	const tuples = "src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1"
	for line, want := range map[string]string{ // "" for no error
		"": "an empty line",
		"tcp      6 5 ESTABLISHED " + tuples + " [ASSURED] mark=0 use=1":                                                                                              "",
		"    [NEW] tcp 6 5 SYN_SENT " + tuples + "\n":                                                                                                                 "",
		"[1793520423.000004]\t[DESTROY] tcp 6 " + tuples + " [USERSPACE] portid=4 progname=a b=c [X]":                                                                 "",
		`{"event":"destroy","returned":true,"flow":{"orig":{"src":"1.1.1.1","dst":"1.1.1.2","proto":"udp"},"reply":{"src":"1.1.1.2","dst":"1.1.1.1","proto":"udp"}}}`: "",
		"ipv6     10 udp      17 5 src=2001:0db8:0000:0000:0000:0000:0000:0001 dst=2001:0db8:0000:0000:0000:0000:0000:0002 sport=1 dport=2 [UNREPLIED] src=2001:0db8:0000:0000:0000:0000:0000:0002 dst=2001:0db8:0000:0000:0000:0000:0000:0001 sport=2 dport=1 mark=0 zone=0 use=2": "",
		"conntrack v1.4.7 (conntrack-tools): 3 flow entries have been shown.": "this is no line of conntrack(8): after conntrack there is no number of a protocol",
		"tcp 6 5 OPEN " + tuples:                                           "protocol tcp has no such state: OPEN",
		"udp 17 5 OPEN " + tuples:                                          "protocol udp has no state: OPEN",
		"udp 6 5 " + tuples:                                                "protocol 6 is not called udp",
		"udp 17 5 " + tuples + " colour=red":                               "not of a line of conntrack(8): colour=red",
		"udp 17 5 " + tuples + " [ASSURED]x":                               "not of a line of conntrack(8): x",
		"udp 17 5 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=70000 " + tuples: "original direction: no number of 16 bits: dport=70000",
		"udp 17 5 src=10.0.0.1 dst=::1 sport=1 dport=7 " + tuples:          "original direction: addresses of two families",
		"udp 17 5 src=fe80::1%eth0 dst=::1 sport=1 dport=7 " + tuples:      "original direction: no address: fe80::1%eth0",
		"udp 17 5 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2":               "reply direction: the line ends where src= should be; the line ends where dst= should be",
		"ipv6 10 udp 17 5 " + tuples:                                       "addresses of two families",
		"ipv4 10 udp 17 5 " + tuples:                                       "the family ipv4 has the number 2, not 10",
		"udp 17 5 " + tuples + " [start=Sun Nov  1 08:06:01 1926]":         "no time of a flow: 1926-11-01 08:06:01",
		"udp 17 5 " + tuples + " delta-time=4294967295":                    "no time of a flow: 1890-09-25 01:38:48",
		`{"foo":1}`:  `the JSON object has no flow: neither "flow" nor "orig"`,
		`{`:          "unexpected end of JSON input",
		`{"flow":1}`: "conntrack: flow: json: cannot unmarshal number into Go value of type conntrack.jsonFlow",
		`<flow>`:     "XML is not read, only lines and JSON",
		`{"event":"born","flow":{"orig":{"src":"1.1.1.1","dst":"1.1.1.2","proto":"udp"},"reply":{"src":"1.1.1.2","dst":"1.1.1.1","proto":"udp"}}}`: "no such event: born",
	} {
		_, err := reader.Parse(line)
		if got := errorText(err); got != want {
			t.Errorf("%s\n got %s\nwant %s", line, got, want)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// FuzzParse: what is read is written so that it is read as the same, and an error
// is one line that a terminal can show.
func FuzzParse(f *testing.F) {
	for _, x := range example.Flows() {
		o := formats["all"]
		f.Add(o.AppendFlow(nil, whole(x), conntrack8.Listed))
		f.Add(o.AppendEvent(nil, &conntrack.Event{Kind: conntrack.EventDestroy, Flow: x, PortID: 7}, "x"))
	}
	labtest.Seeds(f, "../../conntrack/testdata/flow/*.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := reader.Parse(string(b))
		if err != nil {
			for _, r := range err.Error() {
				if !strconv.IsPrint(r) {
					t.Fatalf("%q in the error %q", r, err)
				}
			}
			if diff := cmp.Diff(Entry{}, e, cmpAll); diff != "" {
				t.Fatalf("an error and a value:\n%s", diff)
			}
			return
		}
		again, err := reader.Parse(string(e.Flow.AppendJSON(nil)))
		if err != nil {
			t.Fatalf("%v in %s", err, e.Flow.AppendJSON(nil))
		}
		again.Form, again.Event, again.Returned = e.Form, e.Event, e.Returned
		// JSON has no bytes that are no characters.
		e.Flow.Helper, e.Flow.SecCtx = string([]rune(e.Flow.Helper)), string([]rune(e.Flow.SecCtx))
		if diff := cmp.Diff(e, again, cmpAll); diff != "" {
			t.Fatalf("(-want +got)\n%s", diff)
		}
	})
}

// TestBriefly fuzzes for a moment; "make fuzz" does so for long.
func TestBriefly(t *testing.T) { fuzz.Briefly(t, time.Second) }
