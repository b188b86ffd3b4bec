package conntrack

import (
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestNames: what String prints, the parser reads, for every value there is.
func TestNames(t *testing.T) {
	for i := range 256 {
		n := uint8(i)
		if s := TCPState(n).String(); !reads(ParseTCPState, s, TCPState(n)) {
			t.Errorf("TCP state %d: %q", n, s)
		}
		if s := SCTPState(n).String(); !reads(ParseSCTPState, s, SCTPState(n)) {
			t.Errorf("SCTP state %d: %q", n, s)
		}
		if s := DCCPState(n).String(); !reads(ParseDCCPState, s, DCCPState(n)) {
			t.Errorf("DCCP state %d: %q", n, s)
		}
		if s := Proto(n).String(); !reads(ParseProto, s, Proto(n)) {
			t.Errorf("protocol %d: %q", n, s)
		}
	}
	for i := range 32 {
		s := Status(1<<i | 1)
		if !reads(ParseStatus, s.String(), s) {
			t.Errorf("status %#x: %q", uint32(s), s)
		}
	}
	for _, f := range []Family{FamilyBoth, FamilyIPv4, FamilyIPv6} {
		if !reads(ParseFamily, f.String(), f) {
			t.Errorf("family %d: %q", f, f)
		}
	}
}

func reads[T comparable](parse func(string) (T, error), s string, want T) bool {
	got, err := parse(s)
	return err == nil && got == want
}

func TestNamesOfTheKernel(t *testing.T) {
	for want, got := range map[string]string{
		"ESTABLISHED":                           TCPEstablished.String(),
		"SYN_SENT2":                             TCPSynSent2.String(),
		"SHUTDOWN_ACK_SENT":                     SCTPShutdownAckSent.String(),
		"PARTOPEN":                              DCCPPartOpen.String(),
		"SEEN_REPLY,ASSURED,HW_OFFLOAD":         (StatusSeenReply | StatusAssured | StatusHWOffload).String(),
		"CONFIRMED,0x10000":                     (StatusConfirmed | 1<<16).String(),
		"SACK_PERM,BE_LIBERAL":                  TCPFlags(0x0a).String(),
		"udplite":                               ProtoUDPLite.String(),
		"200":                                   Proto(200).String(),
		"ipv6":                                  FamilyIPv6.String(),
		"tcp 10.0.0.1:1 -> 10.0.0.2:2":          parsed("tcp").String(),
		"sctp [::1]:1 -> [::2]:2":               parsed("sctp").String(),
		"gre 10.0.0.1 -> 10.0.0.2 keys 0x7 0x8": parsed("gre").String(),
		"icmp 10.0.0.1 -> 10.0.0.2 type 8 code 0 id 77":     parsed("icmp").String(),
		"50 10.0.0.1 -> 10.0.0.2":                           parsed("50").String(),
		"tcp 10.0.0.1:1 -> 10.0.0.2:2 zone 3 id 4294967295": Key{parsed("tcp"), 3, 1<<32 - 1}.String(),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for name, parse := range map[string]func(string) error{
		"TCP state":  func(s string) error { _, err := ParseTCPState(s); return err },
		"SCTP state": func(s string) error { _, err := ParseSCTPState(s); return err },
		"DCCP state": func(s string) error { _, err := ParseDCCPState(s); return err },
		"protocol":   func(s string) error { _, err := ParseProto(s); return err },
		"status":     func(s string) error { _, err := ParseStatus(s); return err },
		"family":     func(s string) error { _, err := ParseFamily(s); return err },
	} {
		for _, s := range []string{"FOO", "-1", "256000000000", "0x1ffffffff", " tcp", "ASSURED,"} {
			if err := parse(s); err == nil || !strings.Contains(err.Error(), "no such "+name) {
				t.Errorf("%s %q: %v", name, s, err)
			}
		}
	}
}

// parsed returns the tuple of the examples for a protocol.
func parsed(p string) Tuple {
	proto, _ := ParseProto(p)
	switch proto {
	case ProtoICMP:
		return icmp(proto, "10.0.0.1", "10.0.0.2", 8, 77)
	case ProtoGRE:
		t := portless(proto, "10.0.0.1", "10.0.0.2")
		t.SrcPort, t.DstPort = 7, 8
		return t
	case ProtoSCTP:
		return tuple(proto, "[::1]:1", "[::2]:2")
	case ProtoTCP:
		return tuple(proto, "10.0.0.1:1", "10.0.0.2:2")
	}
	return portless(proto, "10.0.0.1", "10.0.0.2")
}

func TestStatusNames(t *testing.T) {
	for want, s := range map[string]Status{
		"EXPECTED": StatusExpected, "SEEN_REPLY": StatusSeenReply, "ASSURED": StatusAssured,
		"CONFIRMED": StatusConfirmed, "SRC_NAT": StatusSrcNAT, "DST_NAT": StatusDstNAT,
		"SEQ_ADJUST": StatusSeqAdjust, "SRC_NAT_DONE": StatusSrcNATDone, "DST_NAT_DONE": StatusDstNATDone,
		"DYING": StatusDying, "FIXED_TIMEOUT": StatusFixedTimeout, "TEMPLATE": StatusTemplate,
		"NAT_CLASH": StatusNATClash, "HELPER": StatusHelper, "OFFLOAD": StatusOffload, "HW_OFFLOAD": StatusHWOffload,
	} {
		if s.String() != want {
			t.Errorf("%#x: %q, want %q", uint32(s), s, want)
		}
	}
}

func TestInvert(t *testing.T) {
	for want, in := range map[Tuple]Tuple{
		tuple(ProtoTCP, "10.0.0.2:2", "10.0.0.1:1"):     tuple(ProtoTCP, "10.0.0.1:1", "10.0.0.2:2"),
		icmp(ProtoICMP, "10.0.0.2", "10.0.0.1", 0, 5):   icmp(ProtoICMP, "10.0.0.1", "10.0.0.2", 8, 5),
		icmp(ProtoICMP, "10.0.0.2", "10.0.0.1", 14, 5):  icmp(ProtoICMP, "10.0.0.1", "10.0.0.2", 13, 5),
		icmp(ProtoICMP, "10.0.0.2", "10.0.0.1", 18, 5):  icmp(ProtoICMP, "10.0.0.1", "10.0.0.2", 17, 5),
		icmp(ProtoICMPv6, "fe80::2", "fe80::1", 129, 5): icmp(ProtoICMPv6, "fe80::1", "fe80::2", 128, 5),
		icmp(ProtoICMPv6, "fe80::2", "fe80::1", 139, 5): icmp(ProtoICMPv6, "fe80::1", "fe80::2", 140, 5),
		portless(ProtoGRE, "10.0.0.2", "10.0.0.1"):      portless(ProtoGRE, "10.0.0.1", "10.0.0.2"),
	} {
		if got := in.Invert(); got != want {
			t.Errorf("%v inverted: %v, want %v", in, got, want)
		}
		if got := in.Invert().Invert(); got != in {
			t.Errorf("%v inverted twice: %v", in, got)
		}
	}
}

func TestLabels(t *testing.T) {
	var l Labels
	for _, n := range []int{0, 7, 8, 127} {
		if err := l.Set(n); err != nil {
			t.Fatal(err)
		}
	}
	if want := (Labels{0: 0x81, 1: 0x01, 15: 0x80}); l != want {
		t.Fatalf("labels %x, want %x", l, want)
	}
	for _, n := range []int{-1, 128} {
		if err := l.Set(n); err == nil || l.Test(n) {
			t.Errorf("label %d: %v", n, err)
		}
	}
	if !l.Test(127) || l.Test(126) {
		t.Errorf("Test(127) %v, Test(126) %v", l.Test(127), l.Test(126))
	}
}

func TestErrors(t *testing.T) {
	err := error(&Error{Op: "update", Of: "tcp", Errno: syscall.EBUSY, Text: "no way", Offset: 20})
	if want := "conntrack: update tcp: " + syscall.EBUSY.Error() + ": no way (at byte 20 of the request)"; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	if !errors.Is(err, syscall.EBUSY) || errors.Is(err, os.ErrNotExist) {
		t.Error("the error does not unwrap to its errno")
	}
	err = &NotSupportedError{Feature: "flush of one family", Kernel: "5.3"}
	if want := "conntrack: not supported by this kernel: flush of one family, needs Linux 5.3"; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	if !errors.Is(err, ErrNotSupported) || errors.Is(err, ErrClosed) {
		t.Error("the error is not ErrNotSupported")
	}
}

// nativeInt32 is numbers in the order of this machine.
func nativeInt32(numbers ...int32) []byte {
	var b []byte
	for _, n := range numbers {
		b = binary.NativeEndian.AppendUint32(b, uint32(n))
	}
	return b
}

func TestParseAnswer(t *testing.T) {
	tests := map[string]struct {
		h    header
		b    []byte
		want answer
		err  string
	}{
		"success": {header{typ: msgError}, make([]byte, 20), answer{}, ""},
		"capped, with words": {
			header{typ: msgError, flags: flagCapped | flagAckTLVs},
			slices.Concat(nativeInt32(-int32(syscall.EINVAL), 99, 0, 0, 0), // nlmsg_len 99
				appendAttr(nil, 1, []byte("bad\x00")), // NLMSGERR_ATTR_MSG
				appendAttr(nil, 2, nativeInt32(24))),  // NLMSGERR_ATTR_OFFS
			answer{syscall.EINVAL, "bad", 24}, "",
		},
		"whole, with words": {
			header{typ: msgError, flags: flagAckTLVs},
			append(nativeInt32(-int32(syscall.ENOENT), 20, 0, 0, 0, 0), appendAttr(nil, 1, []byte("now\x00"))...),
			answer{syscall.ENOENT, "now", 0}, "",
		},
		"done":          {header{typ: msgDone}, make([]byte, 4), answer{}, ""},
		"short":         {header{typ: msgError}, make([]byte, 3), answer{}, "struct nlmsgerr: 3 bytes, want 4"},
		"positive":      {header{typ: msgError}, nativeInt32(1), answer{}, "errno out of range: 1"},
		"no such errno": {header{typ: msgDone}, nativeInt32(-4096), answer{}, "errno out of range: -4096"},
		"words cut off": {
			header{typ: msgError, flags: flagCapped | flagAckTLVs},
			append(nativeInt32(-int32(syscall.EINVAL), 99, 0, 0, 0), appendAttr(nil, 1, []byte("cut off\x00"))[:8]...),
			answer{}, "extended ack attribute 1: 12 bytes, 8 left",
		},
		"cut off": {
			header{typ: msgError, flags: flagAckTLVs}, nativeInt32(-int32(syscall.ENOENT), 99, 0, 0, 0),
			answer{}, "request in struct nlmsgerr cut off",
		},
	}
	for name, tt := range tests {
		got, err := parseAnswer(tt.h, tt.b)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}
