package probe

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
)

// Prober sends from sockets in one network namespace. Needs CAP_NET_RAW; with
// CAP_NET_ADMIN packets carry marks, and addresses of neighbours can be asked
// for. It is not safe for concurrent use.
//
// Packets wait until there are enough for a call, or until [Prober.Flush]. All
// that are sent at once keep to a rate that their receivers can bear.
type Prober struct {
	raw4, raw6 *rawSocket
	link       *link
	pace       pacer
	tag        tag
	queue      [most]packet
	waiting    int // how many of queue
	refused    map[kind]bool
}

// kind is what output rules tell packets of ours apart by.
type kind struct {
	six   bool
	proto conntrack.Proto
}

// Outcome is called once for a packet, by the time Flush returns: whether it
// left past all rules of this host, so that none of them has seen it leave; or
// why it could not leave. That wraps the errno of the send, EPERM where rules of
// this host refuse the packet, ENOBUFS or EAGAIN where there was no room for it
// for long, and tells why no other way was left. It must not use the Prober.
type Outcome func(pastRules bool, err error)

// Open opens the sockets in the calling thread's namespace. Packets that pass
// rules carry the mark as SO_PRIORITY, its upper half as ID of an IPv4 header and
// its lower 20 bits as flow label of an IPv6 header: the rules know them by that.
func Open(mark int) (*Prober, error) {
	p := &Prober{tag: tag(mark), pace: pacer{patience: mostPatience}, refused: map[kind]bool{}}
	var err error
	if p.raw4, err = openRaw(unix.AF_INET, mark, &p.pace); err != nil {
		return nil, err
	}
	if p.raw6, err = openRaw(unix.AF_INET6, mark, &p.pace); err == nil {
		p.link, err = openLink(&p.pace)
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Close closes the sockets. What waits is not sent.
func (p *Prober) Close() error {
	var err error
	for _, raw := range []*rawSocket{p.raw4, p.raw6} {
		if raw != nil {
			err = errors.Join(err, unix.Close(raw.fd))
		}
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

// TCP flags of the segments.
const (
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

// Ack sends a bare ACK with impossible numbers: a live end answers with an ACK
// that has the right ones (RFC 9293, 3.10.7.4).
func (p *Prober) Ack(t Target, w Way, done Outcome) {
	p.segment(t, w, flagACK, rand.Uint32(), rand.Uint32(), done)
}

// Syn sends a SYN, to an end that was the responder. It passes hosts that drop
// what does not fit a connection. One without a connection answers with a
// reset, or with a SYN-ACK where somebody listens; either acknowledges isn+1.
func (p *Prober) Syn(t Target, w Way, isn uint32, done Outcome) {
	p.segment(t, w, flagSYN, isn, 0, done)
}

// SynAck sends a SYN-ACK, to an end that was the originator. One without a
// connection answers with a reset whose sequence number is ack.
func (p *Prober) SynAck(t Target, w Way, ack uint32, done Outcome) {
	p.segment(t, w, flagSYN|flagACK, rand.Uint32(), ack, done)
}

// Reset sends a reset. A connection takes it when seq is the number that it
// expects next (RFC 5961, 3.2).
func (p *Prober) Reset(t Target, w Way, seq uint32, done Outcome) {
	p.segment(t, w, flagRST, seq, 0, done)
}

func (p *Prober) segment(t Target, w Way, flags byte, seq, ack uint32, done Outcome) {
	const size, window = 20, 1024
	end := &t.End
	b := appendIP(p.next(), p.tag, end.Dst, end.Src, unix.IPPROTO_TCP, size)
	tcp := len(b)
	b = binary.BigEndian.AppendUint16(b, end.DstPort)
	b = binary.BigEndian.AppendUint16(b, end.SrcPort)
	b = binary.BigEndian.AppendUint32(b, seq)
	b = binary.BigEndian.AppendUint32(b, ack)
	b = append(b, size/4<<4, flags)
	b = binary.BigEndian.AppendUint16(b, window)
	b = append(b, 0, 0, 0, 0)
	binary.BigEndian.PutUint16(b[tcp+16:], checksum(end.Dst, end.Src, unix.IPPROTO_TCP, b[tcp:]))
	p.add(t, w, conntrack.ProtoTCP, b, done)
}

// Unreachable sends an ICMP port unreachable about the packets that the end
// sends, as the host that it sends them to.
func (p *Prober) Unreachable(t Target, w Way, done Outcome) {
	end := &t.End
	quoted := quote(*end)
	icmp := append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, quoted...) // type, code, checksum, unused
	proto := conntrack.ProtoICMP
	if end.Src.Is6() {
		icmp[0], icmp[1] = 1, 4
		proto = conntrack.ProtoICMPv6
		binary.BigEndian.PutUint16(icmp[2:], checksum(end.Dst, end.Src, byte(proto), icmp))
	} else {
		binary.BigEndian.PutUint16(icmp[2:], fold(sum(0, icmp)))
	}
	b := appendIP(p.next(), p.tag, end.Dst, end.Src, byte(proto), len(icmp))
	p.add(t, w, proto, append(b, icmp...), done)
}
