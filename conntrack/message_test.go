package conntrack

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"testing"
)

// Answers of a kernel 6.18 to what it refused: extended and not, cut short and
// with the whole request. Bytes as on a little-endian machine.
var answers = [][]byte{
	{ // -ENOENT, capped
		36, 0, 0, 0, 2, 0, 0, 1, 1, 0, 0, 0, 9, 9, 0, 0,
		0xfe, 0xff, 0xff, 0xff, 88, 0, 0, 0, 2, 1, 5, 0, 1, 0, 0, 0, 9, 9, 0, 0,
	},
	{ // -EINVAL of an attribute, capped, with words and where
		72, 0, 0, 0, 2, 0, 0, 3, 1, 0, 0, 0, 9, 9, 0, 0,
		0xea, 0xff, 0xff, 0xff, 48, 0, 0, 0, 2, 1, 5, 0, 1, 0, 0, 0, 9, 9, 0, 0,
		25, 0, 1, 0, 'A', 't', 't', 'r', ' ', 'i', 's', ' ', 'i', 'n', 'v', 'a', 'l', 'i', 'd', ' ', ' ', ' ', ' ', ' ', 0, 0, 0, 0,
		8, 0, 2, 0, 24, 0, 0, 0,
	},
	{ // -EINVAL with the request behind it, and where
		60, 0, 0, 0, 2, 0, 0, 2, 1, 0, 0, 0, 9, 9, 0, 0,
		0xea, 0xff, 0xff, 0xff, 28, 0, 0, 0, 2, 1, 5, 0, 1, 0, 0, 0, 9, 9, 0, 0,
		2, 0, 0, 0, 8, 0, 12, 0, 1, 2, 3, 4, // the rest of the request
		8, 0, 2, 0, 20, 0, 0, 0, 4, 0, 9, 0,
	},
	{ // the end of a list
		20, 0, 0, 0, 3, 0, 2, 0, 2, 0, 0, 0, 9, 9, 0, 0, 0, 0, 0, 0,
	},
	{ // the end of a list that failed, with words
		36, 0, 0, 0, 3, 0, 2, 2, 2, 0, 0, 0, 9, 9, 0, 0, 0xea, 0xff, 0xff, 0xff, 13, 0, 1, 0, 'b', 'a', 'd', ' ', 'o', 'n', 'e', 's', 0, 0, 0, 0,
	},
}

// messages returns what the kernel may send: messages of all kinds, and answers.
func messages(t testing.TB) [][]byte {
	var out [][]byte
	for _, b := range fixtures(t) {
		m, start := beginMessage(nil, header{typ: msgNew, seq: 1}, FamilyIPv4, 0)
		out = append(out, endMessage(append(m, b...), start))
	}
	for _, b := range expectFixtures(t) {
		m, start := beginMessage(nil, header{typ: msgExpNew, seq: 1}, FamilyIPv4, 0)
		out = append(out, endMessage(append(m, b...), start))
	}
	for typ, counters := range map[msgType][]attrType{
		msgGetStatsCPU:    {attrStatsFound, attrStatsInvalid, attrStatsInsert, attrStatsDrop, attrStatsClashResolve, attrStatsChainTooLong},
		msgExpGetStatsCPU: {attrExpStatsNew, attrExpStatsCreate, attrExpStatsDelete},
		msgGetStats:       {attrStatsEntries, attrStatsMaxEntries},
	} {
		m, start := beginMessage(nil, header{typ: typ, seq: 1}, FamilyBoth, 0)
		for _, c := range counters {
			m = appendUint32(m, c, 7)
		}
		out = append(out, endMessage(m, start))
	}
	return append(out, answers...)
}

func TestAnswers(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return // written down for little-endian machines
	}
	want := []answer{
		{errno: syscall.ENOENT}, {errno: syscall.EINVAL, text: "Attr is invalid     ", offset: 24},
		{errno: syscall.EINVAL, offset: 20}, {}, {errno: syscall.EINVAL, text: "bad ones"},
	}
	for i, b := range answers {
		h, payload, rest, err := nextMessage(b)
		if err != nil || len(rest) > 0 {
			t.Fatalf("answer %d: %v, %d bytes left", i, err, len(rest))
		}
		if got, err := parseAnswer(h, payload); err != nil || got != want[i] {
			t.Errorf("answer %d: %+v, %v", i, got, err)
		}
	}
}

