package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/rtnl"
)

// Neighbours answer at once or not at all, as far as probes go: those that are
// missing are asked for again with the next round.
const (
	waitEach  = 50 * time.Millisecond  // for a next hop's first answer
	waitTotal = 500 * time.Millisecond // for all that do not answer
	askAgain  = 25 * time.Millisecond  // until a next hop is asked for once more
)

// link sends packets to next hops, past all rules.
type link struct {
	outbox // AF_PACKET; descriptor -1: none here
	ask    kernel
	spd    policies
	waited time.Duration
	full   time.Time // when the kernel had no room for a neighbour

	policy  [2]*policy // of IPv4 and IPv6, once read
	routes  map[flow]found
	others  map[reverse]route // where other ends are
	hops    map[hop]*station
	devices map[int]device
	ll      *linkLocal
}

// hop is a neighbour on a device.
type hop struct {
	dev  int
	addr netip.Addr
}

// station is how a next hop is reached.
type station struct {
	hop    hop
	known  bool
	silent bool      // its answer was waited for
	asked  time.Time // the last time
	halen  uint8
	addr   [8]byte
}

func openLink(pace *pacer) (*link, error) {
	l := &link{outbox: outbox{fd: -1, pace: pace}, routes: map[flow]found{}, others: map[reverse]route{}, hops: map[hop]*station{}, devices: map[int]device{}}
	conn, err := rtnl.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	l.ask = kernel{conn}
	if l.spd, err = openPolicies(); err != nil {
		return nil, errors.Join(err, l.ask.Close())
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
	err := errors.Join(l.ask.Close(), l.spd.close())
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

// send sends packets to the next hops of their routes. Those for which that
// cannot be done or must not have a linkErr then.
func (l *link) send(list []*packet) {
	unable := l.unable()
	if unable == nil {
		l.prepare(list)
	}
	var ready, pending []*packet
	for _, q := range list {
		known, err := false, unable
		if err == nil {
			known, err = l.address(q)
		}
		switch {
		case err != nil:
			q.linkErr = err
		case known:
			ready = append(ready, q)
		default:
			pending = append(pending, q)
		}
	}
	l.transmit(ready)
	l.transmit(l.await(pending))
}

// transmit sends packets that are addressed.
func (l *link) transmit(list []*packet) {
	l.load(list)
	for i := 0; i < len(list); i++ {
		var err error
		if i, err = l.outbox.send(i); err == nil {
			return
		}
		list[i].linkErr = fmt.Errorf("send to a neighbour: %w", err)
		if !full(err) {
			l.forget() // devices may have gone
		}
	}
}

// unable tells why nothing can be sent here.
func (l *link) unable() error {
	if l.fd < 0 {
		return errNoPackets
	}
	encrypts, err := l.spd.encrypt()
	if encrypts {
		return errEncrypted
	}
	return err
}

// address finds out the next hop of a packet and how it is reached. It is not
// known when its answer must be awaited.
func (l *link) address(q *packet) (known bool, err error) {
	rt, err := l.way(&q.t, q.scope)
	if err != nil {
		return false, err
	}
	if rt.local {
		return false, errLocal
	}
	q.next, err = l.station(hop{rt.dev, rt.hop})
	if err != nil || !q.next.known {
		return false, err
	}
	q.toNeighbour()
	return true, nil
}

// toNeighbour addresses a packet: struct sockaddr_ll.
func (q *packet) toNeighbour() {
	s := q.next
	proto := uint16(unix.ETH_P_IP)
	if q.kind.six {
		proto = unix.ETH_P_IPV6
	}
	q.to = binary.NativeEndian.AppendUint16(q.to[:0], unix.AF_PACKET)
	q.to = binary.BigEndian.AppendUint16(q.to, proto)
	q.to = binary.NativeEndian.AppendUint32(q.to, uint32(s.hop.dev))
	q.to = append(q.to, 0, 0, 0, s.halen) // hardware and packet type
	q.to = append(q.to, s.addr[:]...)
}

// forget drops what is known of routes and neighbours.
func (l *link) forget() {
	clear(l.routes)
	clear(l.others)
	clear(l.hops)
	clear(l.devices)
}

// station finds out how a next hop is reached. If it is not known then, its
// answer is to be awaited.
func (l *link) station(h hop) (*station, error) {
	s := l.hops[h]
	if s == nil {
		if len(l.hops) >= mostRoutes {
			clear(l.hops)
		}
		s = &station{hop: h}
		l.hops[h] = s
	}
	if !s.known && time.Since(s.asked) >= askAgain {
		if err := l.find(s); err != nil {
			return nil, err
		}
	}
	if !s.known && (s.silent || l.waited >= waitTotal) {
		return nil, s.noAnswer()
	}
	return s, nil
}

// find looks for a next hop, and has it asked for where it is missing.
func (l *link) find(s *station) error {
	h := s.hop
	n, err := l.ask.neighbour(h.dev, h.addr)
	if err != nil {
		return err
	}
	if n.state&nudValid != 0 {
		if n.state&unix.NUD_STALE != 0 {
			_ = l.ask.resolve(h.dev, h.addr) // the kernel makes sure of it, as for any packet
		}
		return s.set(n.addr)
	}
	if set, err := l.withoutNeighbours(s); set || err != nil {
		return err
	}
	s.asked = time.Now()
	if n.state&unix.NUD_INCOMPLETE != 0 { // the kernel is asking
		return nil
	}
	if time.Since(l.full) < askAgain {
		return s.noAnswer()
	}
	err = l.ask.resolve(h.dev, h.addr)
	if errors.Is(err, unix.ENOBUFS) {
		l.full = time.Now()
	}
	return err
}

func (s *station) noAnswer() error {
	return fmt.Errorf("neighbour %s on device %d does not answer: %w", s.hop.addr, s.hop.dev, unix.EHOSTUNREACH)
}

// await waits for the next hops of packets to answer, and returns the packets
// of those that have.
func (l *link) await(pending []*packet) (ready []*packet) {
	const poll = time.Millisecond / 4
	began := time.Now()
	for len(pending) > 0 {
		var silent []*packet
		for _, q := range pending {
			switch q.linkErr = l.heard(q.next); {
			case q.linkErr != nil:
			case q.next.known:
				q.toNeighbour()
				ready = append(ready, q)
			default:
				silent = append(silent, q)
			}
		}
		if pending = silent; len(pending) == 0 || time.Since(began) >= waitEach {
			break
		}
		time.Sleep(poll) // time itself is meant, the pause between two looks: the kernel tells of neighbours' answers, but to ask costs less than to listen
	}
	for _, q := range pending {
		q.next.silent, q.linkErr = true, q.next.noAnswer()
	}
	l.waited += time.Since(began)
	return ready
}

// heard looks whether a next hop has answered.
func (l *link) heard(s *station) error {
	if s.known {
		return nil
	}
	n, err := l.ask.neighbour(s.hop.dev, s.hop.addr)
	if err != nil || n.state&nudValid == 0 {
		return err
	}
	return s.set(n.addr)
}

// withoutNeighbours says how packets are addressed on a device that asks for
// no neighbours, and whether it is one.
func (l *link) withoutNeighbours(s *station) (bool, error) {
	d, ok := l.devices[s.hop.dev]
	var err error
	if !ok {
		if d, err = l.ask.device(s.hop.dev); err == nil {
			l.devices[s.hop.dev] = d
		}
	}
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
