package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
)

// Neighbours answer at once or not at all, as far as probes go: those that are
// missing are asked for again with the next round.
const (
	waitEach  = 50 * time.Millisecond  // for a next hop's first answer
	waitTotal = 500 * time.Millisecond // for all that do not answer
)

// link sends packets to next hops, past all rules.
type link struct {
	fd     int // AF_PACKET; -1: none here
	rt     rtnl
	spd    policies
	to     unix.SockaddrLinklayer
	waited time.Duration

	policy [2]*policy // of IPv4 and IPv6, once read
	routes map[flow]found
	hops   map[hop]*station
	ll     *linkLocal
}

// flow is what decides the way of a packet. Where rules look at nothing but
// the destination the rest is zero.
type flow struct {
	dst, src     netip.Addr
	mark         uint32
	proto        conntrack.Proto
	sport, dport uint16
}

// found is the outcome of a look-up.
type found struct {
	route
	err error
}

// hop is a neighbour on a device.
type hop struct {
	dev  int
	addr netip.Addr
}

// station is how a next hop is reached.
type station struct {
	known bool
	asked bool
	halen uint8
	addr  [8]byte
}

func openLink() (*link, error) {
	l := &link{fd: -1, routes: map[flow]found{}, hops: map[hop]*station{}}
	var err error
	if l.rt, err = openRTNL(); err != nil {
		return nil, err
	}
	if l.spd, err = openPolicies(); err != nil {
		return nil, errors.Join(err, l.rt.close())
	}
	// Protocol 0: nothing is received.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return l, nil
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("probe: open a packet socket: %w", err), l.close())
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20) // room only
	l.fd = fd
	return l, nil
}

func (l *link) close() error {
	err := errors.Join(l.rt.close(), l.spd.close())
	if l.fd >= 0 {
		err = errors.Join(err, unix.Close(l.fd))
	}
	return err
}

// Why a packet cannot leave by the link layer.
var (
	errNoPackets = errors.New("no packet sockets in this kernel")
	errEncrypted = errors.New("IPsec policies may ask for encryption")
	errLocal     = errors.New("is this host's own address")
)

// send sends a packet to the next hop of its route. It returns an error where
// that cannot be done or must not, and has sent nothing then.
func (l *link) send(t Target, scope int, packet []byte) error {
	if l.fd < 0 {
		return errNoPackets
	}
	switch encrypts, err := l.spd.encrypt(); {
	case err != nil:
		return err
	case encrypts:
		return errEncrypted
	}
	rt, err := l.way(t, scope)
	if err != nil {
		return err
	}
	if rt.local {
		return errLocal
	}
	s, err := l.station(hop{rt.dev, rt.hop})
	if err != nil {
		return err
	}
	proto := uint16(unix.ETH_P_IP)
	if t.End.Src.Is6() {
		proto = unix.ETH_P_IPV6
	}
	l.to = unix.SockaddrLinklayer{Protocol: networkOrder(proto), Ifindex: rt.dev, Halen: s.halen, Addr: s.addr}
	err = unix.Sendto(l.fd, packet, 0, &l.to)
	if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOBUFS) {
		l.forget() // devices may have gone
	}
	if err != nil {
		return fmt.Errorf("send to neighbour %s on device %d: %w", rt.hop, rt.dev, err)
	}
	return nil
}

// forget drops what is known of routes and neighbours.
func (l *link) forget() {
	clear(l.routes)
	clear(l.hops)
}

// networkOrder returns a number whose bytes in memory are big-endian.
func networkOrder(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

// station finds out how a next hop is reached.
func (l *link) station(h hop) (*station, error) {
	s := l.hops[h]
	if s == nil {
		s = &station{}
		l.hops[h] = s
	}
	if s.known {
		return s, nil
	}
	n, err := l.rt.neighbour(h.dev, h.addr)
	if err != nil {
		return nil, err
	}
	if n.state&nudValid == 0 {
		if set, err := l.withoutNeighbours(s, h); set || err != nil {
			return s, err
		}
		if n, err = l.ask(s, h, n); err != nil {
			return nil, err
		}
	} else if n.state&unix.NUD_STALE != 0 {
		_ = l.rt.resolve(h.dev, h.addr) // the kernel makes sure of it, as for any packet
	}
	return s, s.set(n.addr)
}

// ask has a neighbour asked for that is missing, and waits for its answer when
// that is the first time.
func (l *link) ask(s *station, h hop, n neighbour) (neighbour, error) {
	const poll = time.Millisecond / 4
	if n.state&unix.NUD_INCOMPLETE == 0 { // nobody is asking
		if err := l.rt.resolve(h.dev, h.addr); err != nil {
			return n, err
		}
	}
	began := time.Now()
	for !s.asked && l.waited < waitTotal && time.Since(began) < waitEach {
		var err error
		if n, err = l.rt.neighbour(h.dev, h.addr); err != nil || n.state&nudValid != 0 {
			return n, err
		}
		time.Sleep(poll) // the kernel tells of neighbours' answers, but to ask costs less than to listen
	}
	if !s.asked {
		l.waited += time.Since(began)
	}
	s.asked = true
	return n, fmt.Errorf("neighbour %s on device %d does not answer: %w", h.addr, h.dev, unix.EHOSTUNREACH)
}

// withoutNeighbours says how packets are addressed on a device that asks for
// no neighbours, and whether it is one.
func (l *link) withoutNeighbours(s *station, h hop) (bool, error) {
	d, err := l.rt.device(h.dev)
	if err != nil || d.flags&unix.IFF_NOARP == 0 && len(d.addr) > 0 {
		return false, err
	}
	if d.kind == unix.ARPHRD_ETHER {
		return true, s.set(d.addr) // arp_constructor and ndisc_constructor do the same
	}
	return true, s.set(make([]byte, len(d.addr)))
}

// set takes down the link-layer address.
func (s *station) set(addr []byte) error {
	if len(addr) > len(s.addr) {
		return fmt.Errorf("a link-layer address of %d bytes", len(addr)) // InfiniBand
	}
	s.known, s.halen = true, uint8(copy(s.addr[:], addr))
	return nil
}