// FuzzDatagram: a datagram of the kernel, messages and answers, never panics, and
// is read to its end.
func FuzzDatagram(f *testing.F) {
	all := messages(f)
	for i, b := range all {
		f.Add(b)
		f.Add(append(append([]byte{}, b...), all[(i+1)%len(all)][:20]...)) // the second cut off
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			h, payload, rest, err := nextMessage(b)
			if err != nil {
				return
			}
			if len(rest) >= len(b) {
				t.Fatal("no progress")
			}
			b = rest
			if a, err := parseAnswer(h, payload); err != nil && a != (answer{}) {
				t.Fatalf("%+v and %v", a, err)
			}
			if attrs, err := attributes(payload); err == nil {
				_ = parseFlow(attrs, new(Flow))
				_ = new(Limits).parse(attrs)
				_ = parseExpectation(attrs, new(Expectation))
			}
			_ = new(CPUStats).parse(payload)
			_ = new(ExpectCPUStats).parse(payload)
		}
	})
}

// FuzzBatch: whatever comes for an answer to a batch is of one of its requests,
// or of none; a batch ends with the answer to its last request, or an error.
func FuzzBatch(f *testing.F) {
	all := messages(f)
	for i, b := range all {
		f.Add(append(append([]byte{}, b...), all[(i+1)%len(all)]...), uint32(1), uint8(3))
	}
	f.Add(answers[0], uint32(0xffffffff), uint8(4)) // numbers begin anew
	f.Fuzz(func(t *testing.T, b []byte, first uint32, n uint8) {
		last := false
		take := func(i int) {
			if i < 0 || i >= int(n) {
				t.Fatalf("an answer to request %d of %d", i, n)
			}
			last = last || i == int(n)-1
		}
		g := lookups{tuples: make([]Lookup, n), found: func(i int, x *Flow) {
			take(i)
			if x.Orig.validate() != nil && x.Has&AttrOrig != 0 {
				t.Fatalf("found %v", x)
			}
		}}
		batch := batch{op: "get", first: first, n: int(n), found: g.parse, refused: func(i int, a answer) {
			take(i)
			if a.errno == 0 {
				t.Fatal("refused without an error")
			}
			g.refuse(i, a)
		}}
		done, err := batch.answers(b)
		if done && (err != nil || n == 0) {
			t.Fatalf("done, %v, of %d", err, n)
		}
		if g.refused.err() != nil && !last && n == 0 {
			t.Fatal("refused, and nothing was asked")
		}
	})
}

// FuzzRequests: of whatever flow or expectation the kernel sends, no request is
// made that deletes, but for the one that names one entry; see also FuzzDelete.
// A deletion without a tuple that the kernel can read empties the table.
func FuzzRequests(f *testing.F) {
	for _, b := range fixtures(f) {
		f.Add(b, uint8(0))
		f.Add(b[:len(b)/2], uint8(1))
	}
	for _, b := range expectFixtures(f) {
		f.Add(b, uint8(2))
	}
	f.Fuzz(func(t *testing.T, b []byte, what uint8) {
		var x Flow
		var e Expectation
		_, _ = parseFlow(b, &x), parseExpectation(b, &e) // half of one is one, too
		to := Translation{}
		if what&1 != 0 {
			to = Translation{Dst: x.Reply.Src, Src: x.Reply.Dst, DstPort: x.Reply.SrcPort}
		}
		h := header{typ: msgNew}
		create, _ := appendCreate(nil, h, &x)
		update, _ := appendUpdate(nil, h, &x)
		put, _ := appendPut(nil, h, &x, to)
		for _, m := range [][]byte{create, update, put} {
			checkRequest(t, m, msgNew)
		}
		k := e.Key()
		if m, err := appendDeleteExpectation(nil, header{typ: msgExpDelete}, &k); err == nil && !deletesExactly(t, m, k) {
			t.Fatalf("%v as %x", k, m)
		}
		// A dump's filter is of the codec, too, and its type is its own.
		for _, k := range []Tuple{x.Orig, x.Reply, e.Tuple, e.Mask} {
			k.Src = netip.Addr{}
			if m, err := appendDelete(nil, header{typ: msgDelete}, &Key{Orig: k}); err == nil || m != nil {
				t.Fatalf("a tuple without a source as %x", m)
			}
		}
	})
}

// checkRequest holds a request, if one was made, to be one message of a type
// whose attributes can be read.
func checkRequest(t *testing.T, m []byte, typ msgType) {
	t.Helper()
	if m == nil {
		return
	}
	h, payload, rest, err := nextMessage(m)
	if err != nil || len(rest) > 0 || h.typ != typ {
		t.Fatalf("%+v, %d bytes left, %v: %x", h, len(rest), err, m)
	}
	attrs, err := attributes(payload)
	for err == nil && len(attrs) > 0 {
		_, _, attrs, err = nextAttr(attrs, "request")
	}
	if err != nil {
		t.Fatalf("%v: %x", err, m)
	}
}
