//go:build linux

package differ

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"flowcut/conntrack"
)

// world is a table of flows, drawn from a number.
type world struct {
	number     uint64
	flows      []*conntrack.Flow // made over netlink
	extra      []*conntrack.Flow // made while events are watched
	timestamps bool              // nf_conntrack_timestamp
	counters   bool              // nf_conntrack_acct, and datagrams that are counted
	ftp        bool              // live control connections, with what they expect
	zoned      bool              // some are in zones
}

// labelNames is the test's own connlabel.conf.
var labelNames = []struct {
	bit  int
	name string
}{{0, "zero"}, {1, "one"}, {5, "eth0-in"}, {31, "edge"}, {40, "forty"}, {127, "last"}}

// labelFile is what connlabel.conf(5) looks like.
func labelFile() string {
	s := "# labels of the test\n"
	for _, l := range labelNames {
		s += fmt.Sprintf("%d\t%s\n", l.bit, l.name)
	}
	return s
}

// drawWorld draws a table.
func drawWorld(number uint64) *world {
	const stream = 1
	d := worldDrawer{Rand: random(number, stream)}
	w := &world{number: number}
	w.timestamps, w.counters, w.ftp = d.IntN(3) == 0, d.IntN(2) == 0, d.IntN(2) == 0
	w.zoned = d.IntN(2) == 0
	d.zoned = w.zoned
	for range 30 + d.IntN(40) {
		w.flows = append(w.flows, d.flow(w.flows))
	}
	for range 4 {
		w.extra = append(w.extra, d.flow(nil))
	}
	return w
}

// worldDrawer draws flows with tuples that are all different.
type worldDrawer struct {
	*rand.Rand
	n     int
	zoned bool
}

// protocols are what flows are of, common ones more often.
var protocols = []conntrack.Proto{6, 6, 6, 6, 17, 17, 17, 136, 132, 132, 1, 1, 47, 200, 50}

// flow draws one flow; master may be one of before.
func (d *worldDrawer) flow(before []*conntrack.Flow) *conntrack.Flow {
	d.n++
	v6 := d.IntN(3) == 0
	f := &conntrack.Flow{Has: conntrack.AttrOrig | conntrack.AttrReply | conntrack.AttrStatus | conntrack.AttrTimeout}
	f.Orig = d.tuple(v6)
	f.Reply = f.Orig.Invert()
	f.Timeout = time.Duration(500+d.IntN(5000)) * time.Second
	f.Status = pick[conntrack.Status](d.Rand, 0, conntrack.StatusSeenReply,
		conntrack.StatusSeenReply|conntrack.StatusAssured, conntrack.StatusSeenReply|conntrack.StatusAssured,
		conntrack.StatusFixedTimeout, conntrack.StatusSeenReply|conntrack.StatusFixedTimeout)
	d.translate(f, v6)
	d.zone(f)
	d.state(f)
	if d.IntN(2) == 0 {
		f.Has |= conntrack.AttrMark
		f.Mark = pick[conntrack.Mark](d.Rand, 1, 5, 5, 0x100, 0x105, 0xdeadbeef)
	}
	if d.IntN(3) == 0 {
		f.Has |= conntrack.AttrLabels
		for range 1 + d.IntN(2) {
			_ = f.Labels.Set(labelNames[d.IntN(len(labelNames))].bit) // all below 128
		}
	}
	if len(before) > 0 && d.IntN(12) == 0 {
		if m := pick(d.Rand, before...); m.Key().Zone == 0 && f.Key().Zone == 0 && m.Orig.Family() == f.Orig.Family() {
			f.Has |= conntrack.AttrMaster
			f.Master = m.Orig
		}
	}
	return f
}

// hosts of each kind, last number counted from 1.
func client(v6 bool, n int) netip.Addr { return address(v6, "10.1.1.", "2001:db8:1::", n) }
func server(v6 bool, n int) netip.Addr { return address(v6, "203.0.113.", "2001:db8:2::", n) }
func inside(v6 bool, n int) netip.Addr { return address(v6, "192.168.7.", "fd00:7::", n) }

