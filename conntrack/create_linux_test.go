package conntrack

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// always is what the kernel sends of every flow that ctnetlink made.
const always = AttrOrig | AttrReply | AttrStatus | AttrTimeout | AttrMark | AttrID | AttrUse | AttrSynproxy

func TestCreateAndDump(t *testing.T) {
	const v4, w4, v6, w6 = "10.0.0.1:1000", "10.0.0.2:80", "[2001:db8::1]:1000", "[2001:db8::2]:80"
	tests := map[string]struct {
		flow Flow
		has  Attr // beyond always
	}{
		"tcp": {Flow{
			Has: AttrTCP, Orig: tuple(ProtoTCP, v4, w4),
			TCP: TCP{State: TCPEstablished, OrigWScale: 7, ReplyWScale: 9, OrigFlags: 0x23, ReplyFlags: 0x33},
		}, AttrTCP},
		"tcp picked up": {Flow{
			Has: AttrTCP, Orig: tuple(ProtoTCP, v6, w6),
			TCP: TCP{State: TCPEstablished, OrigFlags: 0x0a, ReplyFlags: 0x2a},
		}, AttrTCP},
		"udp":      {Flow{Orig: tuple(ProtoUDP, v4, w4)}, 0},
		"udp ipv6": {Flow{Orig: tuple(ProtoUDP, v6, w6)}, 0},
		"udplite":  {Flow{Orig: tuple(ProtoUDPLite, v4, w4)}, 0},
		"sctp": {Flow{
			Has: AttrSCTP, Orig: tuple(ProtoSCTP, v4, w4),
			SCTP: SCTP{State: SCTPEstablished, OrigVTag: 0xdeadbeef, ReplyVTag: 0x01020304},
		}, AttrSCTP},
		"gre": {Flow{Orig: func() Tuple {
			t := portless(ProtoGRE, "10.0.0.1", "10.0.0.2")
			t.SrcPort, t.DstPort = 7, 8
			return t
		}()}, 0},
		"icmp":           {Flow{Orig: icmp(ProtoICMP, "10.0.0.1", "10.0.0.2", 8, 77)}, 0},
		"icmp timestamp": {Flow{Orig: icmp(ProtoICMP, "10.0.0.1", "10.0.0.2", 13, 77)}, 0},
		"icmpv6":         {Flow{Orig: icmp(ProtoICMPv6, "fe80::1", "fe80::2", 128, 77)}, 0},
		"dccp":           {Flow{Orig: portless(ProtoDCCP, "10.0.0.1", "10.0.0.2")}, 0},
		"esp":            {Flow{Orig: portless(50, "10.0.0.1", "10.0.0.2")}, 0},
		"protocol 200":   {Flow{Orig: portless(200, "2001:db8::1", "2001:db8::2")}, 0},
		"mark":           {Flow{Has: AttrMark, Mark: 0xdeadbeef, Orig: tuple(ProtoUDP, v4, w4)}, 0},
		"zone":           {Flow{Has: AttrZone, Zone: 65535, Orig: tuple(ProtoUDP, v4, w4)}, AttrZone},
		"original zone":  {Flow{Has: AttrOrigZone, OrigZone: 3, Orig: tuple(ProtoUDP, v4, w4)}, AttrOrigZone},
		"reply zone": {Flow{
			Has: AttrReplyZone, ReplyZone: 4, Orig: tuple(ProtoUDP, v4, w4),
		}, AttrReplyZone},
		"status": {Flow{
			Has: AttrStatus, Status: StatusSeenReply | StatusAssured | StatusFixedTimeout | StatusConfirmed,
			Orig: tuple(ProtoUDP, v4, w4),
		}, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := dialTest(t)
			want := tt.flow
			want.Timeout = 100 * time.Second
			mustCreate(t, c, &want)
			got := only(t, c)
			key, use := got.Key(), got.Use
			settle(t, got)
			want.Has, want.Reply = always|tt.has, want.Orig.Invert()
			if want.Orig.Proto == ProtoUDPLite && got.Orig.SrcPort == 0 && kernelVersion().compare(version{6, 18}) > 0 {
				want.Orig.SrcPort, want.Orig.DstPort = 0, 0 // Linux 7.3 does not know it any more
				want.Reply = want.Orig.Invert()
			}
			if want.Orig.Proto == ProtoDCCP {
				want.Has |= got.Has & AttrDCCP // kernels knew its states once, 6.1 does
			}
			want.Status |= StatusConfirmed
			if diff := cmp.Diff(&want, got, cmpAddr); diff != "" {
				t.Fatalf("dumped (-want +got):\n%s", diff)
			}
			single, err := c.Get(t.Context(), want.Orig, key.Zone)
			if err != nil {
				t.Fatal(err)
			}
			if single.Key() != key {
				t.Fatalf("get returned %v, dump %v", single.Key(), key)
			}
			_ = use
			mustDelete(t, c, key)
			if left := collect(t, c, Filter{}); len(left) > 0 {
				t.Fatalf("still there after Delete: %v", left[0].Key())
			}
		})
	}
}

