package conntrack

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"github.com/google/go-cmp/cmp"
)

// expectFixtures returns the captured expectations by name, and one with every
// attribute. Without any the test fails.
func expectFixtures(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/expectation/*.hex")
	if err != nil || len(files) < 6 {
		t.Fatalf("%d fixtures, %v", len(files), err)
	}
	all := make(map[string][]byte)
	for _, file := range files {
		all[strings.TrimSuffix(filepath.Base(file), ".hex")] = readHex(t, file)
	}
	b, err := appendExpectation(nil, everyAttribute())
	if err != nil {
		t.Fatal(err)
	}
	all["every"] = b
	return all
}

// The flows that tests make masters of, and what those expect.
var (
	ftpControl4 = tuple(ProtoTCP, "10.0.0.1:1000", "10.0.0.2:21")
	ftpControl6 = tuple(ProtoTCP, "[2001:db8::1]:1000", "[2001:db8::2]:21")
	ftpData4    = tuple(ProtoTCP, "10.0.0.2:0", "10.0.0.1:4000")
	ftpData6    = tuple(ProtoTCP, "[2001:db8::2]:0", "[2001:db8::1]:4000")
)

// anyPort is an expectation of data from any port.
func anyPort(master, data Tuple) *Expectation {
	e := &Expectation{Master: master, Tuple: data, Mask: fullMask(data)}
	e.Mask.SrcPort = 0
	return e
}

// everyAttribute returns an expectation without a zero, of a protocol that has
// keys for ports.
func everyAttribute() *Expectation {
	e := &Expectation{
		Master: tuple(ProtoTCP, "10.0.0.1:1723", "10.0.0.2:1724"),
		Tuple:  tuple(ProtoGRE, "10.0.0.3:3", "10.0.0.4:4"),
		Zone:   0xfffe, Timeout: 7 * time.Second, ID: 0xfedcba98, Class: 2,
		Flags:  ExpectPermanent | ExpectInactive | ExpectUserspace,
		Helper: "pptp", Func: "Q.931",
		NAT: tuple(ProtoTCP, "10.0.0.5:5", "10.0.0.6:6"), NATReply: true,
	}
	e.Mask = fullMask(e.Tuple)
	return e
}

func mustParseExpectation(t testing.TB, b []byte) *Expectation {
	t.Helper()
	e := new(Expectation)
	if err := parseExpectation(b, e); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestParseExpectation(t *testing.T) {
	all := expectFixtures(t)
	data := tuple(ProtoTCP, "203.0.113.2:0", "203.0.113.1:40979")
	active := &Expectation{
		Master: tuple(ProtoTCP, "192.168.1.100:59880", "203.0.113.2:21"),
		Tuple:  data, Mask: tuple(ProtoTCP, "255.255.255.255:0", "255.255.255.255:65535"),
		Timeout: 300 * time.Second, ID: 0x79bfb100, Helper: "ftp", Func: "nat-follow-master",
		NAT: tuple(ProtoTCP, "0.0.0.0:40979", "0.0.0.0:0"), NATReply: true,
	}
	permanent := anyPort(ftpControl6, ftpData6)
	permanent.Timeout, permanent.ID = 300*time.Second, 0x56eceaff
	permanent.Helper, permanent.Flags = "ftp", ExpectPermanent
	for name, want := range map[string]*Expectation{
		"ftp_active": active, "permanent6": permanent, "every": everyAttribute(),
	} {
		if diff := cmp.Diff(want, mustParseExpectation(t, all[name]), cmpAddr); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestAppendExpectation: what was parsed is appended as the kernel sent it, but
// for the order.
func TestAppendExpectation(t *testing.T) {
	for name, b := range expectFixtures(t) {
		e := mustParseExpectation(t, b)
		out, err := appendExpectation(nil, e)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e, mustParseExpectation(t, out), cmpAddr); diff != "" {
			t.Errorf("%s: append and parse (-want +got):\n%s", name, diff)
		}
		want := len(b)
		if e.Zone == 0 {
			want += 8 // CTA_EXPECT_ZONE, which the kernel never sends
		}
		if len(out) != want {
			t.Errorf("%s: %d bytes, want %d", name, len(out), want)
		}
	}
}

func TestParseExpectationDoesNotAllocate(t *testing.T) {
	e := new(Expectation)
	for name, b := range expectFixtures(t) {
		n := testing.AllocsPerRun(100, func() {
			if err := parseExpectation(b, e); err != nil {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestParseExpectationForgets(t *testing.T) {
	all := expectFixtures(t)
	e := new(Expectation)
	for _, name := range []string{"every", "inactive"} {
		if err := parseExpectation(all[name], e); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(mustParseExpectation(t, all["inactive"]), e, cmpAddr); diff != "" {
		t.Fatalf("parsed over another expectation (-want +got):\n%s", diff)
	}
}

func TestParseExpectationErrors(t *testing.T) {
	nest := func(typ attrType, members ...[]byte) []byte {
		b, start := beginNest(nil, typ)
		return endNest(append(b, bytes.Join(members, nil)...), start)
	}
	raw := func(typ attrType, n int) []byte { return appendAttr(nil, typ, make([]byte, n)) }
	whole := func(typ attrType) []byte { return appendTuple(nil, typ, &ftpControl6, 0, false) }
	master, tup := whole(attrExpectMaster), whole(attrExpectTuple)
	tests := map[string]struct {
		b    []byte
		want string
	}{
		"empty":        {nil, "expectation message: no CTA_EXPECT_MASTER"},
		"no tuple":     {master, "expectation message: no CTA_EXPECT_TUPLE"},
		"no mask":      {append(master, tup...), "expectation message: no CTA_EXPECT_MASK"},
		"header":       {[]byte{1, 2, 3}, "expectation message attribute header: 3 bytes, want 4"},
		"timeout":      {raw(attrExpectTimeout, 8), "CTA_EXPECT_TIMEOUT: 8 bytes, want 4"},
		"id":           {raw(attrExpectID, 3), "CTA_EXPECT_ID: 3 bytes, want 4"},
		"zone":         {raw(attrExpectZone, 4), "CTA_EXPECT_ZONE: 4 bytes, want 2"},
		"flags":        {raw(attrExpectFlags, 2), "CTA_EXPECT_FLAGS: 2 bytes, want 4"},
		"class":        {raw(attrExpectClass, 0), "CTA_EXPECT_CLASS: 0 bytes, want 4"},
		"helper":       {raw(attrExpectHelpName, maxText+1), "CTA_EXPECT_HELP_NAME: 16385 bytes, want 16384"},
		"func":         {raw(attrExpectFunc, maxText+1), "CTA_EXPECT_FN: 16385 bytes, want 16384"},
		"half a tuple": {nest(attrExpectTuple, nest(attrTupleProto, raw(attrProtoNum, 1))), "CTA_EXPECT_TUPLE: no source address"},
		"mask":         {nest(attrExpectMask, nest(attrTupleIP, raw(attrIPv4Src, 6))), "CTA_EXPECT_MASK: CTA_IP_V4_SRC: 6 bytes, want 4"},
		"no protocol":  {nest(attrExpectMaster, nest(attrTupleIP, raw(attrIPv4Src, 4), raw(attrIPv4Dst, 4))), "CTA_EXPECT_MASTER: no protocol"},
		"empty NAT":    {nest(attrExpectNAT), "CTA_EXPECT_NAT: no CTA_EXPECT_NAT_TUPLE"},
		"NAT tuple":    {nest(attrExpectNAT, nest(attrExpectNATTuple)), "CTA_EXPECT_NAT_TUPLE: no source address"},
		"NAT dir":      {nest(attrExpectNAT, raw(attrExpectNATDir, 2)), "CTA_EXPECT_NAT_DIR: 2 bytes, want 4"},
		"no such dir":  {nest(attrExpectNAT, appendUint32(nil, attrExpectNATDir, 2)), "CTA_EXPECT_NAT_DIR: 2 is out of range"},
	}
	for name, tt := range tests {
		err := parseExpectation(tt.b, new(Expectation))
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
}

// TestAppendDeleteExpectation: whatever the key, the encoder makes a request
// that names one expectation by a whole tuple and its zone, or none at all. The
// kernel would take anything less for an order to delete all.
func TestAppendDeleteExpectation(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	addrs := []netip.Addr{
		{}, netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.MustParseAddr("10.0.0.1"),
		netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("::ffff:10.0.0.1"), netip.MustParseAddr("fe80::1%lo"),
	}
	refused, built := 0, 0
	check := func(proto uint8, src, dst, zone uint16, id uint32) bool {
		k := ExpectationKey{
			Tuple: Tuple{
				Src: addrs[r.IntN(len(addrs))], Dst: addrs[r.IntN(len(addrs))],
				Proto: Proto(proto % 8), SrcPort: src, DstPort: dst,
			},
			Zone: Zone(zone), ID: id % 3,
		}
		b, err := appendDeleteExpectation(nil, header{typ: msgExpDelete, seq: 7}, &k)
		if err != nil {
			refused++
			return b == nil
		}
		built++
		return deletesExactly(t, b, k)
	}
	if err := quick.Check(check, &quick.Config{MaxCount: 20_000}); err != nil {
		t.Fatal(err)
	}
	if refused == 0 || built == 0 {
		t.Fatalf("%d refused, %d built", refused, built)
	}
}

// deletesExactly takes a request apart, as the kernel would, and tells whether
// it names k and nothing else.
func deletesExactly(t *testing.T, b []byte, k ExpectationKey) bool {
	h, payload, rest, err := nextMessage(b)
	if err != nil || len(rest) != 0 || h.typ != msgExpDelete || Family(payload[0]) != k.Tuple.Family() {
		t.Errorf("%v: header %+v, %d bytes left, %v", k, h, len(rest), err)
		return false
	}
	seen := map[attrType]int{}
	var e Expectation
	for b := payload[nfHeaderLen:]; len(b) > 0; {
		typ, v, rest, err := nextAttr(b, "request")
		if err != nil {
			return false
		}
		b = rest
		seen[typ]++
		if typ == attrExpectTuple {
			err = e.parseTuple(typ, v)
		} else {
			err = e.parseNumber(typ, v)
		}
		if err != nil {
			return false
		}
	}
	want := map[attrType]int{attrExpectTuple: 1, attrExpectZone: 1}
	if k.ID != 0 {
		want[attrExpectID] = 1
	}
	// The kernel reads ports of the protocols that have them alone, and the keys of GRE.
	if !k.Tuple.HasPorts() && k.Tuple.Proto != ProtoGRE {
		k.Tuple.SrcPort, k.Tuple.DstPort = 0, 0
	}
	return e.Key() == k && cmp.Equal(seen, want)
}

// FuzzExpectation: no panic, never a value that cannot be sent again, and
// parse, append, parse is the identity.
func FuzzExpectation(f *testing.F) {
	for _, b := range expectFixtures(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x := Expectation{Helper: "ftp", Func: "nat-follow-master"}
		if parseExpectation(b, &x) != nil {
			return
		}
		out, err := appendExpectation(nil, &x)
		if x.Master.Proto == 0 || x.Tuple.Proto == 0 || x.Mask.Proto == 0 || x.NAT != (Tuple{}) && x.NAT.Proto == 0 {
			if err == nil {
				t.Fatalf("a protocol of 0 is appended: %+v", x)
			}
			return // no helper expects one, and in a request it is most likely an oversight
		}
		if err != nil {
			t.Fatalf("parsed but not appended: %v", err)
		}
		var y Expectation
		if err := parseExpectation(out, &y); err != nil {
			t.Fatalf("appended but not parsed: %v", err)
		}
		if diff := cmp.Diff(x, y, cmpAddr); diff != "" {
			t.Fatalf("append and parse (-want +got):\n%s", diff)
		}
	})
}

func BenchmarkParseExpectation(b *testing.B) {
	data := expectFixtures(b)["ftp_active"]
	e := new(Expectation)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := parseExpectation(data, e); err != nil {
			b.Fatal(err)
		}
	}
}
