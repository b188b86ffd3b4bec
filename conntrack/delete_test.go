package conntrack

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/quick"
)

// deleteParts takes a delete request apart, as the kernel would.
func deleteParts(t testing.TB, b []byte) (h header, version uint8, f *Flow) {
	t.Helper()
	h, payload, rest, err := nextMessage(b)
	if err != nil || len(rest) != 0 {
		t.Fatalf("not one message: %v, %d bytes left", err, len(rest))
	}
	attrs, err := attributes(payload)
	if err != nil {
		t.Fatal(err)
	}
	return h, payload[1], mustParse(t, attrs)
}

// TestAppendDelete: whatever the key, the encoder makes a request that names
// one entry by a whole tuple, ID and zone, or none at all.
func TestAppendDelete(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	addrs := []netip.Addr{
		{}, netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.MustParseAddr("10.0.0.1"),
		netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("::ffff:10.0.0.1"), netip.MustParseAddr("fe80::1%lo"),
	}
	refused, built := 0, 0
	check := func(proto, typ, code uint8, src, dst, id, zone uint16, ctID uint32) bool {
		k := Key{
			Orig: Tuple{
				Src: addrs[r.IntN(len(addrs))], Dst: addrs[r.IntN(len(addrs))], Proto: Proto(proto),
				SrcPort: src, DstPort: dst, ICMPID: id, ICMPType: typ, ICMPCode: code,
			},
			Zone: Zone(zone), ID: ctID,
		}
		b, err := appendDelete(nil, header{typ: msgDelete, seq: 7}, &k)
		if err != nil {
			refused++
			return b == nil
		}
		built++
		h, version, f := deleteParts(t, b)
		return h.typ == msgDelete && version == versionPlain &&
			f.Has == AttrOrig|AttrID|AttrZone && f.ID == k.ID && f.Zone == k.Zone &&
			f.Orig.Src == k.Orig.Src && f.Orig.Dst == k.Orig.Dst && f.Orig.Proto == k.Orig.Proto &&
			f.Orig.validate() == nil && Family(b[nlHeaderLen]) == k.Orig.Family()
	}
	if err := quick.Check(check, &quick.Config{MaxCount: 20_000}); err != nil {
		t.Fatal(err)
	}
	if refused < 1000 || built < 1000 {
		t.Fatalf("refused %d, built %d: too few of one to show anything", refused, built)
	}
}

// TestAppendDeleteRefuses lists what must never reach the kernel.
func TestAppendDeleteRefuses(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")
	for name, tuple := range map[string]Tuple{
		"nothing":        {},
		"protocol alone": {Proto: ProtoTCP},
		"no source":      {Dst: v4, Proto: ProtoTCP},
		"no destination": {Src: v4, Proto: ProtoTCP},
		"two families":   {Src: v4, Dst: v6, Proto: ProtoTCP},
		"interface":      {Src: v6.WithZone("lo"), Dst: v6, Proto: ProtoTCP},
	} {
		if b, err := appendDelete(nil, header{typ: msgDelete}, &Key{Orig: tuple, ID: 1, Zone: 2}); err == nil || b != nil {
			t.Errorf("%s: built %x", name, b)
		}
	}
}

func TestAppendDeleteBytes(t *testing.T) {
	k := Key{Zone: 5, ID: 0x01020304, Orig: Tuple{
		Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"),
		Proto: ProtoTCP, SrcPort: 0x1234, DstPort: 80,
	}}
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return // written down for little-endian machines
	}
	want := []byte{
		0x58, 0, 0, 0, 0x02, 0x01, 0x05, 0, 9, 0, 0, 0, 0, 0, 0, 0, // IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST|NLM_F_ACK, seq 9
		2, 0, 0, 0, // AF_INET, version 0
		0x34, 0, 1, 0x80, // CTA_TUPLE_ORIG
		0x14, 0, 1, 0x80, // CTA_TUPLE_IP
		8, 0, 1, 0, 10, 0, 0, 1, // CTA_IP_V4_SRC
		8, 0, 2, 0, 10, 0, 0, 2, // CTA_IP_V4_DST
		0x1c, 0, 2, 0x80, // CTA_TUPLE_PROTO
		5, 0, 1, 0, 6, 0, 0, 0, // CTA_PROTO_NUM
		6, 0, 2, 0, 0x12, 0x34, 0, 0, // CTA_PROTO_SRC_PORT
		6, 0, 3, 0, 0, 80, 0, 0, // CTA_PROTO_DST_PORT
		8, 0, 12, 0, 1, 2, 3, 4, // CTA_ID
		6, 0, 18, 0, 0, 5, 0, 0, // CTA_ZONE
	}
	got, err := appendDelete(nil, header{msgDelete, flagAck, 9}, &k)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Fatalf("got  %x\nwant %x", got, want)
	}
}

// FuzzDelete: no bytes a key may come from make anything but one exact delete.
func FuzzDelete(f *testing.F) {
	for _, b := range fixtures(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x := new(Flow)
		_ = parseFlow(b, x)
		k := x.Key()
		out, err := appendDelete(nil, header{typ: msgDelete}, &k)
		if err != nil {
			return
		}
		if _, _, got := deleteParts(t, out); got.Key() != k {
			t.Fatalf("key %v, sent as %v", k, got.Key())
		}
	})
}
