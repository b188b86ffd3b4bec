//go:build linux

package lab

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Raw is the kind of an end that sends packets of an IP protocol.
const Raw Kind = 33

// Packets says what an end of a protocol without sockets of its own sends; To
// and Proto are needed.
type Packets struct {
	To    netip.Addr
	Proto int
	Head  []byte         // first bytes of each packet; a number and zeros follow
	Seal  func(b []byte) // writes a checksum, nil: none
	Rate  int            // a second, 0: none
}

const rawTail = 8 + 8 // number and zeros behind Packets.Head

// RawEnd makes one end of a flow of such packets. It counts those that come
// from To with as many bytes before their number. Its socket is connected, so
// that it can be told by ICMP.
func (h *Host) RawEnd(ctx context.Context, p Packets) (*End, error) {
	const some = 1 // port, which means nothing; a socket without one has no peer
	conn, err := h.connect(ctx, unix.SOCK_RAW, p.Proto, netip.AddrPort{}, netip.AddrPortFrom(p.To, some))
	if err != nil {
		return nil, err
	}
	e, err := h.lab.newEnd(Raw, conn)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	loops := []func() error{func() error { return e.receiveRaw(len(p.Head)) }}
	if p.Rate > 0 {
		loops = append(loops, func() error { return e.sendRaw(p) })
	}
	e.start(loops...)
	return e, nil
}

// receiveRaw counts packets until the socket is closed.
func (e *End) receiveRaw(head int) error {
	buf := make([]byte, 2048)
	for {
		n, err := e.conn.ReadContext(context.Background(), buf)
		if err = cause(err); err != nil {
			if fatal(err) {
				return nil
			}
			e.tell(err)
			continue
		}
		b := buf[:n]
		if e.Remote.Addr().Is4() && n >= 20 {
			b = b[int(b[0]&0xf)*4:] // the kernel hands the IP header on
		}
		if len(b) == head+rawTail && e.numbers.first(binary.BigEndian.Uint64(b[head:])) {
			e.Received.add(len(b))
		}
	}
}

// sendRaw sends numbered packets.
func (e *End) sendRaw(p Packets) error {
	tick := time.NewTicker(interval(p.Rate))
	defer tick.Stop()
	for number := uint64(1); ; number++ {
		select {
		case <-e.pause:
			return nil
		case <-e.lab.ctx.Done():
			return nil
		case <-tick.C:
		}
		b := append(append([]byte(nil), p.Head...), make([]byte, rawTail)...)
		binary.BigEndian.PutUint64(b[len(p.Head):], number)
		if p.Seal != nil {
			p.Seal(b)
		}
		if _, err := e.conn.WriteContext(context.Background(), b); err != nil {
			if err = cause(err); fatal(err) {
				return nil
			}
			e.tell(err)
			continue
		}
		e.Sent.add(len(b))
	}
}

// UDPLite makes both ends of a flow of UDP-Lite, whose packets the client's
// host sends to a port of the server's and the other way. from is where the
// server sees the client, whose port must be kept on the way.
func (h *Host) UDPLite(ctx context.Context, server *Host, from, to netip.AddrPort, rate int) (Ends, error) {
	var ends Ends
	for _, x := range []struct {
		host        *Host
		local, peer netip.AddrPort
	}{
		{h, netip.AddrPortFrom(unspecified(to.Addr()), from.Port()), to},
		{server, netip.AddrPortFrom(unspecified(to.Addr()), to.Port()), from},
	} {
		conn, err := x.host.connect(ctx, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE, x.local, x.peer)
		if err != nil {
			return nil, err
		}
		e, err := h.lab.newEnd(Datagram, conn)
		if err != nil {
			_ = conn.Close()
			return nil, err
		}
		ends = append(ends, e)
	}
	for _, e := range ends {
		if err := e.startDatagrams(greeting{kind: Datagram}, interval(rate), 0); err != nil {
			return nil, err
		}
	}
	return ends, nil
}

func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// SealSCTP writes the checksum of an SCTP packet (RFC 9260, appendix A).
func SealSCTP(b []byte) {
	const at = 8
	binary.LittleEndian.PutUint32(b[at:], 0)
	binary.LittleEndian.PutUint32(b[at:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

// TCP flags.
const (
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpACK = 0x10
)

// segment is a TCP header without options behind its ports.
func segment(ports []byte, flags byte, window uint16, seq, ack uint32) []byte {
	b := binary.BigEndian.AppendUint32(ports, seq)
	b = binary.BigEndian.AppendUint32(b, ack)
	b = append(b, 5<<4, flags)
	b = binary.BigEndian.AppendUint16(b, window)
	return append(b, 0, 0, 0, 0)
}

// Packet is a packet of the addresses' family; the kernel fills an IPv4 header's
// checksum, length and number in. Of TCP and UDP the checksum is written.
func Packet(src, dst netip.Addr, proto byte, payload []byte) []byte {
	const ttl = 64
	b := []byte{4<<4 | 5, 0, 0, 0, 0, 0, 0, 0, ttl, proto, 0, 0}
	if src.Is6() {
		b = []byte{6 << 4, 0, 0, 0, byte(len(payload) >> 8), byte(len(payload)), proto, ttl}
	}
	addrs := len(b)
	b = append(append(append(b, src.AsSlice()...), dst.AsSlice()...), payload...)
	at, known := map[byte]int{unix.IPPROTO_TCP: 16, unix.IPPROTO_UDP: 6}[proto]
	if !known {
		return b
	}
	body := b[len(b)-len(payload):]
	sum := uint32(proto) + uint32(len(body))
	for i, v := range b[addrs:] { // addresses, then the payload; both begin at an even place
		sum += uint32(v) << (8 * (1 - i%2))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(body[at:], ^uint16(sum))
	return b
}

// Inject sends IPv4 packets as they are, with whatever source they have.
func (h *Host) Inject(ctx context.Context, packets ...[]byte) error {
	conn, err := h.open(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing was buffered
	for _, b := range packets {
		dst := netip.AddrFrom4([4]byte(b[16:20]))
		if err := conn.Sendto(ctx, b, 0, sockaddr(netip.AddrPortFrom(dst, 0))); err != nil {
			return fmt.Errorf("lab: %s: inject a packet to %s: %w", h.Name, dst, err)
		}
	}
	return nil
}
