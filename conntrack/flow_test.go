package conntrack

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var cmpAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// fixtures returns the captured messages by name. Without any the test fails.
func fixtures(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/flow/*.hex")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d fixtures, %v", len(files), err)
	}
	all := make(map[string][]byte)
	for _, file := range files {
		all[strings.TrimSuffix(filepath.Base(file), ".hex")] = readHex(t, file)
	}
	return all
}

// readHex reads a fixture, whose header must name kernel, command and date.
func readHex(t testing.TB, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var digits, head strings.Builder
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			head.WriteString(line)
			continue
		}
		digits.WriteString(strings.TrimSpace(line))
	}
	for _, name := range []string{"# kernel: ", "# command: ", "# date: "} {
		if !strings.Contains(head.String(), name) {
			t.Fatalf("%s: no %q in the header", file, name)
		}
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	native(t, b)
	return b
}

func mustParse(t testing.TB, b []byte) *Flow {
	t.Helper()
	f := new(Flow)
	if err := parseFlow(b, f); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestFixtures holds every captured message to the JSON beside it, and that
// and the bytes to each other.
func TestFixtures(t *testing.T) {
	for name, b := range fixtures(t) {
		t.Run(name, func(t *testing.T) {
			f := mustParse(t, b)
			want, err := os.ReadFile("testdata/flow/" + name + ".json")
			if err != nil {
				t.Fatal(err)
			}
			got := f.AppendJSON(nil)
			if diff := cmp.Diff(string(bytes.TrimSpace(want)), string(got)); diff != "" {
				t.Fatalf("JSON (-want +got):\n%s", diff)
			}
			roundTripFlow(t, f)
		})
	}
}

// roundTripFlow appends and parses f, as bytes and as JSON.
func roundTripFlow(t testing.TB, f *Flow) {
	t.Helper()
	b, err := appendFlow(nil, f)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(f, mustParse(t, b), cmpAddr); diff != "" {
		t.Fatalf("append and parse (-want +got):\n%s", diff)
	}
	j, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	back := new(Flow)
	if err := json.Unmarshal(j, back); err != nil {
		t.Fatalf("%v in %s", err, j)
	}
	if diff := cmp.Diff(f, back, cmpAddr); diff != "" {
		t.Fatalf("JSON and back (-want +got):\n%s", diff)
	}
}

func TestParseTranslated(t *testing.T) {
	got := mustParse(t, fixtures(t)["tcp_translated"])
	want := &Flow{
		Has: AttrOrig | AttrReply | AttrStatus | AttrTimeout | AttrMark | AttrLabels |
			AttrOrigCounters | AttrReplyCounters | AttrStart | AttrTCP | AttrID | AttrUse,
		Orig: Tuple{
			Src: netip.MustParseAddr("127.0.0.2"), Dst: netip.MustParseAddr("127.0.0.1"),
			Proto: ProtoTCP, SrcPort: 47274, DstPort: 5201,
		},
		Reply: Tuple{
			Src: netip.MustParseAddr("127.0.0.9"), Dst: netip.MustParseAddr("127.0.0.3"),
			Proto: ProtoTCP, SrcPort: 80, DstPort: 47274,
		},
		Status: StatusSeenReply | StatusAssured | StatusConfirmed |
			StatusSrcNAT | StatusDstNAT | StatusSrcNATDone | StatusDstNATDone,
		Timeout:       431999 * time.Second,
		Labels:        Labels{0: 1 << 3},
		OrigCounters:  Counters{Packets: 4, Bytes: 1216},
		ReplyCounters: Counters{Packets: 3, Bytes: 5164},
		TCP: TCP{
			State: TCPEstablished, OrigWScale: 10, ReplyWScale: 10,
			OrigFlags:  TCPWindowScale | TCPSackPerm | TCPMaxAckSet,
			ReplyFlags: TCPWindowScale | TCPSackPerm | TCPMaxAckSet,
		},
		Start: got.Start, ID: got.ID, Use: 1,
	}
	if diff := cmp.Diff(want, got, cmpAddr); diff != "" {
		t.Fatalf("parsed (-want +got):\n%s", diff)
	}
	if got.Start.Year() != 2026 {
		t.Fatalf("start %v", got.Start)
	}
}

// TestParseKeepsNoText holds a Flow to no text of the one that it held before.
func TestParseKeepsNoText(t *testing.T) {
	f := &Flow{Has: AttrHelper | AttrSecCtx, Helper: "ftp", SecCtx: "a:b:c"}
	for name, b := range fixtures(t) {
		want := mustParse(t, b)
		for _, have := range []Flow{*f, *want, {Helper: want.Helper + "x", SecCtx: want.SecCtx + "x"}} {
			if err := parseFlow(b, &have); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, &have, cmpAddr); diff != "" {
				t.Errorf("%s over another (-want +got):\n%s", name, diff)
			}
		}
	}
	if err := parseFlow([]byte{1}, f); err == nil || f.Helper != "" || f.SecCtx != "" {
		t.Errorf("after an error: %+v, %v", f, err)
	}
}

func TestParseDoesNotAllocate(t *testing.T) {
	f := new(Flow)
	for name, b := range fixtures(t) {
		if mustParse(t, b).HelpInfo != nil {
			continue // the Flow's own
		}
		n := testing.AllocsPerRun(100, func() {
			if err := parseFlow(b, f); err != nil {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestAppendJSONDoesNotAllocate(t *testing.T) {
	buf := make([]byte, 0, 4096)
	f := mustParse(t, fixtures(t)["tcp_translated"])
	if n := testing.AllocsPerRun(100, func() { buf = f.AppendJSON(buf[:0]) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func TestParseForgets(t *testing.T) {
	all := fixtures(t)
	f := new(Flow)
	for _, name := range []string{"helper_seqadj_synproxy_labels", "secctx_by_hand", "esp"} {
		if err := parseFlow(all[name], f); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(mustParse(t, all["esp"]), f, cmpAddr); diff != "" {
		t.Fatalf("parsed over another flow (-want +got):\n%s", diff)
	}
}

func TestParseErrors(t *testing.T) {
	nest := func(typ attrType, members ...[]byte) []byte {
		b, start := beginNest(nil, typ)
		return endNest(append(b, bytes.Join(members, nil)...), start)
	}
	raw := func(typ attrType, n int) []byte { return appendAttr(nil, typ, make([]byte, n)) }
	tests := map[string]struct {
		b    []byte
		want string
	}{
		"status":        {raw(attrStatus, 3), "CTA_STATUS: 3 bytes, want 4"},
		"timeout":       {raw(attrTimeout, 8), "CTA_TIMEOUT: 8 bytes, want 4"},
		"mark":          {raw(attrMark, 0), "CTA_MARK: 0 bytes, want 4"},
		"use":           {raw(attrUse, 5), "CTA_USE: 5 bytes, want 4"},
		"id":            {raw(attrID, 2), "CTA_ID: 2 bytes, want 4"},
		"zone":          {raw(attrZone, 4), "CTA_ZONE: 4 bytes, want 2"},
		"secmark":       {raw(attrSecMark, 1), "CTA_SECMARK: 1 bytes, want 4"},
		"long labels":   {raw(attrLabels, 20), "CTA_LABELS: 20 bytes, want 16"},
		"odd labels":    {raw(attrLabels, 6), "CTA_LABELS: 6 bytes, want 16"},
		"counters":      {nest(attrCountersOrig, raw(attrCountersBytes, 4)), "CTA_COUNTERS_BYTES: 4 bytes, want 8"},
		"start":         {nest(attrTimestamp, raw(attrTimestampStart, 4)), "CTA_TIMESTAMP_START: 4 bytes, want 8"},
		"late start":    {nest(attrTimestamp, appendUint64(nil, attrTimestampStart, 1<<63)), "CTA_TIMESTAMP_START: 9223372036854775808 ns is out of range"},
		"tcp state":     {nest(attrProtoinfo, nest(attrProtoinfoTCP, raw(attrTCPState, 4))), "CTA_PROTOINFO_TCP_STATE: 4 bytes, want 1"},
		"tcp flags":     {nest(attrProtoinfo, nest(attrProtoinfoTCP, raw(attrTCPReplyFlags, 1))), "CTA_PROTOINFO_TCP_FLAGS_REPLY: 1 bytes, want 2"},
		"sctp":          {nest(attrProtoinfo, nest(attrProtoinfoSCTP, raw(attrSCTPOrigVTag, 2))), "CTA_PROTOINFO_SCTP_VTAG_ORIGINAL: 2 bytes, want 4"},
		"dccp":          {nest(attrProtoinfo, nest(attrProtoinfoDCCP, raw(attrDCCPHandshakeSeq, 4))), "CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ: 4 bytes, want 8"},
		"seqadj":        {nest(attrSeqAdjReply, raw(attrSeqAdjOffsetAfter, 2)), "CTA_SEQADJ_OFFSET_AFTER: 2 bytes, want 4"},
		"synproxy":      {nest(attrSynproxy, raw(attrSynproxyITS, 2)), "CTA_SYNPROXY_ITS: 2 bytes, want 4"},
		"helper":        {nest(attrHelp, raw(attrHelpName, maxText+1)), "CTA_HELP_NAME: 16385 bytes, want 16384"},
		"IPv4":          {nest(attrTupleOrig, nest(attrTupleIP, raw(attrIPv4Src, 16))), "CTA_TUPLE_ORIG: CTA_IP_V4_SRC: 16 bytes, want 4"},
		"IPv6":          {nest(attrTupleReply, nest(attrTupleIP, raw(attrIPv6Dst, 4))), "CTA_TUPLE_REPLY: CTA_IP_V6_DST: 4 bytes, want 16"},
		"port":          {nest(attrTupleOrig, nest(attrTupleProto, raw(attrProtoSrcPort, 4))), "CTA_TUPLE_ORIG: CTA_PROTO_SRC_PORT: 4 bytes, want 2"},
		"tuple zone":    {nest(attrTupleOrig, raw(attrTupleZone, 4)), "CTA_TUPLE_ORIG: CTA_TUPLE_ZONE: 4 bytes, want 2"},
		"empty tuple":   {nest(attrTupleOrig), "CTA_TUPLE_ORIG: no source address"},
		"half a tuple":  {nest(attrTupleMaster, nest(attrTupleIP, raw(attrIPv4Src, 4))), "CTA_TUPLE_MASTER: no destination address"},
		"no protocol":   {nest(attrTupleMaster, nest(attrTupleIP, raw(attrIPv4Src, 4), raw(attrIPv4Dst, 4))), "CTA_TUPLE_MASTER: no protocol"},
		"two families":  {nest(attrTupleMaster, nest(attrTupleIP, raw(attrIPv4Src, 4), raw(attrIPv6Dst, 16))), "CTA_TUPLE_MASTER: addresses of two families: 0.0.0.0 and ::"},
		"header":        {[]byte{1, 2, 3}, "conntrack message attribute header: 3 bytes, want 4"},
		"short header":  {appendAttrHeader(nil, 1, 3-attrHeaderLen), "conntrack message attribute 1: 3 bytes, want 4"},
		"cut off":       {append(appendAttrHeader(nil, 1, 5), 0, 0, 0, 0), "conntrack message attribute 1: 9 bytes, 8 left"},
		"nested header": {nest(attrTupleOrig, []byte{1, 2}), "CTA_TUPLE_ORIG attribute header: 2 bytes, want 4"},
	}
	for name, tt := range tests {
		err := parseFlow(tt.b, new(Flow))
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
}

func TestPickedUp(t *testing.T) {
	all := fixtures(t)
	for name := range all {
		want := name == "tcp6_picked_up" || name == "secctx_by_hand"
		if got := mustParse(t, all[name]).PickedUp(); got != want {
			t.Errorf("%s: picked up %v, want %v", name, got, want)
		}
	}
	for _, tt := range []struct {
		orig, reply TCPFlags
		want        bool
	}{
		{0x0a, 0x2a, true}, {0x2a, 0x0a, true}, {0x08, 0x08, true},
		{0x23, 0x33, false}, {0x0a, 0x22, false}, {0x22, 0x0a, false}, {0x0b, 0x0a, false}, {0x0a, 0x0b, false}, {0, 0, false},
	} {
		f := Flow{Has: AttrTCP, TCP: TCP{OrigFlags: tt.orig, ReplyFlags: tt.reply}}
		if f.PickedUp() != tt.want {
			t.Errorf("flags %#x and %#x: picked up %v", tt.orig, tt.reply, !tt.want)
		}
	}
}

func TestKey(t *testing.T) {
	all := fixtures(t)
	for name, want := range map[string]Zone{"orig_zone": 3, "reply_zone": 0, "helper_seqadj_synproxy_labels": 65535} {
		f := mustParse(t, all[name])
		if got := f.Key(); got != (Key{f.Orig, want, f.ID}) {
			t.Errorf("%s: key %v, want zone %d", name, got, want)
		}
	}
}

func TestClone(t *testing.T) {
	f := mustParse(t, fixtures(t)["secctx_by_hand"])
	c := f.Clone()
	if diff := cmp.Diff(f, c, cmpAddr); diff != "" {
		t.Fatalf("clone (-want +got):\n%s", diff)
	}
	c.HelpInfo[0]++
	if f.HelpInfo[0] == c.HelpInfo[0] {
		t.Fatal("the clone shares HelpInfo")
	}
}

// FuzzFlow: no panic, never a value that cannot be sent again; parse, append,
// parse is the identity, and so is JSON and back.
func FuzzFlow(f *testing.F) {
	for _, b := range fixtures(f) {
		f.Add(b)
		f.Add(b[:len(b)-3])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x := new(Flow)
		if parseFlow(b, x) != nil {
			return
		}
		checkSentAgain(t, x)
		if x.PickedUp() && x.Has&AttrTCP == 0 {
			t.Fatal("picked up, and no TCP")
		}
		y := new(Flow)
		if err := json.Unmarshal(x.AppendJSON(nil), y); err != nil {
			t.Fatalf("%v in %s", err, x.AppendJSON(nil))
		}
		// JSON has no bytes that are no characters.
		x.Helper, x.SecCtx = string([]rune(x.Helper)), string([]rune(x.SecCtx))
		if diff := cmp.Diff(x, y, cmpAddr); diff != "" {
			t.Fatalf("JSON and back (-want +got):\n%s", diff)
		}
	})
}

// checkSentAgain holds a flow to be what it is when it was sent and read.
func checkSentAgain(t *testing.T, x *Flow) {
	t.Helper()
	out, err := appendFlow(nil, x)
	if err != nil {
		t.Fatalf("parsed but not appended: %v", err)
	}
	y := new(Flow)
	if err := parseFlow(out, y); err != nil {
		t.Fatalf("appended but not parsed: %v", err)
	}
	if diff := cmp.Diff(x, y, cmpAddr); diff != "" {
		t.Fatalf("append and parse (-want +got):\n%s", diff)
	}
}

// FuzzFlowJSON: JSON and back is the identity, and what JSON can say fits into
// a message.
func FuzzFlowJSON(f *testing.F) {
	for _, b := range fixtures(f) {
		f.Add(mustParse(f, b).AppendJSON(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var x, y Flow
		if json.Unmarshal(b, &x) != nil {
			return
		}
		if err := json.Unmarshal(x.AppendJSON(nil), &y); err != nil {
			t.Fatalf("%v in %s", err, x.AppendJSON(nil))
		}
		if diff := cmp.Diff(x, y, cmpAddr); diff != "" {
			t.Fatalf("JSON and back (-want +got):\n%s", diff)
		}
		checkSentAgain(t, &x)
	})
}

func BenchmarkParse(b *testing.B) {
	data := fixtures(b)["tcp_translated"]
	f := new(Flow)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := parseFlow(data, f); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	f := mustParse(b, fixtures(b)["tcp_translated"])
	buf := f.AppendJSON(nil)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		buf = f.AppendJSON(buf[:0])
	}
}
