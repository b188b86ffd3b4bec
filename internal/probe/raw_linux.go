package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// rawSocket sends whole packets by the host's own routing.
type rawSocket struct {
	fd    int
	marks bool // may set marks
	oob   []byte
	to4   unix.SockaddrInet4
	to6   unix.SockaddrInet6
}

func openRaw(family, priority int) (rawSocket, error) {
	none := rawSocket{fd: -1}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
	if err != nil {
		return none, fmt.Errorf("probe: open a raw socket: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20) // room only
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, priority); err != nil {
		return none, errors.Join(fmt.Errorf("probe: set the socket's priority: %w", err), unix.Close(fd))
	}
	if family == unix.AF_INET6 {
		// For sources that are not this host's; without it they are refused, and
		// the packet is sent without.
		_ = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
	}
	// What a mark for each packet needs is what setting none needs.
	marks := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 0) == nil
	return rawSocket{fd: fd, marks: marks}, nil
}

// send sends a packet as the flow's packets are routed, as far as mark and
// source decide that; and as any packet of this host where that leads nowhere.
func (s *rawSocket) send(t Target, scope int, packet []byte) error {
	if s.fd < 0 {
		return unix.EAFNOSUPPORT
	}
	s.control(t, scope)
	if len(s.oob) > 0 {
		err := s.sendto(t.End.Src, scope, packet, s.oob)
		if err == nil || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) {
			return err
		}
	}
	return s.sendto(t.End.Src, scope, packet, nil)
}

func (s *rawSocket) sendto(dst netip.Addr, scope int, packet, oob []byte) error {
	var to unix.Sockaddr
	if dst.Is6() {
		s.to6 = unix.SockaddrInet6{Addr: dst.As16(), ZoneId: uint32(scope)}
		to = &s.to6
	} else {
		s.to4 = unix.SockaddrInet4{Addr: dst.As4()}
		to = &s.to4
	}
	_, err := unix.SendmsgN(s.fd, packet, oob, to, 0)
	return err
}

// control makes the control messages: the mark, and the source that the route
// is looked up with. The source in the packet is another matter.
func (s *rawSocket) control(t Target, scope int) {
	s.oob = s.oob[:0]
	if t.Mark != 0 && s.marks {
		s.oob = appendControl(s.oob, unix.SOL_SOCKET, unix.SO_MARK, 4)
		binary.NativeEndian.PutUint32(s.oob[unix.CmsgLen(0):], t.Mark)
	}
	if !t.routesBySource() {
		return
	}
	at := len(s.oob) + unix.CmsgLen(0)
	if t.Other.Is6() {
		s.oob = appendControl(s.oob, unix.SOL_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		copy(s.oob[at:], t.Other.AsSlice()) // ipi6_addr
		binary.NativeEndian.PutUint32(s.oob[at+16:], uint32(scope))
		return
	}
	s.oob = appendControl(s.oob, unix.SOL_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
	copy(s.oob[at+4:], t.Other.AsSlice()) // ipi_spec_dst
}

// routesBySource tells whether the other end's address is one that packets
// can be routed with.
func (t Target) routesBySource() bool {
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
