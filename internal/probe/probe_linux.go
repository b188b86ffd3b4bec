// Package probe sends segments that make an end of a connection speak, or
// tell it that the connection is over.
package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
)

// Prober sends from sockets in one network namespace. Needs CAP_NET_RAW.
// It is not safe for concurrent use.
type Prober struct {
	fd4, fd6 int
	buf      []byte
}

// Open opens the sockets in the calling thread's namespace. Packets carry the
// priority as SO_PRIORITY, by which rules know them.
func Open(priority int) (*Prober, error) {
	fd4, err := open(unix.AF_INET, priority)
	if err != nil {
		return nil, err
	}
	fd6, err := open(unix.AF_INET6, priority)
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, errors.Join(err, unix.Close(fd4))
	}
	return &Prober{fd4: fd4, fd6: fd6}, nil
}

func open(family, priority int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
	if err != nil {
		return -1, fmt.Errorf("probe: open a raw socket: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20) // room only
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, priority); err != nil {
		return -1, errors.Join(fmt.Errorf("probe: set the socket's priority: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// Close closes the sockets.
func (p *Prober) Close() error {
	err := unix.Close(p.fd4)
	if p.fd6 >= 0 {
		err = errors.Join(err, unix.Close(p.fd6))
	}
	return err
}

// Target is an end of a flow, and how packets get to it.
type Target struct {
	End   conntrack.Tuple // of the packets that the end sends: what is sent to it has the tuple turned round
	Other netip.Addr      // where the other end of the flow is, as the gateway routes to it
	Mark  uint32          // the flow's connection mark, for policy routing; 0: none
}

// Way is how a packet leaves the gateway.
type Way uint8

const (
	// Routed sends by the gateway's own routing, through its output rules.
	Routed Way = iota
	// Forwarded sends as packets of the other end are routed, past all rules.
	Forwarded
)

// TCP flags of the segments.
const (
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

// Ack sends a bare ACK with impossible numbers: a live end answers with an ACK
// that has the right ones (RFC 9293, 3.10.7.4).
func (p *Prober) Ack(t Target, w Way) error {
	return p.segment(t, w, flagACK, rand.Uint32(), rand.Uint32())
}

// Syn sends a SYN, to an end that was the responder. It passes hosts that drop
// what does not fit a connection. One without a connection answers with a
// reset, or with a SYN-ACK where somebody listens; either acknowledges isn+1.
func (p *Prober) Syn(t Target, w Way, isn uint32) error {
	return p.segment(t, w, flagSYN, isn, 0)
}

// SynAck sends a SYN-ACK, to an end that was the originator. One without a
// connection answers with a reset whose sequence number is ack.
func (p *Prober) SynAck(t Target, w Way, ack uint32) error {
	return p.segment(t, w, flagSYN|flagACK, rand.Uint32(), ack)
}

// Reset sends a reset. A connection takes it when seq is the number that it
// expects next.
func (p *Prober) Reset(t Target, w Way, seq uint32) error {
	return p.segment(t, w, flagRST, seq, 0)
}

func (p *Prober) segment(t Target, w Way, flags byte, seq, ack uint32) error {
	const size, window = 20, 1024
	end := t.End
	p.header(end, unix.IPPROTO_TCP, size)
	tcp := len(p.buf)
	p.buf = binary.BigEndian.AppendUint16(p.buf, end.DstPort)
	p.buf = binary.BigEndian.AppendUint16(p.buf, end.SrcPort)
	p.buf = binary.BigEndian.AppendUint32(p.buf, seq)
	p.buf = binary.BigEndian.AppendUint32(p.buf, ack)
	p.buf = append(p.buf, size/4<<4, flags)
	p.buf = binary.BigEndian.AppendUint16(p.buf, window)
	p.buf = append(p.buf, 0, 0, 0, 0)
	binary.BigEndian.PutUint16(p.buf[tcp+16:], checksum(end.Dst, end.Src, unix.IPPROTO_TCP, p.buf[tcp:]))
	return p.send(t, w)
}

// header begins a packet to the end with an IP header.
func (p *Prober) header(end conntrack.Tuple, proto byte, payload int) {
	p.buf = appendIP(p.buf[:0], end.Dst, end.Src, proto, payload)
}

func appendIP(b []byte, src, dst netip.Addr, proto byte, payload int) []byte {
	const ttl, dontFragment = 64, 0x4000
	if src.Is6() {
		b = append(b, 6<<4, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(payload))
		b = append(b, proto, ttl)
		return append(append(b, src.AsSlice()...), dst.AsSlice()...)
	}
	start := len(b)
	b = append(b, 4<<4|5, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(20+payload))
	b = binary.BigEndian.AppendUint16(b, uint16(rand.Uint32()))
	b = binary.BigEndian.AppendUint16(b, dontFragment)
	b = append(b, ttl, proto, 0, 0)
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(b[start+10:], fold(sum(0, b[start:])))
	return b
}

// Unreachable sends an ICMP port unreachable about the packets that the end
// sends, as the host that it sends them to.
func (p *Prober) Unreachable(t Target, w Way) error {
	end := t.End
	quoted := quote(end)
	icmp := append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, quoted...) // type, code, checksum, unused
	proto := byte(unix.IPPROTO_ICMP)
	if end.Src.Is6() {
		icmp[0], icmp[1] = 1, 4
		proto = unix.IPPROTO_ICMPV6
		binary.BigEndian.PutUint16(icmp[2:], checksum(end.Dst, end.Src, proto, icmp))
	} else {
		binary.BigEndian.PutUint16(icmp[2:], fold(sum(0, icmp)))
	}
	p.header(end, proto, len(icmp))
	p.buf = append(p.buf, icmp...)
	return p.send(t, w)
}

// quote is the start of a packet that the end sends: IP header and eight bytes.
func quote(end conntrack.Tuple) []byte {
	const size = 8
	b := appendIP(nil, end.Src, end.Dst, byte(end.Proto), size)
	switch end.Proto {
	case conntrack.ProtoICMP, conntrack.ProtoICMPv6:
		b = append(b, end.ICMPType, end.ICMPCode, 0, 0)
		b = binary.BigEndian.AppendUint16(b, end.ICMPID)
		return append(b, 0, 0)
	default:
		b = binary.BigEndian.AppendUint16(b, end.SrcPort)
		b = binary.BigEndian.AppendUint16(b, end.DstPort)
		return append(b, 0, size, 0, 0)
	}
}

func (p *Prober) send(t Target, _ Way) error {
	dst := t.End.Src
	var to unix.Sockaddr
	fd := p.fd4
	if dst.Is6() {
		fd, to = p.fd6, &unix.SockaddrInet6{Addr: dst.As16()}
	} else {
		to = &unix.SockaddrInet4{Addr: dst.As4()}
	}
	if err := unix.Sendto(fd, p.buf, 0, to); err != nil {
		return fmt.Errorf("probe: send to %s: %w", dst, err)
	}
	return nil
}

// checksum is that of TCP, UDP and ICMPv6, with the pseudo header.
func checksum(src, dst netip.Addr, proto byte, payload []byte) uint16 {
	s := sum(sum(0, src.AsSlice()), dst.AsSlice())
	return fold(sum(s+uint32(proto)+uint32(len(payload)), payload))
}

func sum(s uint32, b []byte) uint32 {
	for len(b) >= 2 {
		s += uint32(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}
