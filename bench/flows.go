//go:build linux

package main

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"time"

	"flowcut/conntrack"
)

// server is where a tenth of all flows are translated to.
const server = "192.168.1.100"

// targets is how many of n flows are translated to server.
func targets(n int) int { return n / 10 }

// kind is a sort of flow: the first flows of each hundred that are not
// translated are of the first kind, and so on.
type kind struct {
	percent int
	six     bool
	proto   conntrack.Proto
	port    uint16
	state   conntrack.TCPState
	status  conntrack.Status
}

const both = conntrack.StatusSeenReply | conntrack.StatusAssured

// kinds are the flows that are not translated: 90 in a hundred, 18 of them IPv6.
var kinds = []kind{
	{44, false, conntrack.ProtoTCP, 443, conntrack.TCPEstablished, both},
	{6, false, conntrack.ProtoTCP, 80, conntrack.TCPTimeWait, both},
	{12, false, conntrack.ProtoUDP, 443, 0, both},
	{6, false, conntrack.ProtoUDP, 53, 0, conntrack.StatusSeenReply},
	{4, false, conntrack.ProtoICMP, 0, 0, conntrack.StatusSeenReply},
	{11, true, conntrack.ProtoTCP, 443, conntrack.TCPEstablished, both},
	{5, true, conntrack.ProtoUDP, 53, 0, conntrack.StatusSeenReply},
	{2, true, conntrack.ProtoICMPv6, 0, 0, conntrack.StatusSeenReply},
}

// perClient is how many flows of a table have the same client.
const perClient = 64

// lifetime is longer than any run: nothing expires.
const lifetime = 24 * time.Hour

var (
	serverAddr = netip.MustParseAddr(server)
	public     = netip.MustParseAddr("203.0.113.1")   // the gateway's own, where the server is reached
	remote     = netip.MustParseAddr("198.51.100.20") // what the other flows are for
	remoteSix  = netip.MustParseAddr("2001:db8:ffff::20")
)

// flow makes f flow i of a table.
func flow(i int, f *conntrack.Flow) {
	*f = conntrack.Flow{Has: conntrack.AttrStatus, Timeout: lifetime}
	if i%10 == 0 {
		f.Has |= conntrack.AttrReply
		f.Status = both | conntrack.StatusDstNAT
		f.Orig = tuple(i, false, conntrack.ProtoTCP, 443)
		f.Orig.Dst = public
		f.Reply = f.Orig.Invert()
		f.Reply.Src = serverAddr
		setState(f, conntrack.TCPEstablished)
		return
	}
	k := kindOf(i)
	f.Status = k.status
	f.Orig = tuple(i, k.six, k.proto, k.port)
	if k.proto == conntrack.ProtoTCP {
		setState(f, k.state)
	}
}

func setState(f *conntrack.Flow, s conntrack.TCPState) {
	f.Has |= conntrack.AttrTCP
	f.TCP = conntrack.TCP{State: s, OrigFlags: conntrack.TCPWindowScale, ReplyFlags: conntrack.TCPWindowScale}
}

// kindOf returns the kind of flow i, which is not translated.
func kindOf(i int) kind {
	rank := i%100 - i%100/10 - 1 // among those of its hundred that are not
	for _, k := range kinds {
		if rank < k.percent {
			return k
		}
		rank -= k.percent
	}
	panic("kinds are less than 90 in a hundred")
}

// tuple returns the original tuple of flow i, which no other has.
func tuple(i int, six bool, p conntrack.Proto, port uint16) conntrack.Tuple {
	t := conntrack.Tuple{Src: client(i/perClient, six), Dst: remote, Proto: p}
	if six {
		t.Dst = remoteSix
	}
	number := uint16(32768 + i%perClient)
	switch p {
	case conntrack.ProtoICMP:
		t.ICMPType, t.ICMPID = 8, number // echo request
	case conntrack.ProtoICMPv6:
		t.ICMPType, t.ICMPID = 128, number // echo request
	default:
		t.SrcPort, t.DstPort = number, port
	}
	return t
}

// client returns the address of client n.
func client(n int, six bool) netip.Addr {
	if six {
		a := netip.MustParseAddr("2001:db8::").As16()
		binary.BigEndian.PutUint32(a[12:], uint32(n+1))
		return netip.AddrFrom16(a)
	}
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], 10<<24+uint32(n+1))
	return netip.AddrFrom4(a)
}

// flows yields every step-th of n flows.
func flows(n, step int) iter.Seq[*conntrack.Flow] {
	return func(yield func(*conntrack.Flow) bool) {
		var f conntrack.Flow
		for i := 0; i < n; i += step {
			if flow(i, &f); !yield(&f) {
				return
			}
		}
	}
}
