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

// Prober sends from sockets in one network namespace. Needs CAP_NET_RAW; with
// CAP_NET_ADMIN packets carry marks, and addresses of neighbours can be asked
// for. It is not safe for concurrent use.
type Prober struct {
	raw4, raw6 rawSocket
	link       *link
	buf        []byte
	refused    map[kind]bool
	past       bool
}

// kind is what output rules tell packets of ours apart by.
type kind struct {
	six   bool
	proto conntrack.Proto
}

// Open opens the sockets in the calling thread's namespace. Packets that pass
// rules carry the priority as SO_PRIORITY, by which the rules know them.
func Open(priority int) (*Prober, error) {
	p := &Prober{refused: map[kind]bool{}}
	p.raw6.fd = -1
	var err error
	if p.raw4, err = openRaw(unix.AF_INET, priority); err != nil {
		return nil, err
	}
	p.raw6, err = openRaw(unix.AF_INET6, priority)
	if err == nil || errors.Is(err, unix.EAFNOSUPPORT) {
		p.link, err = openLink()
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Close closes the sockets.
func (p *Prober) Close() error {
	err := unix.Close(p.raw4.fd)
	if p.raw6.fd >= 0 {
		err = errors.Join(err, unix.Close(p.raw6.fd))
	}
	if p.link != nil {
		err = errors.Join(err, p.link.close())
	}
	return err
}

// Target is an end of a flow, and how packets get to it.
type Target struct {
	// End is the tuple of the packets that the end sends: what is sent to it
	// has the tuple turned round.
	End conntrack.Tuple
	// Other is where the other end of the flow is, as the gateway routes to
	// it: rules on sources and devices are followed by it. The source of the
	// packets is End.Dst all the same.
	Other netip.Addr
	// Mark is the flow's connection mark, for rules on marks. 0: none.
	Mark uint32
}

// Way is how a packet leaves the gateway.
type Way uint8

const (
	// Routed sends by the gateway's own routing, with the mark and the source
	// of the flow, through its output rules. Packets that these refuse leave as
	// Forwarded.
	Routed Way = iota
	// Forwarded sends as packets of the other end are routed, to the next
	// hop's link-layer address, past all rules. Where there is none, or where
	// packets must not leave in plain text, they leave as Routed.
	Forwarded
)

// Ways returns the ways that packets to an end may have to take: one, unless
// rules of routing may send this host's own packets elsewhere than forwarded ones.
func (p *Prober) Ways(t Target) []Way {
	rules, err := p.link.rules(t.End.Src.Is6())
	if err != nil || rules.any {
		return []Way{Routed, Forwarded}
	}
	return []Way{Routed}
}

// PastRules tells whether the last packet left past all rules of this host, so
// that none of them has seen it leave.
func (p *Prober) PastRules() bool { return p.past }

// TCP flags of the segments.
const (
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

// Ack sends a bare ACK with impossible numbers: a live end answers with an ACK
// that has the right ones (RFC 9293, 3.10.7.4).
//
// Errors of this and the other kinds wrap the errno of the send, EPERM where
// rules of this host refuse the packet, and tell why no other way was left.
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
// expects next (RFC 5961, 3.2).
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
	return p.send(t, w, conntrack.ProtoTCP)
}

// header begins a packet to the end with an IP header.
func (p *Prober) header(end conntrack.Tuple, proto byte, payload int) {
	p.buf = appendIP(p.buf[:0], end.Dst, end.Src, proto, payload)
}

// Unreachable sends an ICMP port unreachable about the packets that the end
// sends, as the host that it sends them to.
func (p *Prober) Unreachable(t Target, w Way) error {
	end := t.End
	quoted := quote(end)
	icmp := append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, quoted...) // type, code, checksum, unused
	proto := conntrack.ProtoICMP
	if end.Src.Is6() {
		icmp[0], icmp[1] = 1, 4
		proto = conntrack.ProtoICMPv6
		binary.BigEndian.PutUint16(icmp[2:], checksum(end.Dst, end.Src, byte(proto), icmp))
	} else {
		binary.BigEndian.PutUint16(icmp[2:], fold(sum(0, icmp)))
	}
	p.header(end, byte(proto), len(icmp))
	p.buf = append(p.buf, icmp...)
	return p.send(t, w, proto)
}

// send sends the packet in buf.
func (p *Prober) send(t Target, w Way, proto conntrack.Proto) error {
	k := kind{t.End.Src.Is6(), proto}
	scope, err := p.link.scope(t)
	if err != nil {
		return fmt.Errorf("probe: send to %s: %w", t.End.Src, err)
	}
	var linkErr error
	if w == Forwarded || p.refused[k] {
		if linkErr = p.link.send(t, scope, p.buf); linkErr == nil {
			p.past = true
			return nil
		}
	}
	p.past = false
	raw := &p.raw4
	if k.six {
		raw = &p.raw6
	}
	err = raw.send(t, scope, p.buf)
	if errors.Is(err, unix.EPERM) && linkErr == nil {
		if linkErr = p.link.send(t, scope, p.buf); linkErr == nil {
			p.refused[k], p.past = true, true // the next one need not try
			return nil
		}
	}
	switch {
	case err == nil:
		return nil
	case linkErr == nil || errors.Is(linkErr, err): // the same either way
		return fmt.Errorf("probe: send to %s: %w", t.End.Src, err)
	}
	return fmt.Errorf("probe: send to %s: %w, and past the output rules: %w", t.End.Src, err, linkErr)
}
