//go:build linux

package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Kind is what happens on a connection; the client chooses and the server
// learns it from the first bytes.
type Kind uint8

// Kinds. Of all of them both ends keep reading, so that each is told at once.
const (
	Download Kind = iota + 1 // server sends as fast as it can
	Upload                   // client sends as fast as it can
	Idle                     // nobody says a word
	Speak                    // server says a byte at random moments, Interval apart on average
	Talk                     // client says a byte every Interval, server says it back
	Request                  // one question, one answer, closed by the client
	Datagram                 // UDP, at the rates of [Datagrams]
	Echo                     // ICMP echo requests
)

const (
	bulk      = 128 << 10 // bytes a call while loaded
	small     = 256       // bytes a call otherwise
	hello     = 24        // bytes that begin a connection
	magic     = 0xfc1ab000
	dialling  = 64 // connections set up at once
	backlog   = 65535
	helloWait = 30 * time.Second // for the first bytes of an accepted connection
)

// greeting is what a client says first: four bytes that show it is one, the
// kind, the connection's number and, in nanoseconds, the interval.
type greeting struct {
	kind     Kind
	id       uint64
	interval time.Duration
}

func (g greeting) bytes() []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, hello), magic|uint32(g.kind))
	b = binary.BigEndian.AppendUint64(b, g.id)
	b = binary.BigEndian.AppendUint64(b, uint64(g.interval))
	return b[:hello]
}

func parseGreeting(b []byte) (greeting, error) {
	if len(b) < hello {
		return greeting{}, fmt.Errorf("lab: greeting has %d bytes, not %d", len(b), hello)
	}
	first := binary.BigEndian.Uint32(b)
	if first&^0xff != magic {
		return greeting{}, fmt.Errorf("lab: greeting begins with %#x", first)
	}
	return greeting{
		kind:     Kind(first & 0xff),
		id:       binary.BigEndian.Uint64(b[4:]),
		interval: time.Duration(binary.BigEndian.Uint64(b[12:])),
	}, nil
}

// Streams says which connections to make; Kind and To are needed.
type Streams struct {
	Kind     Kind
	To       netip.AddrPort
	Count    int            // 0: one
	Interval time.Duration  // of Speak and Talk, 0: 100 ms
	Local    netip.AddrPort // bind to it; port 0 lets the kernel choose
}

// Dial makes TCP connections from the host to a [Server] of the same lab, and
// returns the clients' ends when all of them are known to both sides.
func (h *Host) Dial(ctx context.Context, s Streams) (Ends, error) {
	ends := make(Ends, max(1, s.Count))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(dialling)
	for i := range ends {
		group.Go(func() (err error) {
			ends[i], err = h.dial(ctx, s)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		for _, e := range ends {
			if e != nil {
				e.Close()
			}
		}
		return nil, err
	}
	return ends, nil
}

func (h *Host) dial(ctx context.Context, s Streams) (*End, error) {
	g := greeting{kind: s.Kind, id: h.lab.number(), interval: s.Interval}
	if g.interval == 0 {
		g.interval = 100 * time.Millisecond
	}
	conn, err := h.connect(ctx, unix.SOCK_STREAM, 0, s.Local, s.To)
	if err != nil {
		return nil, err
	}
	answer := make([]byte, 1)
	if _, err = conn.WriteContext(ctx, g.bytes()); err == nil {
		_, err = conn.ReadContext(ctx, answer)
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("lab: %s: greet %s: %w", h.Name, s.To, err)
	}
	e, err := h.lab.newEnd(s.Kind, conn)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	e.peer = h.lab.peer(g.id)
	e.startClient(g.interval)
	return e, nil
}

func (e *End) startClient(interval time.Duration) {
	switch e.Kind {
	case Upload:
		e.start(e.read, e.load)
	case Talk:
		e.start(e.read, func() error { return e.every(func() time.Duration { return interval }) })
	default:
		e.start(e.read)
	}
}

func (e *End) startServer(g greeting) {
	switch e.Kind {
	case Download:
		e.start(e.read, e.load)
	case Speak:
		random := rand.New(rand.NewPCG(g.id, uint64(g.interval)))
		e.start(e.read, func() error {
			return e.every(func() time.Duration { return time.Duration(random.ExpFloat64() * float64(g.interval)) })
		})
	case Talk:
		e.start(e.answer)
	default:
		e.start(e.read)
	}
}

// read takes what comes until the connection ends, and closes the socket then.
func (e *End) read() error {
	defer e.Close()
	size := small
	if e.Kind == Download || e.Kind == Upload {
		size = bulk
	}
	buf := make([]byte, size)
	for {
		n, err := e.conn.Read(buf)
		if n > 0 {
			e.Received.add(n)
		}
		if err != nil {
			return cause(err)
		}
	}
}

// answer says back what comes.
func (e *End) answer() error {
	defer e.Close()
	buf := make([]byte, small)
	for {
		n, err := e.conn.Read(buf)
		if err != nil {
			return cause(err)
		}
		e.Received.add(n)
		n, err = e.conn.Write(buf[:n])
		if n > 0 {
			e.Sent.add(n)
		}
		if err != nil {
			return cause(err)
		}
	}
}

// load sends as fast as the connection takes it.
func (e *End) load() error {
	buf := make([]byte, bulk)
	for !e.quiet.Load() {
		n, err := e.conn.Write(buf)
		if n > 0 {
			e.Sent.add(n)
		}
		if err != nil {
			return cause(err)
		}
	}
	return nil
}

// every sends a byte, waits as long as next says, and so on.
func (e *End) every(next func() time.Duration) error {
	timer := time.NewTimer(next())
	defer timer.Stop()
	for {
		select {
		case <-e.pause:
			return nil
		case <-e.lab.ctx.Done():
			return nil
		case <-timer.C:
		}
		if _, err := e.conn.Write([]byte{'.'}); err != nil {
			return cause(err)
		}
		e.Sent.add(1)
		timer.Reset(next())
	}
}

// cause strips the names of calls and files off an error of a socket.
func cause(err error) error {
	var errno unix.Errno
	switch {
	case errors.As(err, &errno):
		return errno
	case errors.Is(err, io.EOF):
		return io.EOF
	case errors.Is(err, os.ErrClosed):
		return os.ErrClosed
	}
	return err
}