func TestCreateTranslated(t *testing.T) {
	client, public, inside := "203.0.113.2:47274", "203.0.113.1:5201", "192.168.1.100:80"
	c := dialTest(t)
	want := Flow{
		Has: AttrReply | AttrStatus, Timeout: 100 * time.Second, Status: StatusDstNAT | StatusSrcNAT,
		Orig:  tuple(ProtoUDP, client, public),
		Reply: tuple(ProtoUDP, inside, "192.168.1.1:4000"),
	}
	mustCreate(t, c, &want)
	got := only(t, c)
	if got.Reply != want.Reply {
		t.Fatalf("reply tuple %v, want %v", got.Reply, want.Reply)
	}
	if nat := StatusDstNAT | StatusSrcNAT; got.Status&nat != nat {
		t.Fatalf("status %v, want SRC_NAT and DST_NAT in it", got.Status)
	}
}

func TestCreateErrors(t *testing.T) {
	c := dialTest(t)
	udp := Flow{Orig: tuple(ProtoUDP, "10.0.0.1:1", "10.0.0.2:2"), Timeout: time.Minute}
	mustCreate(t, c, &udp)
	if err := c.Create(t.Context(), &udp); !errors.Is(err, os.ErrExist) {
		t.Fatalf("create twice: %v, want %v", err, os.ErrExist)
	}
	tests := map[string]struct {
		flow Flow
		want string
	}{
		"empty":        {Flow{Timeout: time.Minute}, "no source address"},
		"no timeout":   {Flow{Orig: udp.Orig}, "no timeout"},
		"long timeout": {Flow{Orig: udp.Orig, Timeout: 1 << 62}, "timeout out of range"},
		"long helper": {Flow{
			Has: AttrHelper, Orig: udp.Orig, Timeout: time.Minute, Helper: strings.Repeat("x", 1<<16),
		}, "at most"},
		"two families": {Flow{
			Has: AttrReply, Orig: udp.Orig, Reply: tuple(ProtoUDP, "[::1]:1", "[::2]:2"), Timeout: time.Minute,
		}, "another protocol or family"},
	}
	for name, tt := range tests {
		if err := c.Create(t.Context(), &tt.flow); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q in it", name, err, tt.want)
		}
	}
	if n, err := c.Count(t.Context()); n != 1 || err != nil {
		t.Fatalf("count %d, %v, want 1", n, err)
	}
}

func TestCreateAll(t *testing.T) {
	c := dialTest(t)
	if _, err := c.CreateAll(t.Context(), manyFlows(100)); err != nil {
		t.Fatal(err)
	}
	made, err := c.CreateAll(t.Context(), manyFlows(5000))
	if made != 4900 || !errors.Is(err, os.ErrExist) {
		t.Fatalf("made %d, %v, want 4900 and %v", made, err, os.ErrExist)
	}
	if !strings.Contains(err.Error(), "flow 0: file exists (and 99 more)") {
		t.Fatalf("error %q", err)
	}
	if n, err := c.Count(t.Context()); n != 5000 || err != nil {
		t.Fatalf("count %d, %v", n, err)
	}
}

func TestUpdate(t *testing.T) {
	c := dialTest(t)
	f := &Flow{
		Has: AttrTCP | AttrZone, Zone: 9, Orig: tuple(ProtoTCP, "10.0.0.1:1", "10.0.0.2:2"),
		Timeout: time.Hour, TCP: TCP{State: TCPSynSent},
	}
	mustCreate(t, c, f)
	f = only(t, c)
	id := f.ID
	f.Mark, f.Timeout, f.TCP.State = 42, 100*time.Second, TCPEstablished
	f.Status |= StatusAssured | StatusSeenReply
	if err := c.Update(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	got := only(t, c)
	if got.ID != id {
		t.Fatalf("another entry: id %d, want %d", got.ID, id)
	}
	settle(t, f)
	settle(t, got)
	if diff := cmp.Diff(f, got, cmpAddr); diff != "" {
		t.Fatalf("after Update (-want +got):\n%s", diff)
	}
	f.Zone = 10
	if err := c.Update(t.Context(), f); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("update in another zone: %v, want %v", err, os.ErrNotExist)
	}
}

