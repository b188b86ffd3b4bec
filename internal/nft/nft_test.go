package nft

import (
	"net/netip"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/rtnl"
)

// inScratch runs f in a network namespace of its own. The thread is not
// unlocked, so it ends with the goroutine and the namespace with it.
func inScratch(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		f()
	}()
	<-done
}

func nft(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command("nft", args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("nft %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// everything uses each operand, statement and kind of set once.
func everything(f Family, addr netip.Addr) *Table {
	tuple := Key{CTProto, CTSrc(f, Original), CTProtoSrc(Original), CTDst(f, Original), CTProtoDst(Original)}
	header := Key{MetaL4Proto, Src(f), SrcPort, Dst(f), DstPort}
	return &Table{Family: f, Name: "t", Sets: []*Set{
		{Name: "cut", Key: header.Types()},
		{Name: "seen", Key: tuple.Types(), Dynamic: true, Size: 1000, Timeout: time.Second},
		{Name: "dead", Key: tuple.Types(), Dynamic: true, Size: 1000},
		{Name: "born", Key: append(Key{CTID}, tuple...).Types(), Dynamic: true, Size: 1000},
		{Name: "until", Key: []Type{TypeEther}, Timed: true, Elements: []Element{{Key: f.EtherType(), Timeout: time.Hour}}},
		{Name: "ports", Key: []Type{TypePort}, Interval: true, Elements: []Element{
			{Key: Port(80)}, {Key: Port(81), End: true}, {Key: Port(255)}, {Key: Port(512), End: true}, {Key: Port(60000)}}},
		{Name: "addrs", Key: []Type{f.AddrType()}, Interval: true, Elements: []Element{{Key: addr.AsSlice()}, {Key: addr.Next().Next().AsSlice(), End: true}}},
	}, Chains: []*Chain{
		{Name: "pre", Hook: &Hook{"filter", Prerouting, -199}, Rules: []Rule{
			NewRule("one", Bits(CTStatus, 8, 8), Equal(CTDirZone(Reply), U16(4)), Counter, Drop),
			NewRule("", AnyBit(CTState, 8|1|64), Equal(MetaL4Proto, []byte{6}), Compare{Op: TCPFlags, Mask: []byte{0x17}, Not: true, Value: []byte{2}}, Lookup{Key: header, Set: "cut"}, Counter, Reset),
			NewRule("", Equal(MetaL4Proto, []byte{6}), Lookup{Key: tuple, Set: "dead", Not: true}, AddTo{Key: tuple, Set: "seen", Timeout: 500 * time.Millisecond}),
			NewRule("", Equal(MetaL4Proto, []byte{17}), AddTo{Key: tuple, Set: "dead"}, Unreachable(f)),
			NewRule("", Lookup{Key: Key{CTSrc(f, Reply)}, Set: "addrs"}, Bits(MetaMark, 0xff, 0x12), Goto("other")),
			NewRule("", Equal(CTSrc(f, Original), addr.AsSlice()), Equal(MetaL4Proto, []byte{6}), Range{Op: CTProtoDst(Reply), From: Port(80), To: Port(90)}, Jump("other")),
			NewRule("", Equal(MetaPriority, U32(7)), Equal(MetaIIFName, Name("lo")), Accept),
			NewRule("", Equal(MetaIIFKind, Name("bridge")), Accept),
			NewRule("", Equal(MetaL4Proto, []byte{6}), Lookup{Key: Key{DstPort}, Set: "ports"}, Lookup{Key: Key{MetaProtocol}, Set: "until"}, Drop),
		}},
		{Name: "other"},
		{Name: "raw", Hook: &Hook{"filter", Output, -300}, Rules: []Rule{NewRule("", Equal(MetaMark, U32(1)), Notrack)}},
		{Name: "nat", Hook: &Hook{"nat", Prerouting, -100}, Rules: []Rule{NewRule("", Equal(MetaL4Proto, []byte{6}), Equal(DstPort, Port(80)), DNAT(addr, 8080))}},
		{Name: "post", Hook: &Hook{"nat", Postrouting, 100}, Rules: []Rule{NewRule("", SNAT(addr, 0)), NewRule("", Masquerade)}},
		{Name: "forwarded", Hook: &Hook{"filter", Forward, 0}, DropPolicy: true},
	}}
}

func TestKernelTakesAllAndNftAgrees(t *testing.T) {
	for _, c := range []struct {
		f Family
		a string
	}{{IPv4, "192.0.2.1"}, {IPv6, "2001:db8::1"}} {
		t.Run(c.f.String(), func(t *testing.T) {
			table := everything(c.f, netip.MustParseAddr(c.a))
			var ours, theirs string
			inScratch(t, func() {
				conn, err := Dial(0)
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				b := new(Batch)
				b.AddTable(table)
				if err := conn.Commit(b); err != nil {
					t.Error(err)
					return
				}
				ours = nft(t, "", "list", "ruleset")
			})
			inScratch(t, func() {
				nft(t, table.String(), "-f", "-")
				theirs = nft(t, "", "list", "ruleset")
			})
			ours = dropElements(ours)
			if ours != theirs {
				t.Errorf("ours:\n%s\nnft made of our text:\n%s\nour text:\n%s", ours, theirs, table)
			}
		})
	}
}

// nft(8) must be able to list what stands, whatever is in it: 1.0.6 ends with a
// failed assertion when it cannot tell how long a part of a key is, and knows no
// more than five parts.
func TestNftListsElements(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.1").AsSlice()
	header := Key{Src(IPv4), SrcPort, Dst(IPv4), DstPort}
	inScratch(t, func() {
		conn, err := Dial(0)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		table := &Table{Family: IPv4, Name: "t", Owned: true}
		for _, first := range []Operand{CTID, TCPAck, MetaL4Proto} {
			key := append(Key{first}, header...)
			table.Sets = append(table.Sets, &Set{Name: "s" + strconv.Itoa(len(table.Sets)), Key: key.Types(), Elements: []Element{
				{Key: Concat(U32(1 << 24)[:first.Type().Len], addr, Port(1), addr, Port(2))},
			}})
		}
		b := new(Batch)
		b.AddTable(table)
		if err := conn.Commit(b); err != nil {
			t.Error(err)
			return
		}
		if text := nft(t, "", "list", "ruleset"); strings.Count(text, "192.0.2.1 . 1 . 192.0.2.1 . 2") != len(table.Sets) {
			t.Errorf("nft lists\n%s", text)
		}
	})
}

// Where the kernel says nothing, as to a batch whose beginning is not whole,
// nobody waits without end: a fence would stand meanwhile.
func TestNoAnswer(t *testing.T) {
	inScratch(t, func() {
		conn, err := Dial(0)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		began := time.Now()
		err = conn.nl.Batch([]rtnl.Message{{Type: unix.NFNL_MSG_BATCH_BEGIN, Flags: unix.NLM_F_ACK}})
		if took := time.Since(began); err == nil || took > 10*time.Second {
			t.Errorf("error %v after %v", err, took)
		}
	})
}

// dropElements removes the elements, which the text form only counts.
func dropElements(s string) string {
	var out []string
	for l := range strings.Lines(s) {
		if !strings.Contains(l, "elements = {") {
			out = append(out, l)
		}
	}
	return strings.Join(out, "")
}
