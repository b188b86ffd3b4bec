//go:build linux

package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
)

const (
	datagramHead   = hello + 8 // greeting and sequence number
	datagramBuffer = 8 << 20   // a burst while nobody reads is no loss
	icmpHead       = 8
	settled        = 200 * time.Millisecond // without an arrival, nothing is under way any more
)

// Datagrams says what to exchange over UDP; To is needed.
type Datagrams struct {
	To       netip.AddrPort
	Count    int // of flows, 0: one
	Up, Down int // datagrams a second, 0: none after the greeting
	Size     int // bytes of each, at least 32; 0: 256
}

// numbers remembers which sequence numbers came.
type numbers struct {
	mu   sync.Mutex
	seen []uint64
}

// first tells whether n is new, and remembers it.
func (s *numbers) first(n uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n/64 >= uint64(len(s.seen)) {
		s.seen = append(s.seen, 0)
	}
	bit := uint64(1) << (n % 64)
	old := s.seen[n/64] & bit
	s.seen[n/64] |= bit
	return old == 0
}

// missing counts the numbers from 1 to n that have not come.
func (s *numbers) missing(n uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	came := uint64(0)
	for i, word := range s.seen {
		switch first := uint64(i) * 64; {
		case first > n:
			word = 0
		case n-first < 63:
			word &= 1<<(n-first+1) - 1
		}
		came += uint64(bits.OnesCount64(word))
	}
	return n - came
}

// Missing returns how many of the first n datagrams that the other end has sent
// have not come. It may be asked for while more are sent.
func (e *End) Missing(n uint64) uint64 { return e.numbers.missing(n) }

// Exchange starts UDP flows from the host to a [Server] of the same lab, and
// returns the clients' ends when both sides know each other. The sockets of
// both ends are connected, so that either can be told by ICMP.
func (h *Host) Exchange(ctx context.Context, d Datagrams) (Ends, error) {
	ends := make(Ends, max(1, d.Count))
	for i := range ends {
		e, err := h.exchange(ctx, d)
		if err != nil {
			for _, e := range ends[:i] {
				e.Close()
			}
			return nil, err
		}
		ends[i] = e
	}
	return ends, nil
}

func (h *Host) exchange(ctx context.Context, d Datagrams) (*End, error) {
	conn, err := h.connect(ctx, unix.SOCK_DGRAM, 0, netip.AddrPort{}, d.To)
	if err != nil {
		return nil, err
	}
	g := greeting{kind: Datagram, id: h.lab.number(), interval: interval(d.Down)}
	if err := introduce(ctx, conn, g); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("lab: %s: greet %s: %w", h.Name, d.To, err)
	}
	e, err := h.lab.newEnd(Datagram, conn)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	e.peer = h.lab.peer(g.id)
	return e, e.startDatagrams(g, interval(d.Up), d.Size)
}

// interval returns the pause between datagrams, 0 for none at all.
func interval(rate int) time.Duration {
	if rate == 0 {
		return 0
	}
	return time.Second / time.Duration(rate)
}

// introduce repeats the greeting until the server has answered it.
func introduce(ctx context.Context, conn *socket.Conn, g greeting) error {
	word := append(g.bytes(), make([]byte, datagramHead-hello)...) // number 0
	buf := make([]byte, datagramHead)
	for {
		if _, err := conn.Write(word); err != nil {
			return err
		}
		once, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		_, err := conn.ReadContext(once, buf)
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded):
			continue
		default:
			return err
		}
	}
}

// startDatagrams sends from now on at the interval, if it is not 0, and
// counts what comes.
func (e *End) startDatagrams(g greeting, interval time.Duration, size int) error {
	if size == 0 {
		size = 256
	}
	if err := e.conn.SetReadBuffer(datagramBuffer); err != nil {
		e.Close()
		return err
	}
	word := make([]byte, e.skip()+max(size, datagramHead))
	copy(word[e.skip():], g.bytes())
	loops := []func() error{e.receive}
	if interval > 0 {
		loops = append(loops, func() error { return e.pace(interval, word) })
	}
	e.start(loops...)
	return nil
}

// skip returns how many bytes stand before the greeting.
func (e *End) skip() int {
	if e.Kind == Echo {
		return icmpHead
	}
	return 0
}

// receive counts datagrams until the socket is closed.
func (e *End) receive() error {
	buf := make([]byte, 64<<10)
	for {
		n, err := e.conn.ReadContext(context.Background(), buf)
		if err = cause(err); err != nil {
			if fatal(err) {
				return nil
			}
			e.tell(err)
			continue
		}
		if n >= e.skip()+datagramHead {
			e.take(buf[e.skip():n])
		}
	}
}

// take counts a datagram that came.
func (e *End) take(b []byte) {
	n := binary.BigEndian.Uint64(b[hello:])
	switch {
	case n == 0: // the greeting or its answer, once more
	case e.numbers.first(n):
		e.Received.add(len(b))
	default:
		e.Repeated.Add(1)
	}
}

