package conntrack

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Config says where a [Client] works. The zero value is the network namespace
// of the calling thread.
type Config struct {
	// NetNS is an open descriptor of a network namespace, such as of
	// /run/netns/NAME. 0: that of the thread that calls Dial, or, where /proc is
	// not mounted, that of each thread that calls the Client. Dial duplicates
	// it; the caller may close it afterwards. Another namespace than the
	// process's own needs CAP_SYS_ADMIN.
	NetNS int
}

// Client talks to the connection tracking of one network namespace.
//
// Its methods may be called at once from several goroutines; each call uses a
// socket of its own. A long dump is received by a goroutine, which ends with it.
type Client struct {
	ns     *netNS
	rcvbuf int // for tests: size of the sockets' receive queue

	mu     sync.Mutex
	closed bool
	idle   []*conn
	busy   map[*conn]struct{}
}

// maxIdle is how many sockets wait for the next call.
const maxIdle = 2

// Dial opens a client. Needs CAP_NET_ADMIN in the namespace for nearly
// everything afterwards; the kernel says so then.
func Dial(c Config) (*Client, error) {
	ns, err := openNetNS(c.NetNS)
	if err != nil {
		return nil, fmt.Errorf("conntrack: open network namespace: %w", err)
	}
	cl := &Client{ns: ns, busy: make(map[*conn]struct{})}
	first, err := cl.take()
	if err != nil {
		return nil, errors.Join(err, ns.close())
	}
	cl.put(first)
	return cl, nil
}

// Close closes the client and its listeners. Calls under way return [ErrClosed].
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	c.closed = true
	var errs []error
	for _, s := range c.idle {
		errs = append(errs, s.close())
	}
	for s := range c.busy {
		errs = append(errs, s.close())
	}
	c.idle = nil
	return errors.Join(append(errs, c.ns.close())...)
}

// take returns a socket with nothing under way, an idle or a new one.
func (c *Client) take() (*conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	if n := len(c.idle); n > 0 {
		s := c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.busy[s] = struct{}{}
		return s, nil
	}
	return c.dial(c.rcvbuf)
}

// open returns a new socket with a receive queue of rcvbuf bytes, to be dropped.
func (c *Client) open(rcvbuf int) (*conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	return c.dial(rcvbuf)
}

// dial returns a new socket, which is busy. c.mu is held.
func (c *Client) dial(rcvbuf int) (*conn, error) {
	s, err := c.ns.dial(rcvbuf)
	if err != nil {
		return nil, fmt.Errorf("conntrack: open netlink socket: %w", err)
	}
	c.busy[s] = struct{}{}
	return s, nil
}

// put gives a socket back whose answers were all received.
func (c *Client) put(s *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.busy, s)
	if !c.closed && len(c.idle) < maxIdle {
		c.idle = append(c.idle, s)
		return
	}
	_ = s.close() // nothing is lost with it
}

// drop closes a socket that may have answers under way.
func (c *Client) drop(s *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.busy, s)
	_ = s.close() // nothing is lost with it
}

// with runs f with a socket of its own. On an error that is not the kernel's
// answer the socket is not used again.
func (c *Client) with(op string, f func(*conn) error) error {
	s, err := c.take()
	if err != nil {
		return err
	}
	err = f(s)
	if err == nil || isAnswer(err) {
		c.put(s)
		return err
	}
	c.drop(s)
	return wrap(op, err)
}

// isAnswer tells whether err is the kernel's complete answer to a request.
func isAnswer(err error) bool {
	_, ok := errors.AsType[*Error](err)
	return ok
}

// wrap names the operation that failed; ErrClosed says enough.
func wrap(op string, err error) error {
	if errors.Is(err, ErrClosed) {
		return ErrClosed
	}
	return fmt.Errorf("conntrack: %s: %w", op, err)
}

// roundTrip sends the one request in s.out and hands every message of the
// answer to each until the kernel has finished. stop ends it early: then the
// socket has answers under way.
func (s *conn) roundTrip(ctx context.Context, op, of string, each func(h header, payload []byte) (stop bool, err error)) error {
	return s.exchange(ctx, op, of, s.receive, each)
}

// exchange is roundTrip with another way to receive.
func (s *conn) exchange(
	ctx context.Context, op, of string,
	receive func(context.Context) ([]byte, error),
	each func(h header, payload []byte) (stop bool, err error),
) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.send(s.out); err != nil {
		return err
	}
	for {
		b, err := receive(ctx)
		if err != nil {
			return err
		}
		for len(b) > 0 {
			h, payload, rest, err := nextMessage(b)
			if err != nil {
				return err
			}
			b = rest
			if h.seq != s.seq {
				continue
			}
			if h.typ == msgError || h.typ == msgDone {
				a, err := parseAnswer(h, payload)
				if err != nil {
					return err
				}
				return newError(op, of, a)
			}
			if stop, err := each(h, payload); stop || err != nil {
				return err
			}
		}
	}
}

// request begins the one request of a round trip in s.out.
func (s *conn) request(typ msgType, flags msgFlags, f Family, version uint8) {
	s.seq++
	s.out, _ = beginMessage(s.out[:0], header{typ, flags, s.seq}, f, version)
}

// seal completes the request.
func (s *conn) seal() { s.out = endMessage(s.out, 0) }

// noMessage is for requests that are answered by an acknowledgement alone.
func noMessage(header, []byte) (bool, error) { return false, nil }

// Get returns the entry that has t as its original or reply tuple in zone z.
//
// Errors: [os.ErrNotExist] if there is none.
func (c *Client) Get(ctx context.Context, t Tuple, z Zone) (Flow, error) {
	if err := t.validate(); err != nil {
		return Flow{}, fmt.Errorf("conntrack: get %v: %w", t, err)
	}
	var f Flow
	err := c.with("get", func(s *conn) error {
		s.request(msgGet, flagAck, t.Family(), versionPlain)
		s.out = appendTuple(s.out, attrTupleOrig, &t, 0, false)
		s.out = appendUint16(s.out, attrZone, uint16(z))
		s.seal()
		return s.roundTrip(ctx, "get", ofTuple(t, z), func(_ header, b []byte) (bool, error) {
			attrs, err := attributes(b)
			if err != nil {
				return false, err
			}
			return false, parseFlow(attrs, &f)
		})
	})
	return f, err
}

// ofTuple names a tuple in an error.
func ofTuple(t Tuple, z Zone) string {
	if z == 0 {
		return t.String()
	}
	return fmt.Sprintf("%v zone %d", t, z)
}
