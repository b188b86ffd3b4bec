package probe

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"flowcut/internal/rtnl"
)

// rawSocket sends whole packets by the host's own routing.
type rawSocket struct {
	outbox
	marks bool // may set marks
}

// openRaw returns nil for a family that the kernel does not have.
func openRaw(family, priority int, pace *pacer) (*rawSocket, error) {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("probe: open a raw socket: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20) // room only
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, priority); err != nil {
		return nil, errors.Join(fmt.Errorf("probe: set the socket's priority: %w", err), unix.Close(fd))
	}
	if family == unix.AF_INET6 {
		// For sources that are not this host's; without it they are refused, and
		// the packet is sent without.
		_ = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
		_ = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVERR, 1) // as the next one
	} else {
		// Without it nothing says that the device's queue is full.
		_ = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVERR, 1)
	}
	// What a mark for each packet needs is what setting none needs.
	marks := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 0) == nil
	return &rawSocket{outbox: outbox{fd: fd, pace: pace}, marks: marks}, nil
}

// send sends packets as their flows' are routed, as far as mark and source
// decide that; and as any of this host where that leads nowhere. It returns the
// first that could not be sent, with its error.
func (s *rawSocket) send(list []*packet) (int, error) {
	if s == nil {
		return 0, unix.EAFNOSUPPORT
	}
	for _, q := range list {
		q.toHost()
		s.control(q)
	}
	s.load(list)
	for i := 0; ; {
		var err error
		if i, err = s.outbox.send(i); err == nil || errors.Is(err, unix.EPERM) || full(err) || !s.strip(i) {
			return i, err
		}
	}
}

// toHost addresses a packet: struct sockaddr_in or sockaddr_in6.
func (q *packet) toHost() {
	dst := q.t.End.Src
	q.to = binary.NativeEndian.AppendUint16(q.to[:0], uint16(rtnl.Family(dst)))
	q.to = append(q.to, 0, 0) // port
	if dst.Is6() {
		q.to = append(q.to, 0, 0, 0, 0) // sin6_flowinfo
	}
	q.to = append(q.to, dst.AsSlice()...)
	if dst.Is6() {
		q.to = binary.NativeEndian.AppendUint32(q.to, uint32(q.scope))
		return
	}
	q.to = append(q.to, make([]byte, 8)...) // sin_zero
}

// control makes the control messages: the mark, and the source that the route
// is looked up with. The source in the packet is another matter.
func (s *rawSocket) control(q *packet) {
	t := &q.t
	q.control = q.control[:0]
	if t.Mark != 0 && s.marks {
		q.control = appendControl(q.control, unix.SOL_SOCKET, unix.SO_MARK, 4)
		binary.NativeEndian.PutUint32(q.control[unix.CmsgLen(0):], t.Mark)
	}
	if !t.routesBySource() {
		return
	}
	at := len(q.control) + unix.CmsgLen(0)
	if t.Other.Is6() {
		q.control = appendControl(q.control, unix.SOL_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		copy(q.control[at:], t.Other.AsSlice()) // ipi6_addr
		binary.NativeEndian.PutUint32(q.control[at+16:], uint32(q.scope))
		return
	}
	q.control = appendControl(q.control, unix.SOL_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
	copy(q.control[at+4:], t.Other.AsSlice()) // ipi_spec_dst
}

// routesBySource tells whether the other end's address is one that packets
// can be routed with.
func (t *Target) routesBySource() bool {
	o := t.Other
	return o.IsValid() && o.Is6() == t.End.Src.Is6() && !o.IsUnspecified() && !o.IsMulticast() && !o.IsLoopback() &&
		!(o.Is6() && o.IsLinkLocalUnicast())
}

// appendControl appends a control message with room for its data.
func appendControl(b []byte, level, kind, size int) []byte {
	start := len(b)
	b = append(b, make([]byte, unix.CmsgSpace(size))...)
	h := b[start:]
	if unix.SizeofPtr == 8 {
		binary.NativeEndian.PutUint64(h, uint64(unix.CmsgLen(size)))
	} else {
		binary.NativeEndian.PutUint32(h, uint32(unix.CmsgLen(size)))
	}
	binary.NativeEndian.PutUint32(h[unix.SizeofPtr:], uint32(level))
	binary.NativeEndian.PutUint32(h[unix.SizeofPtr+4:], uint32(kind))
	return b
}