func address(v6 bool, four, six string, n int) netip.Addr {
	if v6 {
		return netip.MustParseAddr(fmt.Sprintf("%s%x", six, n))
	}
	return netip.MustParseAddr(fmt.Sprintf("%s%d", four, n))
}

// tuple draws an original tuple.
func (d *worldDrawer) tuple(v6 bool) conntrack.Tuple {
	t := conntrack.Tuple{
		Proto: protocols[d.IntN(len(protocols))],
		Src:   client(v6, 1+d.IntN(4)),
		Dst:   server(v6, 1+d.IntN(3)),
	}
	switch {
	case t.Proto == conntrack.ProtoICMP:
		t.ICMPType, t.ICMPID = 8, uint16(100+d.n)
		if v6 {
			t.Proto, t.ICMPType = conntrack.ProtoICMPv6, 128
		}
	case t.Proto == conntrack.ProtoGRE, t.HasPorts():
		t.SrcPort, t.DstPort = uint16(1000+d.n), pick[uint16](d.Rand, 53, 80, 443, 5060, 21)
	default: // nothing but addresses to tell them apart
		t.Src = client(v6, 100+d.n)
	}
	return t
}

// translate draws what NAT does to the flow.
func (d *worldDrawer) translate(f *conntrack.Flow, v6 bool) {
	const snat, dnat = conntrack.StatusSrcNAT, conntrack.StatusDstNAT
	kind := pick[conntrack.Status](d.Rand, 0, 0, 0, snat, dnat, dnat, snat|dnat)
	if f.Orig.Proto == conntrack.ProtoGRE || !f.Orig.HasPorts() && d.IntN(2) == 0 {
		kind = 0
	}
	f.Status |= kind
	ports := f.Orig.HasPorts() && d.IntN(2) == 0
	if kind&dnat != 0 {
		f.Reply.Src = inside(v6, 1+d.IntN(3))
		if ports {
			f.Reply.SrcPort = 8080
		}
	}
	if kind&snat != 0 {
		f.Reply.Dst = inside(v6, 200+d.IntN(2))
		if !f.Orig.HasPorts() && !f.Orig.IsICMP() {
			f.Reply.Dst = inside(v6, 100+d.n%100)
		}
		if ports {
			f.Reply.DstPort = uint16(20000 + d.n)
		}
	}
	if kind == 0 && d.IntN(12) == 0 && f.Orig.HasPorts() {
		f.Reply.Src = inside(v6, 77) // differs, and is not translated
	}
}

// zone draws the zones of both directions.
func (d *worldDrawer) zone(f *conntrack.Flow) {
	if !d.zoned {
		return
	}
	z := pick[conntrack.Zone](d.Rand, 1, 7, 7)
	switch d.IntN(12) {
	case 0, 1:
		f.Has |= conntrack.AttrZone
		f.Zone = z
	case 2:
		f.Has |= conntrack.AttrOrigZone
		f.OrigZone = z
	case 3:
		f.Has |= conntrack.AttrReplyZone
		f.ReplyZone = z
	}
}

// state draws what belongs to the protocol.
func (d *worldDrawer) state(f *conntrack.Flow) {
	switch f.Orig.Proto {
	case conntrack.ProtoTCP:
		f.Has |= conntrack.AttrTCP
		f.TCP.State = conntrack.TCPState(1 + d.IntN(9))
		f.TCP.OrigFlags, f.TCP.ReplyFlags = conntrack.TCPSackPerm|conntrack.TCPBeLiberal, conntrack.TCPSackPerm|conntrack.TCPBeLiberal
		if f.Orig.DstPort == ftpPort {
			f.Has |= conntrack.AttrHelper
			f.Helper = "ftp"
		}
	case conntrack.ProtoSCTP:
		f.Has |= conntrack.AttrSCTP
		f.SCTP.State = conntrack.SCTPState(1 + d.IntN(7))
		f.SCTP.OrigVTag, f.SCTP.ReplyVTag = uint32(d.n), uint32(1000+d.n)
	}
}
