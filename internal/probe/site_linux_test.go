package probe_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/fence"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/probe"
)

// site is the standard network without rules, and a prober on its gateway.
type site struct {
	*lab.Topology
	route *netlink.Handle // of the gateway
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{Topology: labtest.Standard(t, lab.Config{NoRules: true, Servers: 1})}
	var err error
	if s.route, err = netlink.NewHandleAt(vnetns.NsHandle(s.Gateway.NS.Fd()), unix.NETLINK_ROUTE, unix.NETLINK_XFRM); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.route.Close)
	return s
}

// prober opens one on the gateway.
func (s *site) prober(t testing.TB) *probe.Prober {
	t.Helper()
	var p *probe.Prober
	err := s.Gateway.NS.Do(func() (err error) {
		p, err = probe.Open(fence.Tag)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// nft runs nft(8) on the gateway.
func (s *site) nft(t testing.TB, args ...string) string {
	t.Helper()
	var out []byte
	err := s.Gateway.NS.Do(func() (err error) {
		out, err = exec.Command("nft", args...).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("nft %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// refuse makes the gateway's output rules refuse all, and counts that, until
// the test ends.
func (s *site) refuse(t testing.TB) {
	t.Helper()
	s.nft(t, "add table inet user; add chain inet user output { type filter hook output priority 0; policy drop; }; "+
		"add rule inet user output meta l4proto icmpv6 icmpv6 type != 1 accept; add rule inet user output counter")
	t.Cleanup(func() { s.nft(t, "delete table inet user") })
}

// tuple is that of packets from a to b.
func tuple(a, b netip.Addr) conntrack.Tuple {
	return conntrack.Tuple{Src: a, Dst: b, Proto: conntrack.ProtoTCP, SrcPort: 5201, DstPort: 40000}
}

// target is the end at a station of a flow with other.
func target(a, other netip.Addr) probe.Target {
	return probe.Target{End: tuple(a, other), Other: other}
}

// addrs returns a station's addresses.
func addrs(s *lab.Station) []netip.Addr { return []netip.Addr{s.Addr4, s.Addr6} }

// ear hears packets that arrive at a host.
type ear struct{ fd int }

// listen hears packets that come into a host from now on.
func listen(t *testing.T, h *lab.Host) *ear {
	t.Helper()
	e := &ear{}
	err := h.NS.Do(func() (err error) {
		e.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(bigEndian(unix.ETH_P_ALL)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(e.fd) })
	tv := unix.NsecToTimeval(int64(2 * time.Second))
	if err := unix.SetsockoptTimeval(e.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		t.Fatal(err)
	}
	return e
}

func bigEndian(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// packet is one that arrived.
type packet struct {
	src, dst netip.Addr
	proto    conntrack.Proto
	body     []byte
}

// hear waits for a packet of the flow to an end, and checks its checksum.
func (e *ear) hear(t *testing.T, end conntrack.Tuple) packet {
	t.Helper()
	b := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(e.fd, b, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatalf("nothing came for %v: %v", end, err)
		}
		if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		p := parse(b[:n])
		if p.src != end.Dst || p.dst != end.Src || p.proto == conntrack.ProtoTCP && binary.BigEndian.Uint16(p.body) != end.DstPort {
			continue // with both ends at one address that may be the answer
		}
		if s := p.sum(); s != 0xffff {
			t.Errorf("checksum of a packet to %v: the sum is %#x", end, s)
		}
		return p
	}
}

func parse(b []byte) (p packet) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		p.src, _ = netip.AddrFromSlice(b[12:16])
		p.dst, _ = netip.AddrFromSlice(b[16:20])
		p.proto, p.body = conntrack.Proto(b[9]), b[20:]
	case len(b) >= 40 && b[0]>>4 == 6:
		p.src, _ = netip.AddrFromSlice(b[8:24])
		p.dst, _ = netip.AddrFromSlice(b[24:40])
		p.proto, p.body = conntrack.Proto(b[6]), b[40:]
	}
	return p
}

// sum is what the checksum makes 0xffff.
func (p packet) sum() uint16 {
	b := append([]byte{}, p.body...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	if p.proto != conntrack.ProtoICMP {
		b = append(append(b, p.src.AsSlice()...), p.dst.AsSlice()...)
		b = append(b, 0, byte(p.proto), byte(len(p.body)>>8), byte(len(p.body)))
	}
	var s uint32
	for ; len(b) > 0; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// segment describes a TCP segment, and what an ICMP error is about.
func (p packet) String() string {
	switch p.proto {
	case conntrack.ProtoTCP:
		be := binary.BigEndian
		return fmt.Sprintf("tcp %d > %d flags %#x seq %d ack %d",
			be.Uint16(p.body), be.Uint16(p.body[2:]), p.body[13], be.Uint32(p.body[4:]), be.Uint32(p.body[8:]))
	case conntrack.ProtoICMP, conntrack.ProtoICMPv6:
		about := parse(p.body[8:])
		return fmt.Sprintf("icmp %d/%d about %s > %s proto %d", p.body[0], p.body[1], about.src, about.dst, about.proto)
	}
	return fmt.Sprintf("proto %d", p.proto)
}