// pace sends numbered datagrams, catching up when the clock ran ahead. One
// that the kernel refuses was not sent: it is tried again.
func (e *End) pace(interval time.Duration, word []byte) error {
	tick := time.NewTicker(max(interval, time.Millisecond))
	defer tick.Stop()
	begin, number := time.Now(), uint64(1)
	for {
		select {
		case <-e.pause:
			return nil
		case <-e.lab.ctx.Done():
			return nil
		case <-tick.C:
		}
		for due := uint64(time.Since(begin) / interval); number <= due && !e.quiet.Load(); number++ {
			e.stamp(word, number)
			if _, err := e.conn.WriteContext(context.Background(), word); err != nil {
				if err = cause(err); fatal(err) {
					return nil
				}
				e.tell(err)
				break
			}
			e.Sent.add(len(word) - e.skip())
		}
	}
}

// stamp writes the number into a datagram, and an ICMP header before it.
func (e *End) stamp(word []byte, number uint64) {
	binary.BigEndian.PutUint64(word[e.skip()+hello:], number)
	if e.Kind != Echo {
		return
	}
	const echo4, echo6 = 8, 128 // ICMP_ECHO, ICMPV6_ECHO_REQUEST
	word[0] = echo4
	if e.Remote.Addr().Is6() {
		word[0] = echo6
	}
	binary.BigEndian.PutUint16(word[6:], uint16(number)) // the kernel sets id and checksum
}

// fatal tells whether nothing more can come of a socket.
func fatal(err error) bool {
	return errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EBADF) || errors.Is(err, io.EOF)
}

// welcome gives every new client a connected socket of its own, and hands on
// what came before that was connected.
func (s *Server) welcome() {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := s.udp.Recvfrom(context.Background(), buf, 0)
		if err = cause(err); err != nil {
			if fatal(err) {
				return
			}
			continue // an ICMP error about an answer
		}
		g, err := parseGreeting(buf[:n])
		if err != nil || n < datagramHead {
			continue
		}
		e := s.host.lab.peer(g.id)
		if e == nil {
			if e, err = s.adopt(g, from); err != nil {
				continue // the client asks again
			}
		}
		if binary.BigEndian.Uint64(buf[hello:]) != 0 {
			e.take(buf[:n])
			continue
		}
		_, _ = e.conn.Write(buf[:datagramHead])
	}
}

// adopt makes the server's end of a UDP flow.
func (s *Server) adopt(g greeting, from unix.Sockaddr) (*End, error) {
	conn, err := s.host.bound(unix.SOCK_DGRAM, s.port)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Connect(context.Background(), from); err != nil {
		_ = conn.Close()
		return nil, err
	}
	e, err := s.host.lab.newEnd(Datagram, conn)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	if err := e.startDatagrams(g, g.interval, 0); err != nil {
		return nil, err
	}
	s.note(g.id, e)
	return e, nil
}

// Ping sends an ICMP echo request every interval and counts the answers.
func (h *Host) Ping(ctx context.Context, to netip.Addr, interval time.Duration) (*End, error) {
	proto := unix.IPPROTO_ICMPV6
	if to.Is4() {
		proto = unix.IPPROTO_ICMP
	}
	// The port means nothing, but without one the socket has no peer.
	conn, err := h.connect(ctx, unix.SOCK_DGRAM, proto, netip.AddrPort{}, netip.AddrPortFrom(to, 1))
	if err != nil {
		return nil, err
	}
	e, err := h.lab.newEnd(Echo, conn)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return e, e.startDatagrams(greeting{kind: Echo}, interval, 0)
}

// Loss is how many datagrams did not arrive: Up on the way from client to
// server, Down on the way back. Of echo requests, Up holds the unanswered.
type Loss struct{ Up, Down uint64 }

// Lost makes both ends of every flow quiet, waits until nothing is under way
// any more, and returns what was lost.
func (es Ends) Lost(ctx context.Context) (Loss, error) {
	ends := slices.Clone(es)
	for _, e := range es {
		if e.peer != nil {
			ends = append(ends, e.peer)
		}
	}
	for _, e := range ends {
		e.Quiet()
	}
	quiet := time.Now()
	err := Until(ctx, "nothing is under way", func() (bool, error) {
		if lost := es.lost(); lost == (Loss{}) {
			return true, nil
		}
		last := ends.LastReceived()
		return time.Since(quiet) > settled && time.Since(last) > settled, nil
	})
	return es.lost(), err
}

func (es Ends) lost() Loss {
	var l Loss
	for _, e := range es {
		if e.peer == nil {
			l.Up += e.Sent.Messages() - e.Received.Messages()
			continue
		}
		l.Up += e.Sent.Messages() - e.peer.Received.Messages()
		l.Down += e.peer.Sent.Messages() - e.Received.Messages()
	}
	return l
}