// TestCreateEverything makes an entry with all that the kernel takes.
func TestCreateEverything(t *testing.T) {
	c := dialTest(t)
	enableLabels(t)
	for _, name := range []string{"acct", "timestamp"} {
		if err := os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_"+name, []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	want := Flow{
		Has:  AttrZone | AttrTCP | AttrMark | AttrLabels | AttrHelper | AttrOrigSeqAdj | AttrReplySeqAdj | AttrSynproxy,
		Orig: tuple(ProtoTCP, "[2001:db8::1]:1000", "[2001:db8::2]:21"), Zone: 5, Timeout: 100 * time.Second,
		TCP:  TCP{State: TCPEstablished, OrigWScale: 1, ReplyWScale: 2, OrigFlags: 0x23, ReplyFlags: 0x33},
		Mark: 7, Labels: Labels{0: 1, 15: 0x80}, Helper: "ftp",
		OrigSeqAdj: SeqAdj{1, -2, 3}, ReplySeqAdj: SeqAdj{4, 5, -6}, Synproxy: Synproxy{7, 8, 9},
	}
	before := time.Now()
	mustCreate(t, c, &want)
	got := only(t, c)
	if got.Start.Before(before.Add(-time.Second)) || got.Start.After(time.Now().Add(time.Second)) {
		t.Fatalf("start %v, made at %v", got.Start, before)
	}
	settle(t, got)
	want.Reply = want.Orig.Invert()
	want.Has |= always | AttrOrigCounters | AttrReplyCounters | AttrStart
	want.Start, want.Status = got.Start, StatusConfirmed|StatusSeqAdjust|StatusHelper
	if diff := cmp.Diff(&want, got, cmpAddr); diff != "" {
		t.Fatalf("dumped (-want +got):\n%s", diff)
	}

	// And a flow that this one expected.
	data := &Flow{
		Has: AttrZone | AttrMaster | AttrTCP, Zone: 5, Master: want.Orig, Timeout: time.Minute,
		Orig: tuple(ProtoTCP, "[2001:db8::2]:20", "[2001:db8::1]:2000"), TCP: TCP{State: TCPSynSent},
	}
	mustCreate(t, c, data)
	related, err := c.Get(t.Context(), data.Orig, 5)
	if err != nil {
		t.Fatal(err)
	}
	if related.Master != want.Orig || related.Status&StatusExpected == 0 {
		t.Fatalf("master %v, status %v", related.Master, related.Status)
	}
}

// enableLabels adds a rule that sets labels: without one the kernel keeps none.
func enableLabels(t testing.TB) {
	t.Helper()
	s, err := dialConn(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	add := func(typ msgType, flags msgFlags, resID uint8, attrs ...[]byte) {
		b, start := beginMessage(s.out, header{typ, flags, 1}, 2, 0)
		b[len(b)-1] = resID
		s.out = endMessage(append(b, bytes.Join(attrs, nil)...), start)
	}
	nest := func(typ attrType, members ...[]byte) []byte {
		b, start := beginNest(nil, typ)
		return endNest(append(b, bytes.Join(members, nil)...), start)
	}
	text := func(typ attrType, v string) []byte { return appendString(nil, typ, v) }
	number := func(typ attrType, v uint32) []byte { return appendUint32(nil, typ, v) }
	add(0x10, 0, 10)                                                      // NFNL_MSG_BATCH_BEGIN for NFNL_SUBSYS_NFTABLES
	add(0xa00, flagCreate, 0, text(1, "t"))                               // NFT_MSG_NEWTABLE
	add(0xa03, flagCreate, 0, text(1, "t"), text(3, "c"))                 // NFT_MSG_NEWCHAIN
	add(0xa06, flagCreate|flagAck, 0, text(1, "t"), text(2, "c"), nest(4, // NFT_MSG_NEWRULE, NFTA_RULE_EXPRESSIONS
		nest(1, text(1, "immediate"), nest(2, number(1, 1), nest(2, appendAttr(nil, 1, make([]byte, 16))))),
		nest(1, text(1, "ct"), nest(2, number(2, 13), number(4, 1))))) // NFT_CT_LABELS from register 1
	add(0x11, 0, 10) // NFNL_MSG_BATCH_END
	if err := s.send(s.out); err != nil {
		t.Fatal(err)
	}
	b, err := s.receive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h, payload, _, err := nextMessage(b)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := parseAnswer(h, payload); err != nil || a.errno != 0 {
		t.Fatalf("add a rule that sets labels: %v, %v: %s", err, a.errno, a.text)
	}
}

// Packets of IP protocol 0 are tracked, too: such a flow is listed, read back
// from JSON and deleted like any other.
func TestProtocolZero(t *testing.T) {
	c := dialTest(t)
	mustCreate(t, c, &Flow{Orig: tuple(0, "10.0.0.1:0", "10.0.0.2:0"), Timeout: time.Minute})
	f := only(t, c)
	var back Flow
	if err := back.UnmarshalJSON(f.AppendJSON(nil)); err != nil || back.Orig != f.Orig {
		t.Errorf("from JSON: %v, %v", back.Orig, err)
	}
	if n, err := c.Delete(t.Context(), []Key{f.Key()}, nil); n != 1 || err != nil {
		t.Fatalf("deleted %d, %v", n, err)
	}
}
